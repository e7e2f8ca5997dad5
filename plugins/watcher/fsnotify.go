// Package watcher holds the watchers of the default bundle.
package watcher

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// Fsnotify is the watcher that listens to the operating system's file events, and polls where none arrive.
//
// Events are only hints where to look: what is reported is always the difference between the digests of the files and
// what is known, so that lost, doubled or reordered events change nothing but the delay.
type Fsnotify struct {
	open    func(*hints) (source, error) // of file events
	changed chan struct{}                // the configuration did

	mu     sync.Mutex
	log    hclog.Logger
	config Config
}

var _ sdk.Watcher = (*Fsnotify)(nil)

// Config is the `config:` block of watcher/fsnotify.
type Config struct {
	Debounce int    `tq:"debounce_ms,default=-1,min=-1" doc:"a burst of changes ends when nothing happened for so long; -1: file_watcher.debounce_ms"`
	Mode     string `tq:"mode,default=auto,oneof=auto|events|poll" doc:"events: never probe; poll: compare size and time of all files; auto: poll where events do not arrive"`
	Poll     int    `tq:"poll_ms,default=250,min=10" doc:"time between two polls"`
}

// NewFsnotify makes a watcher with the default configuration. It starts nothing.
func NewFsnotify() *Fsnotify {
	return &Fsnotify{open: openEvents, changed: make(chan struct{}, 1), log: hclog.NewNullLogger(),
		config: Config{Debounce: -1, Mode: "auto", Poll: 250}}
}

// ServeFsnotify runs the watcher as a plugin.
func ServeFsnotify() {
	w := NewFsnotify()
	sdk.Serve("fsnotify", sdk.Version, w, sdk.Config(w.Configure))
}

// SetLogger implements sdk.Logs.
func (w *Fsnotify) SetLogger(log hclog.Logger) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = log
}

// Configure sets the configuration, also of a watch under way, which then looks at everything again.
func (w *Fsnotify) Configure(_ context.Context, c Config) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.config = c
	select {
	case w.changed <- struct{}{}:
	default:
	}
	return nil
}

// Watch implements sdk.Watcher. It returns when ctx ends, sets is closed (nil) or report fails (its error). What
// cannot be read or watched is logged, once for each path until it works again, and is never an error.
func (w *Fsnotify) Watch(ctx context.Context, sets <-chan sdk.WatchSet, report func(sdk.ChangeSet) error) error {
	select {
	case <-w.changed: // it is read now
	default:
	}
	log, config := w.settings()
	s := newSession(ctx, w.open, log, report)
	s.connect(config)
	defer func() { s.disconnect() }()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case set, ok := <-sets:
			if !ok {
				return nil
			}
			err = s.take(set)
		case <-w.changed:
			_, config = w.settings()
			err = s.reconfigure(config)
		case <-s.hints.ready:
			err = s.note(s.hints.take())
		case <-s.burst.timer.C:
			err = s.flush()
		}
		if err != nil {
			return err
		}
	}
}

func (w *Fsnotify) settings() (hclog.Logger, Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log, w.config
}

// debounce is the quiet time that ends a burst: the plugin's own, else that of the set.
func (c Config) debounce(set time.Duration) time.Duration {
	if c.Debounce >= 0 {
		return time.Duration(c.Debounce) * time.Millisecond
	}
	return max(set, 0)
}
