package proxy

import (
	"container/list"
	"net/http"
)

// waiter is a request in the line. ready has room for one handover, so that
// whoever took the waiter out of the line never blocks.
type waiter struct {
	ready chan handover

	// Guarded by the backend's mu.
	place *list.Element // in the line; nil once out of it
	avoid []*Endpoint   // which it does not take
	held  bool          // it takes none of the set, or there is none
}

// handover is what a waiting request gets: an endpoint that it has entered
// already, or an error.
type handover struct {
	set      *endpointSet
	endpoint *Endpoint
	err      error
}

var (
	errPageGone     = &faultError{fault{status: http.StatusNotFound, kind: kindRouteNotFound}}
	errHoldTimeout  = &faultError{fault{status: http.StatusServiceUnavailable, kind: kindHoldTimeout}}
	errHoldFull     = &faultError{fault{status: http.StatusServiceUnavailable, kind: kindHoldFull}}
	errQueueTimeout = &faultError{fault{status: http.StatusServiceUnavailable, kind: kindQueueTimeout}}
	errQueueFull    = &faultError{fault{status: http.StatusServiceUnavailable, kind: kindQueueFull}}
)

func noWorker(reason error) error {
	return &faultError{fault{status: http.StatusServiceUnavailable, kind: kindNoWorker, cause: reason}}
}

// Held returns how many requests wait for a ready worker.
func (b *Backend) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// Queued returns how many requests wait for a ready worker to have room.
func (b *Backend) Queued() int { return int(b.inLine.Load()) }

// join puts a request at the end of the line. It reports false, and does not,
// if as many as max wait for the same already. A request that there is room for
// has its handover when join returns. b.mu is held.
func (b *Backend) join(w *waiter, max int) bool {
	w.place = b.waiting.PushBack(w)
	b.note(w, 1)
	b.came()
	if w.held {
		if b.held <= max {
			return true
		}
	} else {
		// The request is counted in before the places are looked at: either this
		// sees a place that is left, or who leaves it sees this.
		b.serve()
		if w.place == nil || b.inLine.Load() <= int64(max) {
			return true
		}
	}
	b.out(w)
	b.went()
	return false
}

// handOn is called when there may be room for somebody in the line.
func (b *Backend) handOn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serve()
}

// serve gives what room there is to those who wait for it, first come first.
// Who avoids some endpoints is passed by those who do not. b.mu is held.
func (b *Backend) serve() {
	set := b.set.Load()
	full := false // for those who take any endpoint
	for at := b.waiting.Front(); at != nil && b.inLine.Load() > 0 && (!full || b.picky > 0); {
		w := at.Value.(*waiter)
		at = at.Next()
		if w.held || full && len(w.avoid) == 0 {
			continue
		}
		if e := set.occupy(w.avoid); e != nil {
			b.hand(w, handover{set: set, endpoint: e})
			continue
		}
		full = full || len(w.avoid) == 0
	}
}

// release answers those who are held. b.mu is held.
func (b *Backend) release(h handover) {
	for at := b.waiting.Front(); at != nil && b.held > 0; {
		w := at.Value.(*waiter)
		at = at.Next()
		if w.held {
			b.hand(w, h)
		}
	}
}

// regroup says of all who wait what they wait for, now that the set is another
// one. b.mu is held.
func (b *Backend) regroup(hold bool) {
	b.held, b.picky = 0, 0
	for at := b.waiting.Front(); at != nil; at = at.Next() {
		w := at.Value.(*waiter)
		w.held, w.avoid = hold, nil
	}
	n := b.waiting.Len()
	if hold {
		b.held, n = n, 0
	}
	b.inLine.Store(int64(n))
}

// hand takes w out of the line with what it has waited for. b.mu is held.
func (b *Backend) hand(w *waiter, h handover) {
	b.out(w)
	if h.endpoint == nil {
		b.went()
	}
	w.ready <- h
}

// forget takes w out of the line. If it was taken out before, its handover is
// returned.
func (b *Backend) forget(w *waiter) (h handover, late bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.place == nil {
		return <-w.ready, true
	}
	b.out(w)
	b.went()
	return handover{}, false
}

// out takes w out of the line. b.mu is held.
func (b *Backend) out(w *waiter) {
	b.waiting.Remove(w.place)
	w.place = nil
	b.note(w, -1)
}

// note counts w in or out. b.mu is held.
func (b *Backend) note(w *waiter, n int) {
	if w.held {
		b.held += n
		return
	}
	b.inLine.Add(int64(n))
	if len(w.avoid) > 0 {
		b.picky += n
	}
}
