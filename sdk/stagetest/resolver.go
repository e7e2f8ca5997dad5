package stagetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	manyPages  = 10_000
	largeLimit = time.Second // for the routes of manyPages
)

func resolverChecks() []check {
	c := func(name, doc, hint string, run func(context.Context, *trial) error) check {
		return check{suite: "resolver", name: name, doc: doc, hint: see(hint, "resolver"), run: run}
	}
	large := c("large", "10,000 pages are resolved within 1 s, at best of three times, and come in one table", "a saved page waits for the next table; send it as one message, of up to 16 MiB", checkLargeTree)
	large.alone = true
	return []check{
		c("tree", "a tree is answered with a table of its revision that has routes", "answer each Tree, or a newer one, with a whole table that names its revision", checkTree),
		c("routes", "routes are canonical, each place has one page, and each page one directory", "the kernel refuses a whole table for one route that is not canonical", checkRoutes),
		c("same", "the same tree gives the same routes", "routes depend on the tree and the configuration only", checkSameTree),
		c("version", "versions rise within one epoch", "the epoch names one start of the plugin; versions rise from table to table, also across streams", checkVersions),
		c("epoch", "a new start has a new epoch", "make the epoch of the start's time or of random numbers", checkEpoch),
		c("refused", "a table that was refused changes nothing", "an Ack with an error means that the last good table stays; the next tree is answered as ever", checkRefused),
		c("added", "a page that is added is in the next table, and not after it was removed", "read the tree anew for each Tree that arrives", checkPageAdded),
		c("empty", "a directory without pages, or none at all, is answered", "send a table without routes (allow_empty says that it is meant), or one with a diagnostic", checkEmptyTree),
		large,
	}
}

// resolving is an open stream with a resolver.
type resolving struct {
	*stream[sdk.Tree, sdk.Table]
	s        *subject
	root     string
	revision uint64
	refusal  atomic.Bool // tables are refused
}

func (t *trial) resolve(ctx context.Context, s *subject, root string) *resolving {
	r := &resolving{s: s, root: root}
	r.stream = openStream(ctx, t, func(ctx context.Context, in <-chan sdk.Tree, push func(sdk.Table) error) error {
		return sdk.NewResolver(s.conn).Resolve(ctx, in, func(table sdk.Table) error {
			refuse := r.refusal.Load()
			if err := push(table); err != nil || !refuse {
				return err
			}
			return errors.New("refused by the conformance suite")
		})
	})
	return r
}

// table sends the tree and gives the table that answers it.
func (r *resolving) table(ctx context.Context) (got sdk.Table, err error) {
	r.revision++
	if err := r.send(ctx, sdk.Tree{Root: r.root, Revision: r.revision}); err != nil {
		return got, err
	}
	want := fmt.Sprintf("a table of the tree with revision %d", r.revision)
	return got, r.await(ctx, callLimit, want, func(table sdk.Table) (bool, error) {
		got = table
		return table.Revision == r.revision, nil
	})
}

func (r *resolving) exchange(ctx context.Context) error {
	table, err := r.table(ctx)
	if err != nil {
		return err
	}
	return hasRoutes(table)
}

func hasRoutes(table sdk.Table) error {
	if len(table.Routes) > 0 {
		return nil
	}
	return fmt.Errorf("the table of a tree with pages has no routes; diagnostics: %v", table.Diagnostics)
}

func openResolver(ctx context.Context, t *trial, s *subject) (session, error) {
	root, err := t.tree()
	if err != nil {
		return nil, err
	}
	return t.resolve(ctx, s, root), nil
}

// treePages is a tree that makes sense to a resolver that takes directories for paths and to one that takes the first
// level for hosts.
var treePages = []string{"index", "api", "api/users", "www.example.com/index", "www.example.com/shop", "www.example.com/shop/cart"}

const pageSource = "package main\n\nfunc main() {}\n"

