// Package resolver holds the resolvers of the default bundle.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/tqserver/tqserver/sdk"
)

// FS is the resolver that routes by the place of a page in the file system: pages/api/users serves /api/users, and
// pages/index serves /.
type FS struct {
	changed chan struct{} // the configuration did

	mu   sync.Mutex
	skip []string
}

var _ sdk.Resolver = (*FS)(nil)

// Config is the `config:` block of resolver/fs.
type Config struct {
	Skip []string `tq:"skip" doc:"patterns of further directories that hold no pages: a name, or a path relative to the pages directory"`
}

// NewFS makes a resolver that skips the usual directories only.
func NewFS() *FS { return &FS{changed: make(chan struct{}, 1)} }

// ServeFS runs the resolver as a plugin.
func ServeFS() {
	f := NewFS()
	sdk.Serve("fs", sdk.Version, f, sdk.Config(f.Configure))
}

// Configure sets the configuration; a table for the newest tree is pushed again.
func (f *FS) Configure(_ context.Context, c Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.skip = slices.Clone(c.Skip)
	select {
	case f.changed <- struct{}{}:
	default:
	}
	return nil
}

// Resolve implements sdk.Resolver: one table for each tree. What cannot be read is a diagnostic, beside the routes that
// it last had in this stream. It returns when ctx ends, trees is closed (nil) or push fails (its error).
func (f *FS) Resolve(ctx context.Context, trees <-chan sdk.Tree, push func(sdk.Table) error) error {
	r := newResolution()
	return answer(ctx, trees, f.changed, push, func(tree sdk.Tree) sdk.Table {
		f.mu.Lock()
		r.skip = f.skip
		f.mu.Unlock()
		return r.table(tree)
	})
}

// answer pushes a table for each tree, and one more for the newest tree whenever the configuration changed. It returns
// when ctx ends, trees is closed (nil) or push fails (its error).
func answer(ctx context.Context, trees <-chan sdk.Tree, changed <-chan struct{}, push func(sdk.Table) error, table func(sdk.Tree) sdk.Table) error {
	select {
	case <-changed: // it is read with the first tree
	default:
	}
	var tree sdk.Tree
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case t, ok := <-trees:
			if !ok {
				return nil
			}
			tree = t
		case <-changed:
			if tree.Root == "" {
				continue
			}
		}
		var refused *sdk.RefusedError // the kernel tells the user; the next tree may do better
		if err := push(table(tree)); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
}

// resolution is what one stream remembers: it makes the next table faster, and complete where a directory cannot be
// read for a while.
type resolution struct {
	skip    []string
	root    string
	last    []sdk.Route
	clauses map[string]clause // path of a .go file -> what its head says
}

func newResolution() *resolution { return &resolution{clauses: map[string]clause{}} }

func (r *resolution) table(tree sdk.Tree) sdk.Table {
	if tree.Root != r.root {
		r.root, r.last = tree.Root, nil
	}
	w := newWalk(r)
	w.run(tree.Root)
	r.clauses, r.last = w.clauses, w.routes
	if len(w.routes) == 0 && w.complete {
		w.warn(tree.Root, fmt.Sprintf("no page in %s: a page is a directory in it with a package main; `tqserver new` makes a sample", printable(tree.Root)))
	}
	return sdk.Table{Revision: tree.Revision, Routes: w.routes, Diagnostics: w.diagnostics, AllowEmpty: w.complete}
}

// rootMessage says what to do about a pages directory that cannot be read.
func rootMessage(root string, err error) string {
	root = printable(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("pages directory %s does not exist: create it or set pages.directory", root)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Sprintf("pages directory %s is not a directory: set pages.directory", root)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("pages directory %s cannot be read: permission denied: let the user that runs tqserver read it", root)
	}
	return fmt.Sprintf("pages directory %s cannot be read: %v: set pages.directory", root, cause(err))
}

// cause is an error without the path that the message around it names already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// printable makes a path fit for a message: it may hold any bytes.
func printable(path string) string {
	quoted := fmt.Sprintf("%q", path)
	if plain := quoted[1 : len(quoted)-1]; plain == path {
		return path
	}
	return quoted
}

// routePath gives the path that a page answers: its own, without "index" at the end.
func routePath(page string) string {
	if page == "index" {
		return "/"
	}
	return "/" + strings.TrimSuffix(page, "/index")
}
