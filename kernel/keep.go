package kernel

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/port"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/kernel/worker"
	"github.com/tqserver/tqserver/sdk"
)

// instance is one worker of one release with all that it holds.
type instance struct {
	id       string
	release  release
	route    sdk.Route
	settings config.Worker
	lease    *port.Lease // nil with a socket
	socket   string      // the path of what it listens on; "" with a port
	worker   *worker.Worker
	endpoint *proxy.Endpoint
	ready    time.Time
	state    atomic.Pointer[string] // nil: serving
	healthy  atomic.Pointer[bool]   // nil: the checker has not reported yet
	ailment  string                 // what the checker said last against it; owned by the page's goroutine
	suspect  bool                   // took no connection; owned by the page's goroutine
	spent    bool                   // has served its max_requests; owned by the page's goroutine
	update   *control.Update        // the last one that it answered to; owned by the page's goroutine
}

const (
	serving  = "serving"
	draining = "draining"
	stopping = "stopping"
)

// settled is how long a worker must live for its end not to count as one in a row of failures.
const settled = 10 * time.Second

// restartLimit bounds the wait before a worker that served is restarted: requests wait for it, and by default not for
// longer than 10 s.
const restartLimit = 5 * time.Second

// fits tells whether a worker started now would be the same.
func (i *instance) fits(p *page) bool {
	return i.route == p.route && sameSettings(i.settings, p.settings) && i.inRange(p.k.config().Workers)
}

// stay waits for d and tells whether the worker has stayed alive.
func (i *instance) stay(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-i.worker.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	if i.worker.Err() != nil {
		return errors.New(i.epitaph())
	}
	return nil
}

// epitaph tells how the worker ended, and what it said last.
func (i *instance) epitaph() string {
	return strings.Join(append([]string{i.worker.Err().Error()}, i.worker.Tail()...), "\n  ")
}

// close ends the process, aborts what is left of its requests, and gives its address back after it has exited. How a
// worker ends that was told to is of no interest, only whether.
func (i *instance) close(grace time.Duration) {
	i.state.Store(ptr(stopping))
	err := i.worker.Stop(grace)
	if i.endpoint != nil {
		i.endpoint.Close()
	}
	if err != nil && !errors.Is(err, worker.ErrKilled) {
		return // it survives SIGKILL, in a system call: its port is not free
	}
	i.freeAddr()
}

// vacate gives back the address of a worker that has ended. It does not block.
func (i *instance) vacate() {
	i.endpoint.Close()
	i.freeAddr()
}

// follow tells the page when the worker ends.
func (p *page) follow(inst *instance) {
	p.work.Go(func() {
		select {
		case <-inst.worker.Done():
			p.post(func() { p.exited(inst) })
		case <-p.ctx.Done():
		}
	})
}

// exited is the end of a worker. One that served is restarted: at once, then with backoff; requests wait meanwhile, or
// go to the others.
func (p *page) exited(inst *instance) {
	if p.warmEnded(inst) || !p.serves(inst) {
		return
	}
	p.remove(inst)
	p.crashes++
	p.failed(inst)
	p.problem = inst.epitaph()
	p.k.log.Error(p.problem, "page", p.name, "release", inst.release.short())
	inst.vacate() // at once: where ports are short, the next worker needs it
	p.work.Go(func() { inst.close(0) })
	wait := min(backoff(p.failures-1), restartLimit)
	if p.crashedOnProbation(inst) {
		if p.current != nil {
			return
		}
		wait = 0
	}
	if c := p.candidate; c != nil && time.Until(c.begins) > wait && (p.current == nil || c.relieves == inst) {
		p.drop(&p.candidate) // it was to take the place of what is gone
	}
	if p.lacks() {
		p.rejoin(wait)
	}
}

// lacks tells whether another worker is to be started for one that has ended, or whether one comes anyway.
func (p *page) lacks() bool {
	switch c := p.candidate; {
	case p.ctx.Err() != nil:
		return false
	case p.current != nil:
		return p.missing() > 0 && (c == nil || !c.portless && c.back == nil)
	case c != nil:
		return p.good.ID != c.release.ID && !c.portless
	}
	return true
}

// rejoin starts a worker of the release that serves, or of the one that served last, beside whatever is being started.
func (p *page) rejoin(wait time.Duration) {
	r := p.good
	if p.current != nil {
		r = p.current.release
	}
	if c := p.joining; c == nil || time.Until(c.begins) > wait {
		p.begin(&candidate{release: r, why: restart, beside: true, aside: true}, wait)
	}
}