// tree makes a directory of pages.
func (t *trial) tree() (root string, err error) {
	root = filepath.Join(t.dir, fmt.Sprintf("pages%d", t.next()))
	if t.plugin.Tree != "" {
		return root, os.CopyFS(root, os.DirFS(t.plugin.Tree))
	}
	for _, page := range treePages {
		if _, err := write(root, page+"/main.go", pageSource); err != nil {
			return "", err
		}
	}
	return root, nil
}

// resolver starts a plugin and opens a stream for a tree.
func (t *trial) resolver(ctx context.Context) (*resolving, error) {
	s, err := t.ready(ctx)
	if err != nil {
		return nil, err
	}
	root, err := t.tree()
	if err != nil {
		return nil, err
	}
	r := t.resolve(ctx, s, root)
	t.closers = append(t.closers, r.close)
	return r, nil
}

func checkTree(ctx context.Context, t *trial) error {
	r, err := t.resolver(ctx)
	if err != nil {
		return err
	}
	return r.exchange(ctx)
}

func checkRoutes(ctx context.Context, t *trial) error {
	r, err := t.resolver(ctx)
	if err != nil {
		return err
	}
	table, err := r.table(ctx)
	if err != nil {
		return err
	}
	return cmp.Or(hasRoutes(table), validTable(table))
}

// validTable holds a table of a tree with pages to what the kernel demands of it.
func validTable(table sdk.Table) error {
	if err := table.Check(); err != nil {
		return err
	}
	for _, r := range table.Routes {
		if info, err := os.Stat(r.Source); err != nil || !info.IsDir() {
			return fmt.Errorf("source %s of page %s is not a directory", r.Source, r.Page)
		}
	}
	return nil
}

func checkSameTree(ctx context.Context, t *trial) error {
	r, err := t.resolver(ctx)
	if err != nil {
		return err
	}
	first, err := r.table(ctx)
	if err != nil {
		return err
	}
	for range 3 {
		again, err := r.table(ctx)
		if err != nil {
			return err
		}
		if !slices.Equal(ordered(again.Routes), ordered(first.Routes)) {
			return fmt.Errorf("the same tree gave the routes %v, then %v", first.Routes, again.Routes)
		}
	}
	return hasRoutes(first)
}

func ordered(routes []sdk.Route) []sdk.Route {
	return slices.SortedFunc(slices.Values(routes), func(a, b sdk.Route) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Page, b.Page))
	})
}

func checkVersions(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	root, err := t.tree()
	if err != nil {
		return err
	}
	var last sdk.Table
	for range 2 { // streams
		r := t.resolve(ctx, s, root)
		for range 3 {
			table, err := r.table(ctx)
			switch {
			case err != nil:
			case table.Epoch == "":
				err = errors.New("a table has no epoch")
			case last.Epoch != "" && table.Epoch != last.Epoch:
				err = fmt.Errorf("the epoch changed from %q to %q in one process", last.Epoch, table.Epoch)
			case table.Version <= last.Version:
				err = fmt.Errorf("version %d came after %d", table.Version, last.Version)
			}
			if err != nil {
				r.close()
				return err
			}
			last = table
		}
		r.close()
	}
	return nil
}

func checkEpoch(ctx context.Context, t *trial) error {
	var epochs []string
	for range 2 {
		r, err := t.resolver(ctx)
		if err != nil {
			return err
		}
		table, err := r.table(ctx)
		if err != nil {
			return err
		}
		epochs = append(epochs, table.Epoch)
	}
	if epochs[0] == epochs[1] {
		return fmt.Errorf("two processes have the epoch %q", epochs[0])
	}
	return nil
}

func checkRefused(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	root, err := t.tree()
	if err != nil {
		return err
	}
	r := t.resolve(ctx, s, root)
	defer r.close()
	r.refusal.Store(true)
	if _, err := r.table(ctx); err != nil {
		return err
	}
	r.refusal.Store(false)
	if err := r.exchange(ctx); err != nil {
		return fmt.Errorf("after a table was refused: %w", r.s.died(ctx, err))
	}
	return s.check(ctx, callLimit, 1)
}

