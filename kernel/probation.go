package kernel

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/proxy"
)

// A new release is on probation: if its worker ends, or it fails its requests as the one before did not, that one is
// put back.

// When a release fails its requests. Few requests prove nothing. A release that fails half of them is broken where its
// visitors are, not in a corner that the next save can mend. A page that failed one request in five before may fail for
// reasons that lie elsewhere, so that going back is no cure; a release that is five times as bad has made it worse. All
// requests since the swap count: a fault that the release has brought shows from the beginning; one that comes later is
// more likely of something that the page depends on.
const (
	fewRequests = 20
	badShare    = 0.5
	worseBy     = 5
)

// judgeEvery is how often a release on probation is looked at.
const judgeEvery = 100 * time.Millisecond

// probation is the time in which a release may fail.
type probation struct {
	release  release
	previous release // what comes back
	share    float64 // of the requests that the previous release has failed
	until    time.Time
	cancel   context.CancelFunc
	workers  atomic.Pointer[tally] // of those that have served since
	outer    *probation            // that of the previous release, if it has not passed yet
}

// watchRelease begins the probation of a release that has just gone live in the place of another, before, and ends that
// of one which was left.
func (p *page) watchRelease(c *candidate, old []*instance, before release) {
	inst, pr := p.current, p.probation
	switch {
	case pr != nil && pr.release.ID == inst.release.ID:
		return
	case pr != nil:
		pr.cancel()
		p.probation = nil
	}
	if c.back != nil && c.back.outer != nil {
		p.onProbation(c.back.outer)
		return
	}
	limit := p.k.config().Workers.Probation
	if c.why != deploy || limit <= 0 || before.ID == "" || before.ID == inst.release.ID || !executable(before.Artifact) {
		return
	}
	next := &probation{release: inst.release, previous: before, until: time.Now().Add(limit), outer: pr.left(before)}
	next.share, _ = sinceStart(old).failing()
	p.onProbation(next)
}

// onProbation watches a release until its time is over.
func (p *page) onProbation(pr *probation) {
	ctx, cancel := context.WithDeadline(p.ctx, pr.until)
	pr.cancel = cancel
	pr.count(p.set())
	p.probation = pr
	p.work.Go(func() {
		defer cancel()
		if text := pr.watch(ctx, p.k.opts.Dev); text != "" {
			p.post(func() { p.putBack(pr, text) })
			return
		}
		if ctx.Err() == context.DeadlineExceeded {
			p.post(func() { p.passed(pr) })
		}
	})
}

func (p *page) passed(pr *probation) {
	if p.probation == pr {
		p.probation = nil
		p.k.log.Debug("the release has passed its probation", "page", p.name, "release", pr.release.short())
	}
}

// watch looks at the requests of a release until ctx ends, or it fails too many of them: then it says so. A developer
// wants to see what his page answers, also when it is an error.
func (pr *probation) watch(ctx context.Context, dev bool) (failed string) {
	tick := time.NewTicker(judgeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			share, requests := pr.workers.Load().failing()
			if !dev && failsTooOften(share, requests, pr.share) {
				return fmt.Sprintf("%.0f of its first %d requests failed (5xx), %.0f%% of those of release %s before", share*float64(requests), requests, pr.share*100, pr.previous.short())
			}
		case <-ctx.Done():
			return ""
		}
	}
}

// tally counts the requests of workers, of each from a moment on: one that was warm has served before.
type tally []counted

type counted struct {
	endpoint           *proxy.Endpoint
	failures, requests int64 // before that
}

// count has the requests of these workers count, of one that is new from now on. Those of workers that have left go on
// counting.
func (pr *probation) count(set []*instance) {
	var all tally
	if t := pr.workers.Load(); t != nil {
		all = slices.Clone(*t)
	}
	for _, e := range endpoints(set) {
		if !slices.ContainsFunc(all, func(c counted) bool { return c.endpoint == e }) {
			failures, requests := counts(e)
			all = append(all, counted{e, failures, requests})
		}
	}
	pr.workers.Store(&all)
}

// sinceStart counts all requests of workers.
func sinceStart(set []*instance) *tally {
	t := make(tally, 0, len(set))
	for _, e := range endpoints(set) {
		t = append(t, counted{endpoint: e})
	}
	return &t
}

func counts(e *proxy.Endpoint) (failures, requests int64) {
	failures = int64(e.Failures()) // first: requests only grow
	return failures, int64(e.Requests()) - e.InFlight()
}

// failing gives the share of their requests that the workers have failed, and how many they have answered.
func (t *tally) failing() (share float64, requests int64) {
	var failures int64
	for _, c := range *t {
		f, r := counts(c.endpoint)
		failures += f - c.failures
		requests += max(0, r-c.requests)
	}
	if requests == 0 {
		return 0, 0
	}
	return min(1, float64(failures)/float64(requests)), requests
}

func failsTooOften(share float64, requests int64, before float64) bool {
	return requests >= fewRequests && share >= badShare && share >= worseBy*before
}

// left gives what is left of the probation of a release, for when it comes back; nil when nothing is.
func (pr *probation) left(r release) *probation {
	if pr == nil || pr.release.ID != r.ID || time.Until(pr.until) <= 0 {
		return nil
	}
	return &probation{release: pr.release, previous: pr.previous, share: pr.share, until: pr.until, outer: pr.outer.left(pr.previous)}
}

// crashedOnProbation tells whether a worker that has ended was on probation, and has the release before it come back.
func (p *page) crashedOnProbation(inst *instance) bool {
	pr := p.probation
	return pr != nil && pr.release.ID == inst.release.ID && p.putBack(pr, inst.epitaph())
}

// putBack goes back to the release before one that has failed on probation. It tells whether that can be done.
func (p *page) putBack(pr *probation, why string) bool {
	if p.probation != pr || p.ctx.Err() != nil || p.k.up.Err() != nil { // who stops the server may stop its workers, too
		return false
	}
	pr.cancel()
	p.probation = nil
	newer := p.candidate != nil && (p.candidate.why == deploy || p.candidate.why == rollback) // which is about to go live
	switch {
	case !executable(pr.previous.Artifact):
		p.k.log.Error("the release has failed on probation, the one before it is gone: "+why, "page", p.name, "release", pr.release.short())
		return false
	case newer && p.current != nil && !p.hasWarm(pr.previous):
		if again := pr.left(pr.release); again != nil {
			p.onProbation(again) // in case that does not start
		}
		return true
	}
	p.k.log.Error("the release has failed on probation, going back: "+why, "page", p.name, "release", pr.release.short(), "to", pr.previous.short())
	p.k.good.update(p.name, pr.release.ID, func(rec *record) { rec.Undone = why })
	p.save()
	if p.newest(pr.release) {
		p.stale = putBackText(p.name, pr.release, why)
	}
	p.good, p.failures = pr.previous, 0
	back := &wayBack{from: pr.release, outer: pr.outer.left(pr.previous),
		pin: &control.Pin{Release: pr.previous.ID, Over: pr.release.ID, Since: time.Now(), Reason: why}}
	if !newer {
		p.dropStart() // of what has failed
	}
	if !p.rewarm(pr.previous, undo, back) && !newer {
		p.start(pr.previous, undo, 0)
		p.candidate.back = back
	}
	return true
}
