package proxy

import (
	"sync/atomic"
	"time"
)

// BackendStats is what has become of the requests of a page. What is not said
// to be now counts from the beginning.
type BackendStats struct {
	Requests      uint64 // that were routed to the page
	Held          int    // requests that wait for a ready worker, now
	Queued        int    // requests that wait for a ready worker to have room, now
	HoldTimeouts  uint64 // requests that have waited too long for a ready worker
	HoldFull      uint64 // requests that were not held, since too many were
	QueueTimeouts uint64 // requests that have waited too long for room
	QueueFull     uint64 // requests that could not queue, since too many did
	Workers       int    // in the set, now
	Ejected       int    // of these, now
	Ejections     uint64
	Retries       uint64 // requests given to another worker, or once more to the same, after the first try
	RetriesDenied uint64 // those that were not, since there were too many
}

type counters struct {
	requests, holdTimeouts, holdFull, queueTimeouts, queueFull, ejections, retries, retriesDenied atomic.Uint64
}

// Stats returns the numbers of the backend. It does not block for long, but
// looks at every worker: it is not meant for each request.
func (b *Backend) Stats() BackendStats {
	set := b.set.Load()
	c := &b.count
	return BackendStats{
		Requests:      c.requests.Load(),
		Held:          b.Held(),
		Queued:        b.Queued(),
		HoldTimeouts:  c.holdTimeouts.Load(),
		HoldFull:      c.holdFull.Load(),
		QueueTimeouts: c.queueTimeouts.Load(),
		QueueFull:     c.queueFull.Load(),
		Workers:       len(set.endpoints),
		Ejected:       set.ejected(time.Now()),
		Ejections:     c.ejections.Load(),
		Retries:       c.retries.Load(),
		RetriesDenied: c.retriesDenied.Load(),
	}
}

// InFlight returns how many requests the workers in the set are serving.
func (b *Backend) InFlight() int {
	var n int64
	for _, e := range b.set.Load().endpoints {
		n += e.InFlight()
	}
	return int(n)
}

// Load returns the highest number of requests that the workers in the set were
// serving or that were waiting at a time, since the last call. It says how many
// workers would have been good. It is for one caller. Requests that began on
// workers that have left the set since are counted as long as they last, and
// then no more.
func (b *Backend) Load() int {
	now := b.load.Load()
	b.mu.Lock()
	here := int64(b.waiting.Len())
	b.mu.Unlock()
	here += int64(b.InFlight())
	elsewhere := max(0, now-here)
	return int(max(here, b.peak.Swap(now)-elsewhere))
}