func checkPageAdded(ctx context.Context, t *trial) error {
	r, err := t.resolver(ctx)
	if err != nil {
		return err
	}
	before, err := r.table(ctx)
	if err != nil {
		return err
	}
	if err := hasRoutes(before); err != nil {
		return err
	}
	model := slices.MaxFunc(before.Routes, func(a, b sdk.Route) int { return cmp.Compare(strings.Count(a.Path, "/"), strings.Count(b.Path, "/")) })
	added := model.Dir + "added"
	if err := os.CopyFS(added, os.DirFS(model.Dir)); err != nil {
		return err
	}
	if err := r.awaitPage(ctx, added, true); err != nil {
		return err
	}
	if err := os.RemoveAll(added); err != nil {
		return err
	}
	return r.awaitPage(ctx, added, false)
}

// awaitPage asks for the next table, which has a page in a directory or has not.
func (r *resolving) awaitPage(ctx context.Context, dir string, want bool) error {
	table, err := r.table(ctx)
	if err != nil {
		return err
	}
	has := slices.ContainsFunc(table.Routes, func(route sdk.Route) bool { return route.Dir == dir })
	if has != want {
		return fmt.Errorf("the page in %s: in the next table: %v, on the disk: %v", dir, has, want)
	}
	return nil
}

func checkEmptyTree(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{"empty", "missing"} {
		root := filepath.Join(t.dir, name)
		if name == "empty" {
			if err := os.Mkdir(root, 0o755); err != nil {
				return err
			}
		}
		r := t.resolve(ctx, s, root)
		table, err := r.table(ctx)
		r.close()
		if err != nil {
			return fmt.Errorf("a directory that is %s: %w", name, err)
		}
		if len(table.Routes) > 0 {
			return fmt.Errorf("a directory that is %s has the routes %v", name, table.Routes)
		}
	}
	return s.use(ctx)
}

func checkLargeTree(ctx context.Context, t *trial) error {
	if t.plugin.Tree != "" {
		return skipError("a tree of its own is given")
	}
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	root, err := t.largeTree()
	if err != nil {
		return err
	}
	r := t.resolve(ctx, s, root)
	defer r.close()
	best := time.Duration(math.MaxInt64)
	for range 3 { // other programs may be busy
		start := time.Now()
		table, err := r.table(ctx)
		best = min(best, time.Since(start))
		if err != nil {
			return err
		}
		if len(table.Routes) < manyPages {
			return fmt.Errorf("the table of a tree with %d pages has %d routes", manyPages, len(table.Routes))
		}
		if err := validTable(table); err != nil {
			return err
		}
		if best <= t.within(largeLimit) {
			return nil
		}
	}
	return fmt.Errorf("the table of %d pages took %s at best, want %s", manyPages, best.Round(time.Millisecond), t.within(largeLimit))
}

// largeTree makes manyPages pages, in memory where there is such a place: a disk can take half a minute. Their source
// is one file with many names.
func (t *trial) largeTree() (root string, err error) {
	root, err = os.MkdirTemp("/dev/shm", "tqst")
	if err != nil {
		root = filepath.Join(t.dir, "large")
	}
	t.closers = append(t.closers, func() { os.RemoveAll(root) })
	source, err := write(root, ".source.go", pageSource)
	for i := 0; i < manyPages && err == nil; i++ {
		dir := filepath.Join(root, "www.example.com", fmt.Sprintf("s%02d", i/100), fmt.Sprintf("p%02d", i%100))
		if err = os.MkdirAll(dir, 0o755); err == nil {
			err = os.Link(source, filepath.Join(dir, "main.go"))
		}
	}
	return root, err
}
