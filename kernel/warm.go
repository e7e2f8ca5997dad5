package kernel

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tqserver/tqserver/kernel/port"
)

// The workers of the release before the live one stay ready for a while, so that going back is a swap of a pointer. One
// is not told that it gets no further requests: that could not be taken back. So what would stay open for ever (events,
// WebSockets) cannot be waited for: a worker that has such is let go, as without this.

const warm = "warm"

// restLimit is how long a worker may take to finish its requests to be kept. Streams are told to end only then.
const restLimit = 250 * time.Millisecond

// coolLimit bounds the wait for the port of a warm worker.
const coolLimit = time.Second

// resting is workers that are kept warm, or are to be when their requests have ended. There is one at least.
type resting struct {
	set    []*instance
	cancel context.CancelFunc
	since  time.Time
}

// depose lets go of workers in whose place others serve, or keeps them.
func (p *page) depose(old []*instance, c *candidate) {
	var keep []*instance
	for _, inst := range old {
		if p.worthKeeping(inst, c) {
			keep = append(keep, inst)
		} else {
			p.retire(inst)
		}
	}
	if len(keep) > 0 {
		p.keepWarm(keep)
	}
}

// worthKeeping tells whether one may want to go back to a worker: it is of another release and nothing is wrong with it.
func (p *page) worthKeeping(old *instance, c *candidate) bool {
	return p.k.config().Workers.KeepWarm > 0 && (c.why == deploy || c.why == rollback) && old.release.ID != c.release.ID &&
		old.outworn() == "" && !old.suspect && old.fits(p) && p.ctx.Err() == nil
}

func (p *page) keepWarm(set []*instance) {
	p.cool()
	ctx, cancel := context.WithCancel(p.ctx)
	w := &resting{set, cancel, time.Now()}
	p.warm = w
	workers := p.k.config().Workers
	var rests sync.WaitGroup
	for _, inst := range set {
		inst.state.Store(ptr(draining))
		rests.Go(func() {
			if rest(ctx, inst, workers.RestartDelay) {
				p.post(func() { p.rests(w, inst) })
			} else {
				p.post(func() { p.restless(w, inst) })
			}
		})
	}
	p.work.Go(func() {
		rests.Wait()
		_ = sleep(ctx, workers.KeepWarm)
		p.post(func() {
			if p.warm == w {
				p.cool()
			}
		})
	})
}

// rest waits for a worker's requests, and tells whether they have ended soon.
func rest(ctx context.Context, inst *instance, delay time.Duration) bool {
	if sleep(ctx, delay) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, restLimit)
	defer cancel()
	return inst.endpoint.Drain(ctx) == nil
}

func (p *page) rests(w *resting, inst *instance) {
	if p.warm == w && slices.Contains(w.set, inst) {
		inst.state.Store(ptr(warm))
	}
}

// restless lets go of a worker whose requests do not end soon.
func (p *page) restless(w *resting, inst *instance) {
	if p.warm == w && p.unwarm(inst) {
		p.leave(inst, 0)
	}
}

// unwarm takes a worker from those that are kept warm, and tells whether it was one of them.
func (p *page) unwarm(inst *instance) bool {
	w := p.warm
	if w == nil || !slices.Contains(w.set, inst) {
		return false
	}
	if w.set = slices.DeleteFunc(slices.Clone(w.set), func(i *instance) bool { return i == inst }); len(w.set) == 0 {
		w.cancel()
		p.warm = nil
	}
	return true
}

// cool lets go of the workers that are kept warm, if there are any.
func (p *page) cool() {
	w := p.warm
	if w == nil {
		return
	}
	w.cancel()
	p.warm = nil
	for _, inst := range w.set {
		p.leave(inst, 0)
	}
}

// coolUnfit lets go of warm workers that the configuration does not want any more.
func (p *page) coolUnfit() {
	if p.warm != nil && (p.k.config().Workers.KeepWarm == 0 || slices.ContainsFunc(p.warm.set, func(inst *instance) bool { return !inst.fits(p) })) {
		p.cool()
	}
}

// hasWarm tells whether warm workers can serve a release as those would that are started now.
func (p *page) hasWarm(r release) bool {
	return p.warm != nil && !slices.ContainsFunc(p.warm.set, func(inst *instance) bool {
		return inst.release.ID != r.ID || !inst.fits(p) || inst.worker.Err() != nil
	})
}

// rewarm makes a release live whose workers were kept, and tells whether there are any. If they are fewer than are
// wanted, others join them. What is being started is dropped, except on the way back from a failure, which may not
// concern it.
func (p *page) rewarm(r release, why reason, back *wayBack) bool {
	if !p.hasWarm(r) {
		return false
	}
	w := p.warm
	w.cancel()
	p.warm = nil
	for _, inst := range w.set {
		inst.state.Store(nil)
	}
	if why != undo {
		p.dropStart()
	}
	p.swap(&candidate{release: r, why: why, back: back}, w.set)
	return true
}

// warmEnded tells whether a worker that has ended was kept warm: it is gone, and nothing else has to happen.
func (p *page) warmEnded(inst *instance) bool {
	if !p.unwarm(inst) {
		return false
	}
	p.k.log.Debug("a warm worker has ended", "page", p.name, "worker", inst.id, "how", inst.worker.Err())
	p.work.Go(func() { inst.close(0) })
	return true
}

// lease gives a port. When there is none, warm workers give theirs back first.
func (k *Kernel) lease(ctx context.Context, owner string) (*port.Lease, error) {
	for {
		changed := k.ports.Changed()
		l, err := k.ports.Lease(owner)
		if !errors.Is(err, port.ErrExhausted) || !k.coolOldest() {
			return l, err
		}
		limit := time.NewTimer(coolLimit)
		select {
		case <-changed:
		case <-limit.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if limit.Stop(); ctx.Err() != nil {
			return nil, err
		}
	}
}

// coolOldest has the page whose workers have been warm the longest let go of them, and tells whether there is one.
func (k *Kernel) coolOldest() bool {
	var page *page
	var oldest *resting
	for _, p := range k.routes.list() {
		v := p.view.Load()
		if w := v.warm; w != nil && v.warmSet[0].lease != nil && (oldest == nil || w.since.Before(oldest.since)) {
			page, oldest = p, w
		}
	}
	return page != nil && page.post(func() {
		if page.warm == oldest {
			page.k.log.Debug("ports run short: warm workers are let go", "page", page.name)
			page.cool()
		}
	})
}
