package proxy

import (
	"container/list"
	"math/rand/v2"
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
	page  string
	o     BackendOptions
	tally tally

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

// Page is the name of the page.
func (b *Backend) Page() string { return b.page }

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
