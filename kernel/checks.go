package kernel

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/sdk"
)

// feedChecker gives the checker the workers that serve and takes its reports. While it is down, the end of a process
// and failed connections still count.
func (k *Kernel) feedChecker(ctx context.Context) error {
	return k.stages.checker.Session(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		sets := make(chan sdk.TargetSet)
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); feed(ctx, &k.targets, k.targetSet, sets) }()
		defer func() { cancel(); <-done }()
		return sdk.NewChecker(conn).Check(ctx, sets, k.checked)
	})
}

func (k *Kernel) targetSet() sdk.TargetSet {
	set := sdk.TargetSet{Version: k.targetSets.Add(1)}
	for _, p := range k.routes.list() {
		for _, inst := range p.view.Load().serving {
			set.Targets = append(set.Targets, sdk.Target{ID: inst.id, Page: p.name, Addr: inst.target()})
		}
	}
	return set
}

func (k *Kernel) checked(h sdk.Health) error {
	for _, p := range k.routes.list() {
		if slices.ContainsFunc(p.view.Load().serving, func(inst *instance) bool { return inst.id == h.Target }) {
			p.post(func() { p.checked(h) })
		}
	}
	return nil
}
