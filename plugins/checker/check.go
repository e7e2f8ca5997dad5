// Package checker holds the checkers of the default bundle.
package checker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

const (
	firstWithin = 2 * time.Second // of a target's appearance comes its first probe, or within the interval
	atOnce      = 64              // probes
)

// checker is what the checkers share: all but the probe itself. It is safe for concurrent use.
type checker struct {
	log   hclog.Logger
	slots chan struct{}

	mu   sync.Mutex
	rule rule
}

var (
	_ sdk.Checker = (*checker)(nil)
	_ sdk.Logs    = (*checker)(nil)
)

// rule says how workers are probed, and what follows from the results.
type rule struct {
	interval, timeout   time.Duration
	failures, successes int // in a row, that change the state

	what  string // the probe, for people: "GET /health"
	probe func(ctx context.Context, target sdk.Target) error
}

// newRule takes times in milliseconds.
func newRule(interval, timeout, failures, successes int) rule {
	return rule{interval: time.Duration(interval) * time.Millisecond, timeout: time.Duration(timeout) * time.Millisecond,
		failures: failures, successes: successes}
}

func newChecker() *checker {
	return &checker{log: hclog.NewNullLogger(), slots: make(chan struct{}, atOnce)}
}

// SetLogger is to be called before anything else.
func (c *checker) SetLogger(l hclog.Logger) { c.log = l }

// apply sets the rule from each target's next probe on.
func (c *checker) apply(r rule) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rule = r
}

func (c *checker) current() rule {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rule
}

// Check probes each target of the newest set on its own, the first time soon after it appears, so that a hung one
// delays no other. It reports the first state of a target that is certain, and every change: after one good probe,
// or as many bad ones in a row as configured. A target that is no longer in the set is forgotten at once, and its
// probe is cancelled. Check returns when ctx ends, sets is closed, or a report is refused.
func (c *checker) Check(ctx context.Context, sets <-chan sdk.TargetSet, report func(sdk.Health) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	run := &check{checker: c, report: report, fail: cancel, targets: map[string]*target{}}
	defer run.work.Wait()
	defer cancel(nil)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case set, ok := <-sets:
			if !ok {
				return nil
			}
			run.take(ctx, set)
		}
	}
}

// check is one run of Check.
type check struct {
	checker *checker
	report  func(sdk.Health) error
	fail    context.CancelCauseFunc
	work    sync.WaitGroup

	mu      sync.Mutex
	version uint64
	targets map[string]*target
}

// target is one worker that is probed.
type target struct {
	sdk.Target
	cancel    context.CancelFunc
	known     bool // its state was reported
	healthy   bool
	failures  int // in a row
	successes int // in a row
}

// take starts to probe what is new in a set and ends what is not in it. A target whose address changed is new.
func (c *check) take(ctx context.Context, set sdk.TargetSet) {
	stays := map[string]bool{}
	for _, t := range set.Targets {
		stays[t.ID] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = set.Version
	for id, t := range c.targets {
		if !stays[id] {
			t.cancel()
			delete(c.targets, id)
		}
	}
	for _, t := range set.Targets {
		old := c.targets[t.ID]
		if old != nil && old.Target == t {
			continue
		}
		if old != nil {
			old.cancel()
		}
		probing, cancel := context.WithCancel(ctx)
		fresh := &target{Target: t, cancel: cancel}
		c.targets[t.ID] = fresh
		c.work.Go(func() { c.watch(probing, fresh) })
	}
}

// watch probes one target until ctx ends.
func (c *check) watch(ctx context.Context, t *target) {
	wait := rand.N(min(c.checker.current().interval, firstWithin))
	for sleep(ctx, wait) {
		r := c.checker.current()
		began := time.Now()
		err := c.once(ctx, t, r)
		if ctx.Err() != nil {
			return
		}
		if health, news := c.book(t, r, err); news {
			if err := c.report(health); err != nil {
				c.fail(err)
				return
			}
		}
		wait = r.interval - time.Since(began)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// once runs one probe when there is a slot for it. Its time starts then.
func (c *check) once(ctx context.Context, t *target, r rule) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case c.checker.slots <- struct{}{}:
	}
	defer func() { <-c.checker.slots }()
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	err := r.probe(ctx, t.Target)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer to %s within %s", r.what, r.timeout)
	}
	return err
}

// book counts a result, and tells whether the state that it leads to is news.
func (c *check) book(t *target, r rule, failure error) (health sdk.Health, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	health = sdk.Health{Target: t.ID, Version: c.version}
	if failure != nil {
		t.failures, t.successes = t.failures+1, 0
		health.Failures, health.Reason = t.failures, failure.Error()
		c.checker.log.Debug("probe failed", "page", t.Page, "target", t.ID, "addr", t.Addr, "failures", t.failures, "error", failure)
		if t.failures < r.failures || t.known && !t.healthy {
			return health, false
		}
	} else {
		t.failures, t.successes = 0, t.successes+1
		health.Healthy = true
		if t.known && (t.healthy || t.successes < r.successes) {
			return health, false
		}
	}
	t.known, t.healthy = true, health.Healthy
	return health, true
}
