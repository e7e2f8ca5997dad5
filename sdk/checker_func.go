package sdk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Probing is the part of a CheckerFunc's configuration that the adapter adds to the plugin's own.
type Probing struct {
	Interval  int `tq:"interval_ms,default=30000,min=10" doc:"time between two probes of a worker"`
	Timeout   int `tq:"timeout_ms,default=5000,min=1" doc:"a worker that has not answered by then fails the probe"`
	Failures  int `tq:"failures,default=3,min=1" doc:"failed probes in a row that make a worker unhealthy"`
	Successes int `tq:"successes,default=1,min=1" doc:"good probes in a row that make it healthy again"`
}

func (p Probing) interval() time.Duration { return time.Duration(p.Interval) * time.Millisecond }
func (p Probing) timeout() time.Duration  { return time.Duration(p.Timeout) * time.Millisecond }

const (
	probesAtOnce = 64
	firstWithin  = 2 * time.Second // of a target's appearance comes its first probe, or within the interval
)

// CheckerFunc makes a Checker of a function that probes one target and gives the reason why it is not well, for Serve.
// The configuration has the keys of Probing after those of C; a change applies from each target's next probe on. The
// function is called for many targets at once, 64 at most, so that a hung one delays no other, and must return when its
// context ends: after the timeout, with a cause like "no answer within 5s", which also stands in for an error that is
// context.DeadlineExceeded; or because the target is gone. A panic is a failed probe.
//
// The first probe comes at a random moment within two seconds of the target's appearance, or within the interval if that
// is shorter. The first state of a target is reported as soon as it is certain, and every change of it from then on:
// healthy after one good probe at first, after so many in a row later; unhealthy after so many bad ones in a row. A
// target that is no longer in the set, or has another address, is forgotten and its probe cancelled. Failed probes are
// logged at debug level.
func CheckerFunc[C any](probe func(ctx context.Context, config C, target Target) error) Checker {
	return &checkerFunc[C]{settings: newSettings[checkerConfig[C]](), probe: probe, slots: make(chan struct{}, probesAtOnce)}
}

type checkerConfig[C any] struct {
	Own     C
	Probing Probing
}

func (c *checkerConfig[C]) Validate() error { return validate(&c.Own) }

type checkerFunc[C any] struct {
	*settings[checkerConfig[C]]
	probe func(ctx context.Context, config C, target Target) error
	slots chan struct{}
}

func (f *checkerFunc[C]) Check(ctx context.Context, sets <-chan TargetSet, report func(Health) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &checking{log: f.log, once: f.once, report: report, fail: cancel, probes: map[string]*probe{},
		spread: func() time.Duration { return min(f.current().Probing.interval(), firstWithin) }}
	defer c.work.Wait()
	defer cancel(nil)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case set, ok := <-sets:
			if !ok {
				return nil
			}
			c.take(ctx, set)
		}
	}
}

// once runs one probe when there is a slot for it, under the rules that are in force then. Its time starts then, too.
func (f *checkerFunc[C]) once(ctx context.Context, t Target) (Probing, error) {
	select {
	case <-ctx.Done():
		return Probing{}, ctx.Err()
	case f.slots <- struct{}{}:
	}
	defer func() { <-f.slots }()
	config := f.current()
	late := fmt.Errorf("no answer within %s", config.Probing.timeout())
	ctx, cancel := context.WithTimeoutCause(ctx, config.Probing.timeout(), late)
	defer cancel()
	err := f.call(ctx, func(ctx context.Context) error { return f.probe(ctx, config.Own, t) })
	if errors.Is(err, context.DeadlineExceeded) {
		err = late
	}
	return config.Probing, err
}

// checking is one run of Check.
type checking struct {
	log    hclog.Logger
	once   func(context.Context, Target) (Probing, error)
	spread func() time.Duration // of first probes
	report func(Health) error
	fail   context.CancelCauseFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	version uint64
	probes  map[string]*probe
}

// probe is what is known about one target.
type probe struct {
	Target
	cancel              context.CancelFunc
	known, healthy      bool // known: it was reported
	failures, successes int  // in a row
}

// take starts to probe what is new in a set and ends what is not in it.
func (c *checking) take(ctx context.Context, set TargetSet) {
	wanted := map[string]Target{}
	for _, t := range set.Targets {
		wanted[t.ID] = t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = set.Version
	for id, p := range c.probes {
		if t, ok := wanted[id]; !ok || t != p.Target {
			p.cancel()
			delete(c.probes, id)
		}
	}
	for id, t := range wanted {
		if c.probes[id] != nil {
			continue
		}
		probing, cancel := context.WithCancel(ctx)
		p := &probe{Target: t, cancel: cancel}
		c.probes[id] = p
		c.work.Go(func() { c.watch(probing, p) })
	}
}

// watch probes one target until ctx ends.
func (c *checking) watch(ctx context.Context, p *probe) {
	wait := rand.N(c.spread())
	for pause(ctx, wait) {
		began := time.Now()
		rules, err := c.once(ctx, p.Target)
		if ctx.Err() != nil {
			return
		}
		if health, news := c.book(p, rules, err); news {
			if err := c.report(health); err != nil {
				c.fail(err)
				return
			}
		}
		wait = rules.interval() - time.Since(began)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// book counts a result, and tells whether the state that it leads to is news.
func (c *checking) book(p *probe, rules Probing, failure error) (health Health, news bool) {
	c.mu.Lock()
	health = Health{Target: p.ID, Healthy: failure == nil, Version: c.version}
	c.mu.Unlock()
	if failure == nil {
		p.failures, p.successes = 0, p.successes+1
		news = !p.known || !p.healthy && p.successes >= rules.Successes
	} else {
		p.failures, p.successes = p.failures+1, 0
		health.Failures, health.Reason = p.failures, failure.Error()
		c.log.Debug("probe failed", "page", p.Page, "target", p.ID, "addr", p.Addr, "failures", p.failures, "error", failure)
		news = p.failures >= rules.Failures && (!p.known || p.healthy)
	}
	if news {
		p.known, p.healthy = true, health.Healthy
	}
	return health, news
}
