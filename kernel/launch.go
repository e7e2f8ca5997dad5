package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/port"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/kernel/spool"
	"github.com/tqserver/tqserver/kernel/worker"
	"github.com/tqserver/tqserver/sdk"
)

// launchAll starts workers side by side and waits until they are ready. Those that are to take the place of others
// come all or none, but for those without a port, which may follow; of several that join others each does when it is
// ready, and the result is what has become of the rest. On an error nothing of them is left.
func (p *page) launchAll(ctx context.Context, c *candidate, ids []string, route sdk.Route, settings config.Worker, delay time.Duration) ([]*instance, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fresh, errs := make([]*instance, len(ids)), make([]error, len(ids))
	var starts sync.WaitGroup
	for i, id := range ids {
		starts.Go(func() {
			fresh[i], errs[i] = p.launch(ctx, id, c.release, route, settings, delay)
			switch {
			case errs[i] == nil && c.beside && len(ids) > 1:
				inst := fresh[i]
				fresh[i] = nil
				p.post(func() { p.joined(c, inst) })
			case errs[i] != nil && !c.beside && !errors.Is(errs[i], port.ErrExhausted):
				cancel() // the others are of no use
			}
		})
	}
	starts.Wait()
	fresh = slices.DeleteFunc(fresh, func(inst *instance) bool { return inst == nil })
	failed, portless := sortErrors(errs)
	switch {
	case len(fresh) == 0:
		return nil, cmp.Or(failed, portless)
	case failed != nil && !c.beside:
		p.discard(fresh)
		return nil, failed
	}
	return fresh, nil
}

// sortErrors gives why starts have failed, rather than that they were cancelled for it, and that there was no port.
func sortErrors(errs []error) (failed, portless error) {
	for _, err := range errs {
		switch {
		case errors.Is(err, port.ErrExhausted):
			portless = err
		case failed == nil || errors.Is(failed, context.Canceled):
			failed = cmp.Or(err, failed)
		}
	}
	return failed, portless
}

// discard ends workers that have had no request.
func (p *page) discard(set []*instance) {
	var ends sync.WaitGroup
	for _, inst := range set {
		ends.Go(func() { inst.close(p.k.config().Workers.ShutdownGracePeriod) })
	}
	ends.Wait()
}

// launch starts a worker and waits until it is ready. On an error nothing of it is left.
func (p *page) launch(ctx context.Context, id string, r release, route sdk.Route, settings config.Worker, delay time.Duration) (*instance, error) {
	if err := sleep(ctx, delay); err != nil {
		return nil, err
	}
	inst := &instance{id: id, release: r, route: route, settings: settings}
	if err := inst.claim(ctx, p); err != nil {
		return nil, err
	}
	workers := p.k.config().Workers
	var err error
	inst.worker, err = p.assets.start(p.spec(inst, workers))
	if err != nil {
		inst.freeAddr()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	readyCtx, cancel := context.WithTimeout(ctx, workers.ReadyTimeout)
	defer cancel()
	if err := inst.worker.Ready(readyCtx); err != nil {
		inst.close(0)
		if readyCtx.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("not ready within %v (workers.ready_timeout_ms): %w", workers.ReadyTimeout, err)
		}
		return nil, err
	}
	inst.ready = time.Now()
	if err := r.proof.wait(ctx); err != nil {
		inst.close(0)
		return nil, err
	}
	if err := inst.stay(ctx, workers.StartupDelay); err != nil {
		inst.close(workers.ShutdownGracePeriod)
		return nil, err
	}
	inst.endpoint = p.endpoint(inst)
	return inst, nil
}

func (p *page) spec(inst *instance, workers config.Workers) worker.Spec {
	s := inst.settings
	return worker.Spec{
		ID: inst.id, Page: p.name, Route: inst.route.Path, PageDir: inst.route.Dir, Release: inst.release.ID,
		Argv: inst.release.Argv, Dir: p.k.site.root, Port: inst.port(), Socket: inst.socket, Env: p.k.workerEnv(s.Env, inst.release.Env),
		GoMaxProcs: s.GoMaxProcs, MaxRequests: s.MaxRequests, GoMemLimit: s.GoMemLimit,
		ReadTimeout: s.ReadTimeout, WriteTimeout: s.WriteTimeout, IdleTimeout: s.IdleTimeout, Grace: workers.ShutdownGracePeriod,
		LogFile: p.logFile(s, time.Now()),
		Output:  p.output(inst),
		Updated: func(u worker.Update) { p.post(func() { p.updated(inst, u) }) },
	}
}

// logFile fills the template for the worker's own eyes; "" when the log is off.
func (p *page) logFile(s config.Worker, t time.Time) string {
	if s.LogFile == "" {
		return ""
	}
	return strings.NewReplacer("{path}", p.name, "{date}", t.Format(time.DateOnly)).Replace(p.k.site.abs(s.LogFile))
}

// output sends a worker's lines to its log.
func (p *page) output(inst *instance) func(worker.Stream, time.Time, []byte) {
	h := spool.Header{Stream: p.name, Page: p.name, Release: inst.release.ID, Worker: inst.id}
	if inst.settings.LogFile != "" {
		h.File = p.k.site.abs(inst.settings.LogFile)
	}
	tap := p.devTap(inst)
	return func(stream worker.Stream, t time.Time, line []byte) {
		tap(stream, line)
		source := sdk.Stdout
		if stream == worker.Stderr {
			source = sdk.Stderr
		}
		p.k.spool.Append(h, sdk.Line{Time: t, Source: source, Text: line})
		p.k.console.worker(p.name, line)
	}
}

func (p *page) endpoint(inst *instance) *proxy.Endpoint {
	s := inst.settings
	return proxy.NewEndpoint(proxy.EndpointOptions{
		Addr: inst.addr(), Page: p.name, Release: inst.release.ID, Worker: inst.id,
		ResponseTimeout: s.WriteTimeout, IdleTimeout: s.IdleTimeout, StreamIdleTimeout: s.StreamIdleTimeout, MaxInFlight: s.MaxInFlight, MaxRequests: uint64(s.MaxRequests),
		OnLimit:       func() { p.post(func() { p.spent(inst) }) },
		OnUnreachable: func(err error) { p.post(func() { p.unreachable(inst, err) }) },
	})
}

// sameSettings tells whether a worker started with a would be the same as one started with b. What is not of the
// worker, but of how requests are given to it, makes no difference.
func sameSettings(a, b config.Worker) bool {
	for _, w := range []*config.Worker{&a, &b} {
		w.Instances, w.MaxInFlight, w.QueueTimeout, w.QueueRequests, w.SlowStart = config.Instances{}, 0, 0, 0, 0
	}
	ea, eb := a.Env, b.Env
	a.Env, b.Env = nil, nil
	same := func(x, y *string) bool { return (x == nil) == (y == nil) && (x == nil || *x == *y) }
	return fmt.Sprint(a) == fmt.Sprint(b) && maps.EqualFunc(ea, eb, same)
}

// workerEnv resolves the `env:` of the configuration, and what the builder asks for, over which the former wins.
func (k *Kernel) workerEnv(env map[string]*string, more map[string]string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(more)) {
		out = append(out, name+"="+more[name])
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if v := env[name]; v != nil {
			out = append(out, name+"="+*v)
		} else if v, ok := k.lookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return out
}
