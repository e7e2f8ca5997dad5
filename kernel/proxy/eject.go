package proxy

import "time"

// maxEjection bounds how long an endpoint is passed over at a time, however
// often it was. It is Envoy's max_ejection_time.
const maxEjection = 5 * time.Minute

// spell is a time during which an endpoint is not quite like others: ejected
// until back, and from then on with a share that grows until full. It is
// immutable.
type spell struct{ back, full time.Time }

// record is what is remembered of an endpoint's ejections. It is guarded by the
// mu of the endpoint's backend.
type record struct {
	times int           // in a row
	last  time.Duration // how long the last one was
	back  time.Time     // when that ended
}

// EjectedUntil returns until when the worker is passed over since it failed too
// many requests in a row; zero if it is not.
func (e *Endpoint) EjectedUntil() time.Time {
	if s := e.spell.Load(); s != nil && time.Now().Before(s.back) {
		return s.back
	}
	return time.Time{}
}

// standing returns which share of what others get the endpoint is to get, and
// whether it is ejected.
func (e *Endpoint) standing(now time.Time) (share float64, out bool) {
	s := e.spell.Load()
	switch {
	case s == nil:
		return 1, false
	case now.Before(s.back):
		return 0, true
	case now.Before(s.full):
		return float64(now.Sub(s.back)) / float64(s.full.Sub(s.back)), false
	}
	e.spell.CompareAndSwap(s, nil)
	return 1, false
}

// judge notes how a request that the worker was given has ended, nil for well.
func (e *Endpoint) judge(f *fault) {
	switch {
	case f == nil:
		if e.row.Load() != 0 {
			e.row.Store(0)
		}
	case f.kind == kindDial: // turn.unreachable has noted it
	case f.isWorkers():
		e.strike()
	}
}

// strike notes a failure, which may be one too many.
func (e *Endpoint) strike() {
	b := e.backend.Load()
	if b == nil || !e.EjectedUntil().IsZero() { // what was under way is no news
		return
	}
	n := e.row.Add(1)
	if failures, base := b.o.Eject(); failures > 0 && base > 0 && int(n) >= failures {
		b.eject(e, base)
	}
}

// eject passes e over for a while, unless half of the set would be out then.
func (b *Backend) eject(e *Endpoint, base time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	set, now := b.set.Load(), time.Now()
	if _, out := e.standing(now); out || !set.has(e) || 2*(set.ejected(now)+1) > len(set.endpoints) {
		return
	}
	d := e.record.next(now, base)
	back := now.Add(d)
	e.spell.Store(&spell{back: back, full: back.Add(b.o.SlowStart())})
	e.row.Store(0)
	b.count.ejections.Add(1)
	time.AfterFunc(d, b.handOn) // those in the line may take it again
}

// next returns how long the next ejection is: n times base for the nth in a row.
// An endpoint that was good for as long as it had been out begins anew.
func (r *record) next(now time.Time, base time.Duration) time.Duration {
	if now.Sub(r.back) >= r.last {
		r.times = 0
	}
	r.times++
	r.last = max(base, min(base*time.Duration(r.times), maxEjection))
	r.back = now.Add(r.last)
	return r.last
}

// ejected returns how many are.
func (s *endpointSet) ejected(now time.Time) int {
	n := 0
	for _, e := range s.endpoints {
		if _, out := e.standing(now); out {
			n++
		}
	}
	return n
}

// reinstate takes back those who would be back first, until no more than half
// are out.
func (s *endpointSet) reinstate(now time.Time) {
	for 2*s.ejected(now) > len(s.endpoints) {
		var first *Endpoint
		var back time.Time
		for _, e := range s.endpoints {
			sp := e.spell.Load()
			if sp != nil && now.Before(sp.back) && (first == nil || sp.back.Before(back)) {
				first, back = e, sp.back
			}
		}
		if first == nil {
			return // one has just come back by itself
		}
		first.spell.Store(nil)
	}
}
