package proxy

import (
	"net/http"
	"sync/atomic"
	"time"
)

// durationBounds are the upper ends of a histogram's buckets; a last bucket has
// what took longer. They are round numbers, so that a limit such as 100 ms can be
// read off, and lie a factor of 2 to 3 apart.
var durationBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, time.Minute,
}

// Traffic is what has become of requests, from the beginning. The numbers are
// read one after the other while requests go on: one may be a request ahead of
// another.
type Traffic struct {
	Statuses [6]uint64         // answers by the first digit of their status, 4 also for clients that left; 0 is no HTTP status
	Faults   map[string]uint64 // requests that did not get the worker's whole answer, by kind: see [FaultKinds]; only kinds that came up
	Bytes    uint64            // of answers' bodies
	Duration Histogram         // of requests, but not of upgraded connections
}

// Histogram is how long something took.
type Histogram struct {
	Buckets []Bucket // in order; the last has no upper end
	Sum     time.Duration
}

// Bucket counts what took no longer than Most, and longer than the bucket before.
type Bucket struct {
	Most  time.Duration // 0: no upper end
	Count uint64
}

// Traffic returns what has become of the page's requests.
func (b *Backend) Traffic() Traffic { return b.tally.read() }

// Unrouted returns what has become of requests that belong to no page: they were
// refused before they were routed, or no route matched.
func (p *Proxy) Unrouted() Traffic { return p.unrouted.read() }

// tally counts requests that have ended. It costs a request four additions.
type tally struct {
	statuses [6]atomic.Uint64
	faults   [len(faultKinds) + 1]atomic.Uint64 // the last is of kinds that are not listed, which a test forbids
	bytes    atomic.Uint64
	lasted   [len(durationBounds) + 1]atomic.Uint64
	sum      atomic.Int64
}

func (t *tally) count(e *Entry, f *fault) {
	class := e.Status / 100
	if class >= len(t.statuses) {
		class = 0
	}
	t.statuses[class].Add(1)
	if f != nil {
		t.faults[kindIndex(f.kind)].Add(1)
	}
	if e.Bytes > 0 {
		t.bytes.Add(uint64(e.Bytes))
	}
	if e.Status != http.StatusSwitchingProtocols {
		t.lasted[bucketOf(e.Duration)].Add(1)
		t.sum.Add(int64(e.Duration))
	}
}

func bucketOf(d time.Duration) int {
	for i, most := range durationBounds {
		if d <= most {
			return i
		}
	}
	return len(durationBounds)
}

func (t *tally) read() Traffic {
	out := Traffic{Faults: map[string]uint64{}, Bytes: t.bytes.Load()}
	for i := range t.statuses {
		out.Statuses[i] = t.statuses[i].Load()
	}
	for i, k := range faultKinds {
		if n := t.faults[i].Load(); n > 0 {
			out.Faults[k.Name] = n
		}
	}
	out.Duration.Sum = time.Duration(t.sum.Load())
	for i := range t.lasted {
		b := Bucket{Count: t.lasted[i].Load()}
		if i < len(durationBounds) {
			b.Most = durationBounds[i]
		}
		out.Duration.Buckets = append(out.Duration.Buckets, b)
	}
	return out
}
