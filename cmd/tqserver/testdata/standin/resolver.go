package main

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"

	"github.com/tqserver/tqserver/sdk"
)

// resolver makes a page of every directory with a main.go; index is "/".
type resolver struct{}

func (*resolver) Resolve(ctx context.Context, trees <-chan sdk.Tree, push func(sdk.Table) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case t := <-trees:
			table, err := routes(t)
			if err != nil {
				return err
			}
			var refused *sdk.RefusedError
			if err := push(table); err != nil && !errors.As(err, &refused) {
				return err
			}
		}
	}
}

func routes(t sdk.Tree) (sdk.Table, error) {
	table := sdk.Table{Revision: t.Revision}
	err := filepath.WalkDir(t.Root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "main.go" {
			return err
		}
		dir := filepath.Dir(file)
		rel, err := filepath.Rel(t.Root, dir)
		if err != nil {
			return err
		}
		page := filepath.ToSlash(rel)
		route := sdk.Route{Path: path.Join("/", page), Page: page, Dir: dir, Source: dir}
		if page == "index" {
			route.Path = "/"
		}
		table.Routes = append(table.Routes, route)
		return nil
	})
	return table, err
}
