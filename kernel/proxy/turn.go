package proxy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// waiter is a held request. ready has room for one handover, so that whoever
// took the waiter out of the queue never blocks.
type waiter struct {
	ready chan handover
	place *list.Element // in the queue; nil once out of it
}

// handover is what a held request gets: an endpoint that it has entered
// already, or an error.
type handover struct {
	set      *endpointSet
	endpoint *Endpoint
	err      error
}

// turn is one request's search for an endpoint that takes it.
type turn struct {
	backend *Backend
	seen    *endpointSet // the set that was searched last
	avoid   []*Endpoint  // those of seen that could not be reached
	dial    error        // why the last of them could not
	until   time.Time    // the end of all waits; zero: there was none yet
	max     int
}

var (
	errPageGone    = &faultError{fault{status: http.StatusNotFound, kind: kindRouteNotFound}}
	errHoldTimeout = &faultError{fault{status: http.StatusServiceUnavailable, kind: kindHoldTimeout}}
	errHoldFull    = &faultError{fault{status: http.StatusServiceUnavailable, kind: kindHoldFull}}
)

func noWorker(reason error) error {
	return &faultError{fault{status: http.StatusServiceUnavailable, kind: kindNoWorker, cause: reason}}
}

// next returns an endpoint, entered, which the caller must leave. It waits for
// one as long as the backend's hold time, counted over the whole turn, and
// until ctx ends.
func (t *turn) next(ctx context.Context) (*Endpoint, error) {
	for {
		if e := t.pick(); e != nil {
			return e, nil
		}
		h, err := t.wait(ctx)
		if err != nil {
			return nil, err
		}
		if h.endpoint != nil {
			t.seen, t.avoid = h.set, nil
			return h.endpoint, nil
		}
	}
}

// unreachable makes the turn pass over e until the set is replaced.
func (t *turn) unreachable(e *Endpoint, err error) {
	t.avoid = append(t.avoid, e)
	t.dial = err
}

// pick enters a ready endpoint and returns it, or nil if there is none.
func (t *turn) pick() *Endpoint {
	for {
		e := t.choose()
		if e == nil || t.enter(e) {
			return e
		}
	}
}

// choose returns a ready endpoint that was not found unreachable, or nil.
func (t *turn) choose() *Endpoint {
	if set := t.backend.set.Load(); set != t.seen {
		t.seen, t.avoid = set, nil
	}
	return t.seen.choose(t.avoid)
}

// enter enters e unless the set was replaced since choose. The set is looked at
// after entering: either the swap sees this request in the endpoint's count, or
// this sees the swap and backs off before a byte is sent.
func (t *turn) enter(e *Endpoint) bool {
	e.enter()
	if t.backend.set.Load() == t.seen {
		return true
	}
	e.leave()
	return false
}

// wait holds the request until the set is replaced. An empty handover without
// an error means that it was replaced before the wait began.
func (t *turn) wait(ctx context.Context) (handover, error) {
	w, err := t.queue()
	if w == nil {
		return handover{}, err
	}
	timer := time.NewTimer(time.Until(t.until))
	defer timer.Stop()
	select {
	case h := <-w.ready:
		return h, h.err
	case <-timer.C:
		err = t.giveUp(errHoldTimeout)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	h, late := t.backend.forget(w)
	if late && ctx.Err() == nil {
		return h, h.err
	}
	if h.endpoint != nil {
		h.endpoint.leave()
	}
	return handover{}, err
}

// queue puts the request at the end of the queue, unless it must not wait or
// need not.
func (t *turn) queue() (*waiter, error) {
	if t.until.IsZero() {
		timeout, max := t.backend.o.Hold()
		if timeout <= 0 {
			max = 0
		}
		t.until, t.max = time.Now().Add(timeout), max
	}
	b := t.backend
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, errPageGone
	case b.set.Load() != t.seen:
		return nil, nil
	case b.failed != nil:
		return nil, noWorker(b.failed)
	case b.held.Len() >= t.max:
		return nil, t.giveUp(errHoldFull)
	}
	w := &waiter{ready: make(chan handover, 1)}
	w.place = b.held.PushBack(w)
	return w, nil
}

// giveUp prefers the dial error, if there was one, as the reason why a wait
// was in vain.
func (t *turn) giveUp(err error) error {
	if t.dial != nil {
		return t.dial
	}
	return err
}

// forget takes w out of the queue. If it was taken out before, its handover
// is returned.
func (b *Backend) forget(w *waiter) (h handover, late bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.place == nil {
		return <-w.ready, true
	}
	b.held.Remove(w.place)
	return handover{}, false
}

// faultError is a fault on its way through code that speaks errors.
type faultError struct{ fault }

func (e *faultError) Error() string { return fmt.Sprint("proxy: ", &e.fault) }
func (e *faultError) Unwrap() error { return e.cause }

// asFault returns the fault that err carries, if any.
func asFault(err error) *fault {
	if fe, ok := errors.AsType[*faultError](err); ok {
		return &fe.fault
	}
	return nil
}
