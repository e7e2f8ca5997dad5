package stage

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/config"
)

// backoff says how long to wait after a failure. It knows no clock and is for one goroutine.
type backoff struct {
	limits   config.Restart
	random   func() float64 // 0 ≤ x < 1
	delay    time.Duration  // of the next failure, before jitter
	failures []time.Time    // within limits.Per
	degraded bool
}

// failed counts a failure at now of an instance that ran that long (0: it did not start). It returns the wait
// before the next start, and whether the budget is used up. The wait is between half of the current delay and all
// of it, so that several plugins with one cause do not start in step. Only a run of limits.ResetAfter, or reset,
// ends the degraded state.
func (b *backoff) failed(now time.Time, ran time.Duration) (wait time.Duration, degraded bool) {
	if ran >= b.limits.ResetAfter {
		b.reset()
	}
	recent := b.failures[:0]
	for _, at := range b.failures {
		if now.Sub(at) < b.limits.Per {
			recent = append(recent, at)
		}
	}
	b.failures = append(recent, now)
	if b.limits.Budget > 0 && len(b.failures) >= b.limits.Budget {
		b.degraded = true
	}
	if b.degraded {
		return b.limits.DegradedRetry, true
	}
	if b.delay == 0 {
		b.delay = b.limits.Initial
	}
	wait = b.delay/2 + time.Duration(b.random()*float64(b.delay-b.delay/2))
	b.delay = min(2*b.delay, b.limits.Max)
	return wait, false
}

// reset forgets all failures.
func (b *backoff) reset() { b.delay, b.failures, b.degraded = 0, nil, false }

// pulse is how a running plugin is asked whether it is well: every period, with an answer due within limit. After so
// many misses in a row it is not.
type pulse struct {
	period, limit time.Duration
	misses        int
}

// heartbeats find a plugin that hangs within 8 s, for one small call every 2 s.
var heartbeats = pulse{period: 2 * time.Second, limit: 2 * time.Second, misses: 3}

// watch calls check until it failed too often in a row, or at once when there is nobody to answer, which is its
// error. It returns nil when ctx ends.
func (p pulse) watch(ctx context.Context, check func(ctx context.Context) error) error {
	tick := time.NewTicker(p.period)
	defer tick.Stop()
	for misses := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		once, cancel := context.WithTimeout(ctx, p.limit)
		err := check(once)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			misses = 0
			continue
		case status.Code(err) == codes.Unavailable:
			return fmt.Errorf("heartbeat: %w", err)
		}
		if misses++; misses == p.misses {
			return fmt.Errorf("missed %d heartbeats in a row: %w", misses, err)
		}
	}
}
