package kernel

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/tqserver/tqserver/kernel/port"
	"github.com/tqserver/tqserver/sdk"
)

// The life of a save, top to bottom: changed → build → releaseBuilt → start → launch → started → swap → retire.
// At any failure the old worker serves on.

// release is one built binary of a page, and how to run it.
type release struct {
	ID       string            `json:"id"`
	Artifact string            `json:"artifact"`
	Argv     []string          `json:"argv"`
	Env      map[string]string `json:"env,omitempty"`
	proof    *proof            // nil: it needs none
}

// short is the form of a release's name for people.
func (r release) short() string { return r.ID[:min(8, len(r.ID))] }

// build is a build under way.
type build struct{ cancel context.CancelFunc }

// buildReport is how a build ended.
type buildReport struct {
	at          time.Time
	result      sdk.Result
	diagnostics []sdk.Diagnostic
	changed     time.Time     // when the change arrived
	live        time.Duration // from the change to the swap; 0: not live
	times       timings
}

// skipped tells whether nothing is wrong with the source, but something that it needs is not on this machine: then a
// build fails with nothing but warnings.
func (r *buildReport) skipped() bool {
	return !r.result.OK && len(r.diagnostics) > 0 && !slices.ContainsFunc(r.diagnostics, func(d sdk.Diagnostic) bool { return !d.Warning })
}

// changed is the arrival of a change. One build a page at a time; the newest wins, the older one is cancelled.
func (p *page) changed(at time.Time) {
	if p.building != nil {
		p.again = true
		p.building.cancel()
		return
	}
	p.changedAt = at
	p.build()
}

func (p *page) build() {
	ctx, cancel := context.WithCancel(p.ctx)
	p.building, p.again, p.missed = &build{cancel}, false, nil
	job := sdk.Job{Page: p.name, Dir: p.route.Dir, Source: p.route.Source}
	p.work.Go(func() {
		defer cancel()
		report, err := p.k.build(ctx, job)
		p.post(func() { p.releaseBuilt(report, err) })
	})
	p.reserve() // for the worker of what is built
}

func (p *page) releaseBuilt(report *buildReport, err error) {
	p.building = nil
	if p.again {
		p.build()
		return
	}
	if errors.Is(err, context.Canceled) {
		return
	}
	if err != nil {
		report = &buildReport{at: time.Now(), diagnostics: []sdk.Diagnostic{{Message: err.Error()}}}
	}
	p.built, report.changed = report, p.changedAt
	p.timeBuild(report)
	if r := report.result; len(r.Inputs) > 0 {
		p.sources.Store(newSources(r))
		p.k.watchChanged()
		if p.outdated() {
			p.overtaken = ""
			p.build()
			return
		}
	}
	if !report.result.OK {
		p.buildFailed()
		return
	}
	res := report.result
	r := release{ID: res.Release, Artifact: res.Artifact, Argv: res.Argv, Env: res.Env, proof: p.prove(res)}
	p.keepBuilt(r, report)
	if !p.withheld(r) {
		p.deploy(r)
	}
}

func (p *page) buildFailed() {
	p.overtaken = ""
	what, log := "build failed", p.k.log.Error
	if p.built.skipped() {
		what, log = "skipped", p.k.log.Warn
	}
	p.stale = what
	if len(p.built.diagnostics) > 0 {
		p.stale += ": " + p.relative(p.built.diagnostics[0])
	}
	for _, d := range p.built.diagnostics {
		log(what+": "+p.relative(d), "page", p.name)
	}
	switch {
	case p.current != nil:
		p.k.log.Warn("the previous release serves on", "page", p.name, "release", p.current.release.short())
	case p.candidate != nil || p.joining != nil:
	case p.good.ID != "" && executable(p.good.Artifact):
		p.k.log.Warn("starting the last good release", "page", p.name, "release", p.good.short())
		p.start(p.good, fallback, 0)
	default:
		p.backend.Fail(errors.New(p.stale))
	}
}

// relative shortens the path of a diagnostic to what a user types.
func (p *page) relative(d sdk.Diagnostic) string {
	if rel, err := filepath.Rel(p.k.site.root, d.File); err == nil && filepath.IsLocal(rel) {
		d.File = rel
	}
	return d.String()
}

// deploy makes a release live, unless it is.
func (p *page) deploy(r release) {
	if p.candidate.brings(r) || p.candidate == nil && p.current == nil && p.joining.brings(r) {
		return // it is being started
	}
	p.stale, p.problem = "", ""
	if p.current != nil && p.current.release.ID == r.ID && (p.candidate == nil || p.candidate.beside) && p.current.fits(p) {
		p.problem = p.fault(nil)
		p.k.log.Debug("nothing to do: the release serves already", "page", p.name, "release", r.short())
		return
	}
	p.failures = 0
	p.backend.Fail(nil) // requests may wait again: there is something new to try
	why := deploy
	if p.current != nil && p.current.release.ID == r.ID {
		why = reconfigure
	}
	if p.joining != nil && p.joining.release.ID == r.ID {
		p.drop(&p.joining) // one of the same release is enough
	}
	if !p.rewarm(r, why, nil) {
		p.start(r, why, 0)
	}
}

