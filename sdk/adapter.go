package sdk

import (
	"context"
	"fmt"
	"reflect"
	"runtime/debug"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// Logger gives the plugin's logger to a function that runs behind an adapter (ResolverFunc and so on). What is logged
// appears in the kernel's log. With any other context nothing is logged.
func Logger(ctx context.Context) hclog.Logger {
	if log, ok := ctx.Value(loggerKey{}).(hclog.Logger); ok {
		return log
	}
	return hclog.NewNullLogger()
}

type loggerKey struct{}

// settings is what all function adapters share: the configuration in force, and the logger.
type settings[C any] struct {
	log hclog.Logger

	mu      sync.Mutex
	config  C
	changed chan struct{} // closed when config is not in force any more
}

func newSettings[C any]() *settings[C] {
	s := &settings[C]{log: hclog.NewNullLogger(), changed: make(chan struct{})}
	schema := configSchema[C]()
	if err := schema.fill(reflect.ValueOf(&s.config).Elem(), nil); err != nil {
		panic("sdk: defaults of a configuration: " + err.Error())
	}
	return s
}

// options are what Serve takes beside those of its caller.
func (s *settings[C]) options() []Option { return []Option{Config(s.configure)} }

// SetLogger implements Logs.
func (s *settings[C]) SetLogger(log hclog.Logger) { s.log = log }

func (s *settings[C]) configure(_ context.Context, config C) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = config
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// get gives the configuration in force, and what is closed when it is not any more.
func (s *settings[C]) get() (C, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config, s.changed
}

// current gives the configuration in force.
func (s *settings[C]) current() C {
	config, _ := s.get()
	return config
}

// call runs an author's function with the plugin's logger. A panic becomes its error: the plugin lives on.
func (s *settings[C]) call(ctx context.Context, f func(ctx context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic in the plugin", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f(context.WithValue(ctx, loggerKey{}, s.log))
}
