package kernel

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// replace puts a plugin in the place of the one that runs, once it has shown what it does. c is the configuration that
// the plugin is for, which a reload puts in force afterwards.
func (k *Kernel) replace(ctx context.Context, c *config.Config, sup *stage.Supervisor, spec stage.Spec, how stage.Replacement) error {
	how.Trial = k.trial(c, spec.Stage, how.Force)
	how.Fresh = how.Fresh || spec.Stage == "resolver" // its configuration alone can lose all routes: that is tried, too
	return sup.Replace(ctx, spec, how)
}

// trial is what a new plugin of a stage is to do before it serves. Nothing that it does then has an effect: what a
// builder or a rotator is for cannot be tried so, and they have none.
func (k *Kernel) trial(c *config.Config, name string, force bool) func(ctx context.Context, conn *grpc.ClientConn) error {
	switch {
	case name == "resolver":
		return func(ctx context.Context, conn *grpc.ClientConn) error {
			return k.tryResolver(ctx, conn, k.site.abs(c.Pages.Directory), force)
		}
	case name == "watcher":
		return k.tryWatcher
	case name == "checker" && !force:
		return k.tryChecker
	}
	return nil
}

// tryResolver takes the plugin's table of the pages as they are. One that has lost most of the routes, or all of them
// though it may be empty, is rather a mistake than meant: force is for when it is.
func (k *Kernel) tryResolver(ctx context.Context, conn *grpc.ClientConn, root string, force bool) error {
	k.routes.mu.Lock()
	tree := sdk.Tree{Root: root, Revision: k.routes.tree}
	k.routes.mu.Unlock()
	table, err := first(ctx, tree, sdk.NewResolver(conn).Resolve)
	if err != nil {
		return err
	}
	k.routes.mu.Lock()
	defer k.routes.mu.Unlock()
	if err := k.routes.check(table); err != nil {
		return refusedTable(table, err)
	}
	if live := len(k.routes.table.Routes); 2*len(table.Routes) < live && !force {
		return refusedTable(table, fmt.Errorf("it has %d of the %d routes in force, less than half: if that is meant, run `tqserver plugin reload resolver --force`", len(table.Routes), live))
	}
	return nil
}

// refusedTable adds what the resolver says about the pages, which may be why.
func refusedTable(t sdk.Table, err error) error {
	for _, d := range t.Diagnostics {
		if !d.Warning {
			return fmt.Errorf("its first table is refused: %w (it says: %s)", err, d)
		}
	}
	return fmt.Errorf("its first table is refused: %w", err)
}

// tryWatcher waits for the plugin's first look at the files.
func (k *Kernel) tryWatcher(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := first(ctx, k.files.present(), sdk.NewWatcher(conn).Watch)
	return err
}

// tryChecker waits for the plugin's first report, of a worker that is known to be well: of another it may take long.
func (k *Kernel) tryChecker(ctx context.Context, conn *grpc.ClientConn) error {
	var set sdk.TargetSet
	for _, p := range k.routes.list() {
		for _, inst := range p.view.Load().serving {
			if healthy := inst.healthy.Load(); healthy != nil && *healthy {
				set.Targets = append(set.Targets, sdk.Target{ID: inst.id, Page: p.name, Addr: inst.target()})
			}
		}
	}
	if len(set.Targets) == 0 {
		return nil
	}
	_, err := first(ctx, set, sdk.NewChecker(conn).Check)
	return err
}

// first runs a stream until something has come of one value.
func first[In, Out any](ctx context.Context, in In, stream func(ctx context.Context, in <-chan In, take func(Out) error) error) (out Out, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ins := make(chan In, 1)
	ins <- in
	got := false
	err = stream(ctx, ins, func(v Out) error {
		if !got {
			out, got = v, true
			cancel()
		}
		return nil
	})
	switch {
	case got:
		return out, nil
	case err == nil:
		err = errors.New("it ended its stream without an answer")
	}
	return out, err
}