// reason is why a worker is started.
type reason string

const (
	deploy      reason = "new release"
	fallback    reason = "last good release"
	reconfigure reason = "configuration changed"
	restart     reason = "worker ended"
	recycle     reason = "max_requests reached"
	replace     reason = "worker is unhealthy"
)

// candidate is what is being started: one worker or several. A newer one supersedes it.
type candidate struct {
	release  release
	why      reason
	beside   bool      // it joins the workers that serve; else it takes their place
	relieves *instance // the one of them in whose place it comes; nil: none
	aside    bool      // it is the page's joining
	tries    int       // that have failed
	fault    string    // why the last of these has
	begins   time.Time // after the delay
	cancel   context.CancelFunc
	portless bool            // it waits for a port
	ports    <-chan struct{} // closed when the ports changed since the start
	back     *wayBack        // nil: it goes forward
}

// start begins to start workers in the place of those that serve, after a delay.
func (p *page) start(r release, why reason, delay time.Duration) {
	p.begin(&candidate{release: r, why: why}, delay)
}

// repeat starts what a candidate was to start.
func (p *page) repeat(c *candidate, delay time.Duration) {
	p.begin(&candidate{release: c.release, why: c.why, beside: c.beside, relieves: c.relieves, aside: c.aside, tries: c.tries, fault: c.fault}, delay)
}

// begin begins a start after a delay, in place of the one that has its place.
func (p *page) begin(c *candidate, delay time.Duration) {
	if !c.beside && c.tries == 0 && p.current != nil {
		p.drop(&p.joining)
	}
	p.drop(p.place(c))
	*p.place(c) = c
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(p.ctx)
	c.begins, c.ports = time.Now().Add(delay), p.k.ports.Changed()
	ids := make([]string, p.span(c))
	for i := range ids {
		p.started++
		ids[i] = fmt.Sprintf("%s#%d", p.name, p.started)
	}
	route, settings := p.route, p.settings
	p.work.Go(func() {
		fresh, err := p.launchAll(ctx, c, ids, route, settings, delay)
		p.post(func() { p.startEnded(c, fresh, err) }) // while work goes on, the page lives
	})
}

// joined is where one of several workers that join is ready before the start of all comes back.
func (p *page) joined(c *candidate, inst *instance) {
	if *p.place(c) != c {
		p.retire(inst)
		return
	}
	p.follow(inst)
	p.swap(c, []*instance{inst})
}

// startEnded is where a start comes back: with an error, or with workers, unless they have joined by then.
func (p *page) startEnded(c *candidate, fresh []*instance, err error) {
	c.cancel()
	if *p.place(c) != c {
		c.superseded()
		p.retire(fresh...)
		return
	}
	*p.place(c) = nil
	var spoiled *artifactError
	if errors.As(err, &spoiled) && p.newest(c.release) && c.back == nil {
		p.k.good.forget(p.name, c.release.ID)
		p.built.result.OK, p.built.diagnostics = false, []sdk.Diagnostic{{Message: err.Error()}}
		p.buildFailed()
		return
	}
	if err != nil {
		p.startFailed(c, err)
		return
	}
	if len(fresh) == 0 {
		p.renew()
		return
	}
	for _, inst := range fresh {
		p.follow(inst)
	}
	p.swap(c, fresh)
}

// swap sends further requests to the new workers, and to those that they join. The old ones finish what they have.
func (p *page) swap(c *candidate, fresh []*instance) {
	set, old := fresh, p.set()
	if c.beside {
		set, old = p.join(c, fresh)
	} else {
		p.drop(&p.joining)
	}
	p.employ(set)
	p.depose(old, c)
	p.arrived(c, old)
	for i, inst := range fresh {
		p.live(c, inst, i == 0)
	}
	p.assetsSwapped()
	p.renew() // the configuration may have changed while it started
}

// live tells of a worker in service. The first of those that a release came with stands for the save.
func (p *page) live(c *candidate, inst *instance, first bool) {
	key, addr := inst.logAddr()
	args := []any{"page", p.name, "release", inst.release.short(), "worker", inst.id, "pid", inst.worker.PID(), key, addr, "why", string(c.why)}
	if p.newest(inst.release) {
		p.stale = ""
	}
	p.problem = p.fault(c)
	if first && c.why == deploy && p.newest(inst.release) {
		p.built.live = time.Since(p.built.changed)
		p.built.timeLive(inst)
		args = append(args, "build", p.built.result.Duration.Round(time.Millisecond), "total", p.built.live.Round(time.Millisecond))
		args = p.devLive(inst, args)
	}
	p.k.log.Info("live: "+p.route.Host+p.route.Path, args...)
	if inst.worker.Exposed() {
		p.k.log.Warn("the page listens on all interfaces: others can reach it past the server. Let it listen on 127.0.0.1", "page", p.name, "port", inst.port())
	}
}

