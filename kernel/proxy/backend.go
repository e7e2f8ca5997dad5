package proxy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What a backend does without BackendOptions.Hold.
const (
	defaultHoldTimeout = 10 * time.Second
	defaultHoldMax     = 1024
)

// BackendOptions configure a [Backend].
type BackendOptions struct {
	// Hold says how long a request waits for a ready worker, and how many
	// requests of this page may wait at a time. It is read for each request
	// that has to wait; 0 for either means that none waits. Nil: 10 s, 1024.
	Hold func() (timeout time.Duration, max int)
}

// Backend is one page: the set of its ready workers, and the point at which
// they are swapped. It is safe for concurrent use.
type Backend struct {
	page string
	o    BackendOptions

	set atomic.Pointer[endpointSet] // never nil; stored under mu only

	mu     sync.Mutex
	held   list.List // of *waiter, first come first
	failed error
	closed bool
}

// endpointSet is immutable; a pointer to it is also the number of the swap.
type endpointSet struct {
	endpoints []*Endpoint
}

// NewBackend returns a backend without workers: requests are held until the
// first Set.
func NewBackend(page string, o BackendOptions) *Backend {
	if o.Hold == nil {
		o.Hold = func() (time.Duration, int) { return defaultHoldTimeout, defaultHoldMax }
	}
	b := &Backend{page: page, o: o}
	b.set.Store(&endpointSet{})
	return b
}

// Set replaces the ready workers, hands held requests to them in the order in
// which they came, and clears what Fail said. After it returns no request is
// started on an endpoint that is not in the set, so a following
// [Endpoint.Drain] of an old one sees all there is. With no endpoints, requests
// are held from now on. Set does not block and does nothing after Close.
func (b *Backend) Set(endpoints ...*Endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.failed = nil
	set := &endpointSet{endpoints: slices.Clone(endpoints)}
	b.set.Store(set)
	if len(endpoints) == 0 {
		return
	}
	b.release(func() handover {
		e := set.choose(nil)
		e.enter()
		return handover{set: set, endpoint: e}
	})
}

// Fail says that there is no ready worker and that none will come soon: held
// and new requests get 503 at once, until Set or Fail(nil). Workers that are
// in the set go on serving. reason is logged, and shown where
// [Options.Reveal] allows it.
func (b *Backend) Fail(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = reason
	if reason != nil && !b.closed {
		b.release(func() handover { return handover{err: noWorker(reason)} })
	}
}

// Close says that the page is gone: held and new requests get 404. Requests
// that are being served are left alone; drain or close their endpoints. Close
// does not block and cannot be undone.
func (b *Backend) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.set.Store(&endpointSet{})
	b.release(func() handover { return handover{err: errPageGone} })
}

// Held returns how many requests wait for a ready worker.
func (b *Backend) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held.Len()
}

// InFlight returns how many requests the workers in the set are serving.
func (b *Backend) InFlight() int {
	var n int64
	for _, e := range b.set.Load().endpoints {
		n += e.InFlight()
	}
	return int(n)
}

// release empties the queue, giving each waiter what next returns. b.mu is held.
func (b *Backend) release(next func() handover) {
	for b.held.Len() > 0 {
		w := b.held.Remove(b.held.Front()).(*waiter)
		w.place = nil
		w.ready <- next()
	}
}

// choose returns the less loaded of two endpoints drawn at random from those
// not to avoid, or nil.
func (s *endpointSet) choose(avoid []*Endpoint) *Endpoint {
	from := s.endpoints
	if len(avoid) > 0 {
		from = slices.DeleteFunc(slices.Clone(from), func(e *Endpoint) bool { return slices.Contains(avoid, e) })
	}
	switch len(from) {
	case 0:
		return nil
	case 1:
		return from[0]
	}
	i, j := rand.IntN(len(from)), rand.IntN(len(from)-1)
	if j >= i {
		j++
	}
	if from[j].InFlight() < from[i].InFlight() {
		return from[j]
	}
	return from[i]
}

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
	expired <-chan time.Time
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

// pick enters a ready endpoint. The set is looked at again after entering:
// either the swap sees this request in the endpoint's count, or this sees the
// swap and backs off before a byte is sent.
func (t *turn) pick() *Endpoint {
	for {
		set := t.backend.set.Load()
		if set != t.seen {
			t.seen, t.avoid = set, nil
		}
		e := set.choose(t.avoid)
		if e == nil {
			return nil
		}
		e.enter()
		if t.backend.set.Load() == set {
			return e
		}
		e.leave()
	}
}

// wait holds the request until the set is replaced. An empty handover without
// an error means that it was replaced before the wait began.
func (t *turn) wait(ctx context.Context) (handover, error) {
	w, err := t.queue()
	if w == nil {
		return handover{}, err
	}
	select {
	case h := <-w.ready:
		return h, h.err
	case <-t.expired:
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
	if t.expired == nil {
		timeout, max := t.backend.o.Hold()
		if timeout <= 0 {
			max = 0
		}
		t.expired, t.max = time.After(timeout), max
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
