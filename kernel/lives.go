package kernel

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// lives holds the goroutines of a kernel by name, so that each is ended, and waited for, in the order that shutdown
// wants.
type lives struct {
	mu   sync.Mutex
	all  map[string]*life
	errs []error
}

type life struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func newLives() *lives { return &lives{all: map[string]*life{}} }

// start runs f until its context ends. An error that is not the context's is kept for the end.
func (l *lives) start(ctx context.Context, name string, f func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(ctx)
	one := &life{cancel: cancel, done: make(chan struct{})}
	l.mu.Lock()
	l.all[name] = one
	l.mu.Unlock()
	go func() {
		defer close(one.done)
		if err := f(ctx); err != nil && ctx.Err() == nil {
			l.mu.Lock()
			l.errs = append(l.errs, fmt.Errorf("%s: %w", name, err))
			l.mu.Unlock()
		}
	}()
}

// end ends the named ones and waits for all of them. A name that is not there is done.
func (l *lives) end(names ...string) {
	l.mu.Lock()
	var ending []*life
	for _, name := range names {
		if one, ok := l.all[name]; ok {
			ending = append(ending, one)
			delete(l.all, name)
		}
	}
	l.mu.Unlock()
	for _, one := range ending {
		one.cancel()
	}
	for _, one := range ending {
		<-one.done
	}
}

func (l *lives) errors() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}

// notifier tells any number of waiters that something changed.
type notifier struct {
	mu sync.Mutex
	ch chan struct{}
}

// changed is closed at the next notify.
func (n *notifier) changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}

// feed sends make() at once and after each notification, until ctx ends. The newest value replaces one that was not
// taken yet.
func feed[T any](ctx context.Context, n *notifier, make_ func() T, out chan T) {
	for {
		changed := n.changed()
		v := make_()
		select {
		case out <- v:
		case <-changed:
			continue
		case <-ctx.Done():
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
