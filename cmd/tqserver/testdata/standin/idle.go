package main

import (
	"context"
	"fmt"

	"github.com/tqserver/tqserver/sdk"
)

// idle answers every call at once, for measuring what a call costs. A tree's revision is how many routes its table has.
type idle struct{}

func (idle) Resolve(ctx context.Context, trees <-chan sdk.Tree, push func(sdk.Table) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case t := <-trees:
			table := sdk.Table{Revision: t.Revision}
			for i := range t.Revision {
				name := fmt.Sprintf("section/page%d", i)
				table.Routes = append(table.Routes, sdk.Route{Path: "/" + name, Page: name, Dir: "/srv/site/pages/" + name, Source: "/srv/site/pages/" + name})
			}
			if err := push(table); err != nil {
				return err
			}
		}
	}
}

func (idle) Build(_ context.Context, _ sdk.Job, event func(sdk.Event)) (sdk.Result, error) {
	event(sdk.Event{Step: "nothing"})
	return sdk.Result{OK: true, Cached: true}, nil
}

func (idle) Check(ctx context.Context, sets <-chan sdk.TargetSet, report func(sdk.Health) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-sets:
			for _, t := range s.Targets {
				if err := report(sdk.Health{Target: t.ID, Healthy: true, Version: s.Version}); err != nil {
					return err
				}
			}
		}
	}
}

func (idle) Watch(ctx context.Context, _ <-chan sdk.WatchSet, _ func(sdk.ChangeSet) error) error {
	return forever(ctx)
}

func (idle) Write(context.Context, sdk.Batch) error { return nil }
