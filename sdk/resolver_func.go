package sdk

import (
	"context"
	"errors"
)

// ResolverFunc makes a Resolver of a function from a tree to its routes, for Serve. The function is called for each
// tree, and again for the last one when the configuration changes, one call at a time. Its error, or panic, is shown
// as a diagnostic, and the routes of its last success stay.
func ResolverFunc[C any](resolve func(ctx context.Context, config C, tree Tree) (Table, error)) Resolver {
	return &resolverFunc[C]{newSettings[C](), resolve}
}

type resolverFunc[C any] struct {
	*settings[C]
	resolve func(ctx context.Context, config C, tree Tree) (Table, error)
}

func (f *resolverFunc[C]) Resolve(ctx context.Context, trees <-chan Tree, push func(Table) error) error {
	var tree *Tree
	var last Table
	config, changed := f.get()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case t, ok := <-trees:
			if !ok {
				return nil
			}
			tree = &t
		}
		config, changed = f.get()
		if tree == nil {
			continue
		}
		last = f.table(ctx, config, *tree, last)
		var refused *RefusedError
		if err := push(last); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
}

// table gives what to push for a tree: after a failure the routes of the last table, with the reason.
func (f *resolverFunc[C]) table(ctx context.Context, config C, tree Tree, last Table) Table {
	var table Table
	err := f.call(ctx, func(ctx context.Context) (err error) {
		table, err = f.resolve(ctx, config, tree)
		return err
	})
	if err != nil {
		table = last
		table.Diagnostics = []Diagnostic{{Message: err.Error(), File: tree.Root}}
	}
	table.Revision = tree.Revision
	return table
}
