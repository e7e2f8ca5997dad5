package main

import (
	"context"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// checker connects and hangs up.
type checker struct{ every time.Duration }

func (c *checker) Check(ctx context.Context, sets <-chan sdk.TargetSet, report func(sdk.Health) error) error {
	var set sdk.TargetSet
	known := map[string]sdk.Health{}
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case set = <-sets:
		case <-tick.C:
		}
		next := map[string]sdk.Health{}
		for _, t := range set.Targets {
			old, seen := known[t.ID]
			now := probe(ctx, t, old)
			now.Version = set.Version
			next[t.ID] = now
			if seen && old.Healthy == now.Healthy || now.Failures == 1 { // once is no state
				continue
			}
			if err := report(now); err != nil {
				return err
			}
		}
		known = next
	}
}

func probe(ctx context.Context, t sdk.Target, before sdk.Health) sdk.Health {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := t.Dial(ctx)
	if err != nil {
		failures := before.Failures + 1
		return sdk.Health{Target: t.ID, Healthy: failures == 1 && before.Healthy, Failures: failures, Reason: "standin: " + err.Error()}
	}
	conn.Close()
	return sdk.Health{Target: t.ID, Healthy: true}
}