// fault is why another start than c, which is still tried again, has failed.
func (p *page) fault(c *candidate) string {
	for _, other := range p.starts() {
		if other != c && other.fault != "" && other.fault != p.stale {
			return other.fault
		}
	}
	return ""
}

// newest tells whether a release is what the last build made.
func (p *page) newest(r release) bool {
	return p.built != nil && p.built.result.OK && p.built.result.Release == r.ID
}

// retire lets go of workers that are out of service: wait for the requests of each, then stop it, then give its port
// back.
func (p *page) retire(old ...*instance) {
	for _, inst := range old {
		p.leave(inst, p.k.config().Workers.RestartDelay)
	}
}

func (p *page) leave(inst *instance, delay time.Duration) {
	p.leaving[inst] = true
	p.work.Go(func() {
		workers := p.k.config().Workers
		_ = sleep(p.ctx, delay)
		inst.state.Store(ptr(draining))
		inst.worker.Retire()
		ctx, cancel := context.WithTimeout(p.k.cut, workers.DrainTimeout)
		defer cancel()
		if err := inst.endpoint.Drain(ctx); err != nil {
			limit := "workers.drain_timeout_ms"
			if p.k.cut.Err() != nil {
				limit = "server.shutdown_timeout_seconds"
			}
			p.k.log.Warn("requests did not end within "+limit+" and are cut", "page", p.name, "worker", inst.id, "requests", inst.endpoint.InFlight())
		}
		inst.close(workers.ShutdownGracePeriod)
		p.post(func() { delete(p.leaving, inst) })
	})
}

// startFailed decides what to do when a worker did not start. The release is discarded when another one serves.
func (p *page) startFailed(c *candidate, err error) {
	if errors.Is(err, context.Canceled) && p.ctx.Err() != nil {
		c.back.end(errors.New("the page is being taken down"))
		return
	}
	joins := c.beside && p.current != nil
	if joins && c.relieves == nil && errors.Is(err, port.ErrExhausted) {
		p.portless(c)
		return
	}
	if p.wayBackFailed(c, err) {
		return
	}
	text := fmt.Sprintf("release %s does not start: %v", c.release.short(), err)
	p.k.log.Error(text, "page", p.name, "why", string(c.why))
	p.assets.unstarted = c.release
	if p.newest(c.release) && !joins {
		p.stale = text
	} else {
		p.problem = text
	}
	switch {
	case errors.Is(err, port.ErrExhausted):
		p.startWhenPortFree(c, text)
		return
	case p.current != nil && c.why == deploy:
		p.k.log.Warn("the release is discarded, the previous one serves on", "page", p.name, "release", p.current.release.short())
		p.renew() // what had to wait for the release
		return
	case p.current == nil && p.good.ID != "" && p.good.ID != c.release.ID && executable(p.good.Artifact):
		p.fallBack()
		return
	}
	p.retry(c, text)
	if p.building == nil && !executable(c.release.Artifact) {
		p.k.log.Warn("the binary is gone, building it again", "page", p.name, "file", c.release.Artifact)
		p.changed(time.Now())
	}
}

// fallBack starts the release that served last now, unless that is being done.
func (p *page) fallBack() {
	switch c := p.joining; {
	case c == nil:
		p.start(p.good, fallback, 0)
	case time.Until(c.begins) > 0:
		p.repeat(c, 0)
	}
}

// retry starts again what did not start, after a wait: while nothing serves, after one that grows with all that has
// failed in a row.
func (p *page) retry(c *candidate, text string) {
	c.tries, c.fault = c.tries+1, text
	wait := backoff(c.tries)
	if p.current == nil {
		p.failures++
		wait = backoff(p.failures)
		if c.why == deploy || p.failures >= 3 {
			p.giveUp(text)
		}
	}
	p.repeat(c, wait)
}

// giveUp has requests not wait in vain, unless a worker comes that has not failed yet.
func (p *page) giveUp(why string) {
	if !slices.ContainsFunc(p.starts(), func(c *candidate) bool { return c.tries == 0 }) {
		p.backend.Fail(errors.New(why))
	}
}

// startWhenPortFree tries again as soon as the ports change.
func (p *page) startWhenPortFree(c *candidate, text string) {
	if p.current == nil {
		p.giveUp(p.trouble())
	}
	ctx, cancel := context.WithCancel(p.ctx)
	waiting := *c
	waiting.begins, waiting.cancel, waiting.portless = time.Time{}, cancel, true
	waiting.tries, waiting.fault = c.tries+1, text
	*p.place(c) = &waiting
	p.work.Go(func() {
		if p.portsChanged(ctx, c) != nil {
			return
		}
		p.post(func() {
			if *p.place(c) == &waiting {
				p.repeat(&waiting, 0)
				(*p.place(c)).takeOver(&waiting)
			}
		})
	})
}

// portsChanged waits until the ports have changed since a start began, or a foreign process may have left one.
func (p *page) portsChanged(ctx context.Context, c *candidate) error {
	t := time.NewTimer(5 * time.Second)
	defer t.Stop()
	select {
	case <-c.ports:
		return nil
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
