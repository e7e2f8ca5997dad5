package main

import (
	"context"
	"io/fs"
	"path"
	"path/filepath"

	"github.com/tqserver/tqserver/sdk"
)

// resolver makes a page of every directory with a main.go; index is "/".
type resolver struct{}

func (*resolver) Resolve(ctx context.Context, trees <-chan sdk.Tree, push func(sdk.Table) error) error {
	return sdk.ResolverFunc(routes).Resolve(ctx, trees, push)
}

func routes(_ context.Context, t sdk.Tree) (sdk.Table, error) {
	var table sdk.Table
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