// failed counts a worker that did not last.
func (p *page) failed(inst *instance) {
	if time.Since(inst.worker.Started()) > settled {
		p.failures = 0
	}
	p.failures++
}

// renew makes the next step from the workers that serve to those that are wanted, unless others are about to take their
// place: it is called again when these are live or discarded.
func (p *page) renew() {
	if p.current == nil || p.candidate.replaces() {
		return
	}
	p.shed()
	p.dropNeedless()
	c, r, set := p.candidate, p.current.release, p.set()
	switch {
	case c != nil && !c.beside: // tried again
		return
	case slices.ContainsFunc(set, func(inst *instance) bool { return !inst.fits(p) }):
		p.start(r, reconfigure, 0)
		return
	case c == nil:
		p.relieve(set)
	}
	if p.missing() > 0 && p.joining == nil && !p.short {
		p.begin(&candidate{release: r, why: grow, beside: true, aside: true}, 0)
	}
}

// relieve begins to replace one of the workers that is to be replaced by another one like it.
func (p *page) relieve(set []*instance) {
	for _, inst := range set {
		if why := inst.outworn(); why != "" {
			p.begin(&candidate{release: inst.release, why: why, beside: true, relieves: inst}, 0)
			return
		}
	}
}

// spent takes that a worker has served its max_requests.
func (p *page) spent(inst *instance) {
	inst.spent = true
	p.renew()
}

// bridgeAfter is how long the first build may take before the release that served last does again.
const bridgeAfter = 5 * time.Second

// bridge has the last good release serve while the first build takes long, or no builder comes up: a server that was
// restarted then serves what it did before.
func (p *page) bridge() {
	if !executable(p.good.Artifact) {
		return
	}
	p.work.Go(func() {
		if sleep(p.ctx, bridgeAfter) != nil {
			return
		}
		p.post(func() {
			if p.built == nil && p.current == nil && p.candidate == nil && p.joining == nil {
				p.k.log.Warn("no build has ended yet: starting the last good release", "page", p.name, "release", p.good.short(), "after", bridgeAfter, "hint", "`tqserver status` shows the builder")
				p.start(p.good, fallback, 0)
			}
		})
	})
}

// unreachable replaces a worker that lives but takes no connection. That one is refused is also the first that is
// heard of a worker's end: its process gets a moment to be seen to have ended.
func (p *page) unreachable(inst *instance, err error) {
	if !p.serves(inst) || inst.suspect {
		return
	}
	inst.suspect = true
	p.work.Go(func() {
		select {
		case <-inst.worker.Done():
		case <-time.After(200 * time.Millisecond):
			p.post(func() { p.replaceDeaf(inst, err) })
		}
	})
}

func (p *page) replaceDeaf(inst *instance, err error) {
	inst.suspect = false
	if p.serves(inst) && p.candidate == nil {
		p.k.log.Error("the worker takes no connections, replacing it", "page", p.name, "worker", inst.id, "error", err)
		p.failed(inst)
		p.begin(&candidate{release: inst.release, why: replace, beside: true, relieves: inst}, min(backoff(p.failures-1), restartLimit))
	}
}

// checked takes a report of the checker.
func (p *page) checked(h sdk.Health) {
	set := p.set()
	i := slices.IndexFunc(set, func(inst *instance) bool { return inst.id == h.Target })
	if i < 0 {
		return
	}
	inst := set[i]
	inst.healthy.Store(&h.Healthy)
	if h.Healthy {
		return
	}
	inst.ailment = fmt.Sprintf("worker %s is unhealthy: %s (%d in a row)", inst.id, h.Reason, h.Failures)
	p.problem = inst.ailment
	p.k.log.Error(p.problem+", replacing it", "page", p.name)
	p.renew()
}

// backoff is the delay before the n-th start in a row: none, then 100 ms doubling to 30 s, half of it at random.
func backoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	d := min(100*time.Millisecond<<min(n-1, 20), 30*time.Second)
	return d/2 + rand.N(d/2)
}

// sleep waits for d or ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// executable tells whether a release can still be started.
func executable(artifact string) bool {
	info, err := os.Stat(artifact)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o100 != 0
}

func ptr[T any](v T) *T { return &v }
