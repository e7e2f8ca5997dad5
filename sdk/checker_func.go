package sdk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
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
	firstWithin  = 100 * time.Millisecond // of a target's appearance comes its first probe
	fastProbe    = 200 * time.Millisecond // between two probes of a target that has not been healthy yet
)

// CheckerFunc makes a Checker of a function that probes one target and gives the reason why it is not well, for Serve.
// The configuration has the keys of Probing besides those of C. The function is called for many targets at once, 64 at
// most, with the timeout as its deadline, and must return when its context ends. A panic is a failed probe.
//
// The first state of a target is reported as soon as it is certain, and every change of it from then on: healthy after
// one good probe at first, after so many in a row later; unhealthy after so many bad ones in a row, each an interval
// after the other. Until its first state is known a target is probed five times a second, to find at once when it is
// healthy. A target that is no longer in the set, or has another address, is forgotten and its probe cancelled.
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
	c := &checking{once: f.once, probing: func() Probing { return f.current().Probing }, report: report, fail: cancel, probes: map[string]*probe{}}
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

// once runs one probe when there is a slot for it. Its time starts then.
func (f *checkerFunc[C]) once(ctx context.Context, t Target) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case f.slots <- struct{}{}:
	}
	defer func() { <-f.slots }()
	config := f.current()
	ctx, cancel := context.WithTimeout(ctx, config.Probing.timeout())
	defer cancel()
	err := f.call(ctx, func(ctx context.Context) error { return f.probe(ctx, config.Own, t) })
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", config.Probing.timeout())
	}
	return err
}

// checking is one run of Check.
type checking struct {
	once    func(context.Context, Target) error
	probing func() Probing
	report  func(Health) error
	fail    context.CancelCauseFunc
	work    sync.WaitGroup

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
	counted             time.Time
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
	wait := rand.N(firstWithin)
	for pause(ctx, wait) {
		began := time.Now()
		err := c.once(ctx, p.Target)
		if ctx.Err() != nil {
			return
		}
		settings := c.probing()
		if health, news := c.book(p, settings, err, began); news {
			if err := c.report(health); err != nil {
				c.fail(err)
				return
			}
		}
		if wait = settings.interval(); !p.known {
			wait = min(wait, fastProbe)
		}
		wait -= time.Since(began)
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
func (c *checking) book(p *probe, s Probing, failure error, at time.Time) (health Health, news bool) {
	c.mu.Lock()
	health = Health{Target: p.ID, Healthy: failure == nil, Version: c.version}
	c.mu.Unlock()
	if failure == nil {
		p.failures, p.successes = 0, p.successes+1
		if p.known && (p.healthy || p.successes < s.Successes) {
			return health, false
		}
		p.known, p.healthy = true, true
		return health, true
	}
	p.successes = 0
	if p.known || p.failures == 0 || at.Sub(p.counted) >= s.interval() {
		p.failures, p.counted = p.failures+1, at
	}
	health.Failures, health.Reason = p.failures, failure.Error()
	if p.failures < s.Failures || p.known && !p.healthy {
		return health, false
	}
	p.known, p.healthy = true, false
	return health, true
}
