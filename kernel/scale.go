package kernel

import (
	"context"
	"runtime"
	"time"

	"github.com/tqserver/tqserver/config"
)

// How many workers a page has whose number follows the load. A worker has enough to do with four requests at a time for
// each of its processors: more of them wait for each other rather than for what is elsewhere. There is one more when
// the workers have had more than that at every look within a second, or a request waited for one at every look. There is
// one less when one less would have had half of that on average, for a minute: far enough below that the next request
// does not bring it back. The average is of the most that there was between two looks, and of the last ten seconds. After
// either step the time begins anew.
const (
	enoughPerProc = 4
	growAfter     = time.Second
	shrinkAfter   = time.Minute
	scaleEvery    = 250 * time.Millisecond // between two looks
	lookWeight    = 0.025                  // of the newest look in the average: as of 40
)

// load is what a page has to do.
type load struct {
	workers   int // that serve, which are as many as are wanted unless it is unsettled
	enough    int // requests for one of them
	requests  int // in flight and waiting
	waiting   int // of these
	peak      int // of requests since the last look
	unsettled bool
}

// scale is since when a page has too much to do, or too little. It belongs to the kernel's goroutine that looks.
type scale struct {
	busy, calm time.Time
	mean       float64
}

// want gives the number of workers that a load takes, which differs by one from those that serve at most.
func (s *scale) want(l load, now time.Time) int {
	s.mean += lookWeight * (float64(l.peak) - s.mean)
	switch {
	case l.unsettled: // a start is under way: what is counted now says nothing about what will be
		s.busy, s.calm = time.Time{}, time.Time{}
	case l.waiting > 0 || l.requests > l.workers*l.enough:
		if s.calm = (time.Time{}); over(&s.busy, now, growAfter) {
			return l.workers + 1
		}
	case l.workers > 1 && s.mean <= float64((l.workers-1)*l.enough)/2:
		if s.busy = (time.Time{}); over(&s.calm, now, shrinkAfter) {
			return l.workers - 1
		}
	default:
		s.busy, s.calm = time.Time{}, time.Time{}
	}
	return l.workers
}

// over tells whether something lasts for a time. If so, the time begins anew.
func over(since *time.Time, now time.Time, limit time.Duration) bool {
	if since.IsZero() {
		*since = now
	}
	if now.Sub(*since) < limit {
		return false
	}
	*since = now
	return true
}

// scalePages adapts the number of workers to the load, of the pages that want that, until ctx ends.
func (k *Kernel) scalePages(ctx context.Context) error {
	tick := time.NewTicker(scaleEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, p := range k.routes.list() {
				p.weigh(now)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// weigh looks at the load of a page. It is called on the goroutine of scalePages.
func (p *page) weigh(now time.Time) {
	v := p.view.Load()
	if !v.settings.Instances.Automatic() || p.k.opts.Dev || v.current == nil {
		p.scale = scale{}
		return
	}
	waiting := p.backend.Held() + p.backend.Queued()
	l := load{workers: len(v.serving), enough: enough(v.settings), requests: p.backend.InFlight() + waiting, waiting: waiting,
		peak: p.backend.Load(), unsettled: v.unsettled}
	if n := v.settings.Instances.Clamp(p.scale.want(l, now)); n != l.workers && n != v.wanted {
		p.post(func() { p.rescale(l.workers, n) })
	}
}

// rescale changes the number of workers, unless it has changed since that was decided.
func (p *page) rescale(from, to int) {
	if len(p.set()) != from || p.unsettled() || p.ctx.Err() != nil {
		return
	}
	p.scaled = to
	p.renew()
}

// enough is how many requests a worker has to do with.
func enough(s config.Worker) int {
	procs := s.GoMaxProcs
	if procs == 0 {
		procs = runtime.NumCPU()
	}
	if n := procs * enoughPerProc; s.MaxInFlight == 0 || n < s.MaxInFlight {
		return n
	}
	return s.MaxInFlight
}
