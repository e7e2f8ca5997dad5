package kernel

import (
	"context"
	"errors"
	"time"

	"github.com/tqserver/tqserver/kernel/port"
)

// The worker of the release before the live one stays ready for a while, so that going back is a swap of a pointer. It
// is not told that it gets no further requests: that could not be taken back. So what would stay open for ever (events,
// WebSockets) cannot be waited for: a worker that has such is let go, as without this.

const warm = "warm"

// restLimit is how long a worker may take to finish its requests to be kept. Streams are told to end only then.
const restLimit = 250 * time.Millisecond

// coolLimit bounds the wait for the port of a warm worker.
const coolLimit = time.Second

// resting is a worker that is kept warm, or is to be when its requests have ended.
type resting struct {
	*instance
	cancel context.CancelFunc
	since  time.Time
}

// depose takes a worker out of service that another one has replaced.
func (p *page) depose(old *instance, c *candidate, inst *instance) {
	switch {
	case old == nil:
	case p.worthKeeping(old, c, inst):
		p.keepWarm(old)
	default:
		p.retire(old)
	}
}

// worthKeeping tells whether one may want to go back to a worker: it is of another release and nothing is wrong with it.
func (p *page) worthKeeping(old *instance, c *candidate, inst *instance) bool {
	healthy := old.healthy.Load()
	return p.k.config().Workers.KeepWarm > 0 && (c.why == deploy || c.why == rollback) && old.release.ID != inst.release.ID &&
		!old.spent && !old.suspect && (healthy == nil || *healthy) && old.fits(p) && p.ctx.Err() == nil
}

func (p *page) keepWarm(inst *instance) {
	p.cool()
	ctx, cancel := context.WithCancel(p.ctx)
	w := &resting{inst, cancel, time.Now()}
	p.warm = w
	inst.state.Store(ptr(draining))
	workers := p.k.config().Workers
	p.work.Go(func() {
		if rest(ctx, inst, workers.RestartDelay) {
			p.post(func() { p.rests(w) })
			_ = sleep(ctx, workers.KeepWarm)
		}
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

func (p *page) rests(w *resting) {
	if p.warm == w {
		w.state.Store(ptr(warm))
	}
}

// cool lets go of the worker that is kept warm, if there is one.
func (p *page) cool() {
	if w := p.warm; w != nil {
		w.cancel()
		p.warm = nil
		p.leave(w.instance, 0)
	}
}

// coolUnfit lets go of a warm worker that the configuration does not want any more.
func (p *page) coolUnfit() {
	if p.warm != nil && (p.k.config().Workers.KeepWarm == 0 || !p.warm.fits(p)) {
		p.cool()
	}
}

// hasWarm tells whether a warm worker can serve a release as one would that is started now.
func (p *page) hasWarm(r release) bool {
	w := p.warm
	return w != nil && w.release.ID == r.ID && w.fits(p) && w.worker.Err() == nil
}

// rewarm makes a release live whose worker was kept, and tells whether there is one. What is being started is dropped,
// except on the way back from a failure, which may not concern it.
func (p *page) rewarm(r release, why reason, back *wayBack) bool {
	if !p.hasWarm(r) {
		return false
	}
	w := p.warm
	w.cancel()
	p.warm = nil
	w.state.Store(nil)
	if why != undo {
		p.dropStart()
	}
	p.swap(&candidate{release: r, why: why, back: back}, w.instance)
	return true
}

// warmEnded tells whether a worker that has ended was kept warm: it is gone, and nothing else has to happen.
func (p *page) warmEnded(inst *instance) bool {
	if p.warm == nil || p.warm.instance != inst {
		return false
	}
	p.warm.cancel()
	p.warm = nil
	p.k.log.Debug("a warm worker has ended", "page", p.name, "worker", inst.id, "how", inst.worker.Err())
	p.work.Go(func() { inst.close(0) })
	return true
}

// lease gives a port. When there is none, a warm worker gives its own back first.
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

// coolOldest has the page whose worker has been warm the longest let go of it, and tells whether there is one.
func (k *Kernel) coolOldest() bool {
	var page *page
	var oldest *resting
	for _, p := range k.routes.list() {
		if w := p.view.Load().warm; w != nil && w.lease != nil && (oldest == nil || w.since.Before(oldest.since)) {
			page, oldest = p, w
		}
	}
	return page != nil && page.post(func() {
		if page.warm == oldest {
			page.k.log.Debug("ports run short: the warm worker is let go", "page", page.name, "worker", oldest.id)
			page.cool()
		}
	})
}
