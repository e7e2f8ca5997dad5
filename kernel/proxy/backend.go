package proxy

import (
	"container/list"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What a backend does without the functions of BackendOptions.
const (
	defaultHoldTimeout = 10 * time.Second
	defaultHoldMax     = 1024

	// A request that waits longer than this has a visitor who has left.
	defaultQueueTimeout = 10 * time.Second
	defaultQueueMax     = 1024

	// Of the proxies compared none starts slowly by default. A worker that is a
	// compiled program is fast at once, but for its caches and connections,
	// and a few seconds are enough for those.
	defaultSlowStart = 10 * time.Second

	// Envoy's outlier detection: consecutive_gateway_failure, base_ejection_time.
	defaultEjectAfter = 5
	defaultEjectFor   = 30 * time.Second
)

// BackendOptions configure a [Backend]. The functions must be safe for
// concurrent use, cheap, and must not call the backend; what they return
// applies from then on.
type BackendOptions struct {
	// Hold says how long a request waits for a ready worker, and how many
	// requests of this page may wait at a time. It is read for each request
	// that has to wait; 0 for either means that none waits. Nil: 10 s, 1024.
	Hold func() (timeout time.Duration, max int)

	// Queue says the same of requests that wait since every ready worker has
	// as many requests in flight as EndpointOptions.MaxInFlight allows. Nil:
	// 10 s, 1024.
	Queue func() (timeout time.Duration, max int)

	// SlowStart is over how long the share of requests that a worker gets
	// grows to that of the others when it joins them or comes back from an
	// ejection. It is read at each of these. 0: at once. Nil: 10 s.
	SlowStart func() time.Duration

	// Eject says after how many failures in a row a worker is passed over,
	// and for how long the first time. It is read at each failure; 0 for
	// either means never. Nil: 5, 30 s.
	Eject func() (failures int, base time.Duration)
}

// Backend is one page: the set of its ready workers, and the point at which
// they are swapped. It is safe for concurrent use.
//
// A request goes to the less busy of two workers drawn at random, and to none
// that is at its limit. It waits in one line, first come first served, while
// there is no worker (it is held) or all are at their limits (it is queued).
//
// A worker that has failed several requests in a row is ejected, that is passed
// over for a while, but never more than half of the set, rounded down, and so
// never the last one. A failure is a connection that is refused or breaks, an
// answer that is not HTTP, or one that is late: what a client gets 502 or 504
// for. A whole answer with a status of 500 or more is none, since it comes from
// a worker that works, and one faulty handler shall not cost a page its worker.
type Backend struct {
	page  string
	o     BackendOptions
	tally tally

	set    atomic.Pointer[endpointSet] // never nil; stored under mu only
	inLine atomic.Int64                // requests that wait for a place; stored under mu only
	load   atomic.Int64                // requests in flight, also on workers out of the set, or waiting
	peak   atomic.Int64                // highest of load since the last call of Load
	count  counters
	budget budget

	mu      sync.Mutex
	waiting list.List // of *waiter, first come first
	held    int       // those of them that wait for another set
	picky   int       // those that wait for a place, but not on every endpoint
	failed  error
	closed  bool
}

// NewBackend returns a backend without workers: requests are held until the
// first Set.
func NewBackend(page string, o BackendOptions) *Backend {
	if o.Hold == nil {
		o.Hold = func() (time.Duration, int) { return defaultHoldTimeout, defaultHoldMax }
	}
	if o.Queue == nil {
		o.Queue = func() (time.Duration, int) { return defaultQueueTimeout, defaultQueueMax }
	}
	if o.SlowStart == nil {
		o.SlowStart = func() time.Duration { return defaultSlowStart }
	}
	if o.Eject == nil {
		o.Eject = func() (int, time.Duration) { return defaultEjectAfter, defaultEjectFor }
	}
	b := &Backend{page: page, o: o}
	b.set.Store(&endpointSet{})
	return b
}

// Page is the name of the page.
func (b *Backend) Page() string { return b.page }

// Set replaces the ready workers, hands waiting requests to them in the order
// in which they came, as far as there are places, and clears what Fail said.
// After it returns no request is started on an endpoint that is not in the set,
// so a following [Endpoint.Drain] of an old one sees all there is. With no
// endpoints, requests are held from now on. An endpoint that joins some of the
// set before starts slowly; a set without any of these does not. Set does not
// block and does nothing after Close.
func (b *Backend) Set(endpoints ...*Endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.failed = nil
	set := &endpointSet{endpoints: slices.Clone(endpoints)}
	b.introduce(set)
	b.set.Store(set)
	b.regroup(len(endpoints) == 0)
	b.serve()
}

// Fail says that there is no ready worker and that none will come soon: held
// and new requests get 503 at once, until Set or Fail(nil). Workers that are
// in the set go on serving, and those who queue for them go on waiting. reason
// is logged, and shown where [Options.Reveal] allows it.
func (b *Backend) Fail(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = reason
	if reason != nil && !b.closed {
		b.release(handover{err: noWorker(reason)})
	}
}

// Close says that the page is gone: waiting and new requests get 404. Requests
// that are being served are left alone; drain or close their endpoints. Close
// does not block and cannot be undone.
func (b *Backend) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.set.Store(&endpointSet{})
	b.regroup(true)
	b.release(handover{err: errPageGone})
}

// Endpoints returns the ready workers as they were last set.
func (b *Backend) Endpoints() []*Endpoint { return slices.Clone(b.set.Load().endpoints) }

// introduce makes endpoints those of this backend, and sees to it that the new
// ones among old ones start slowly and that no more than half are ejected. b.mu
// is held.
func (b *Backend) introduce(set *endpointSet) {
	now, slow, old := time.Now(), b.o.SlowStart(), b.set.Load()
	join := slow > 0 && slices.ContainsFunc(set.endpoints, old.has)
	for _, e := range set.endpoints {
		e.backend.Store(b)
		if join && !old.has(e) {
			e.spell.CompareAndSwap(nil, &spell{back: now, full: now.Add(slow)})
		}
	}
	set.reinstate(now)
}

// came and went count a request in and out.
func (b *Backend) came() {
	n := b.load.Add(1)
	for p := b.peak.Load(); n > p && !b.peak.CompareAndSwap(p, n); p = b.peak.Load() {
	}
}

func (b *Backend) went() { b.load.Add(-1) }
