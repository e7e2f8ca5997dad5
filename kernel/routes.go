package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/sdk"
)

// routes is the table in force and the pages that it names.
type routes struct {
	taking   sync.Mutex // held while a table is taken, until it is on disk; never by who holds mu
	mu       sync.Mutex
	table    sdk.Table
	pages    map[string]*page
	cancels  map[string]context.CancelFunc
	leaving  sync.WaitGroup
	ready    chan struct{} // closed when the first table is in force
	revision uint64        // of the newest tree that was answered
	tree     uint64        // of the newest tree that was sent
	asked    notifier      // a new tree is to be sent
	answered notifier
	closed   bool
	moving   sync.RWMutex // held while a reload moves the pages directory: no tree is sent meanwhile
}

func newRoutes() *routes {
	return &routes{pages: map[string]*page{}, cancels: map[string]context.CancelFunc{}, ready: make(chan struct{})}
}

func (r *routes) loaded() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// wait waits for the first table.
func (r *routes) wait(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case <-r.ready:
	case <-ctx.Done():
	}
}

// list gives the pages in the order of the table.
func (r *routes) list() []*page {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.pages), func(a, b *page) int { return cmp.Compare(a.name, b.name) })
}

// close ends all pages and waits for them.
func (r *routes) close() {
	r.mu.Lock()
	r.closed = true
	for _, cancel := range r.cancels {
		cancel()
	}
	r.mu.Unlock()
	r.leaving.Wait()
}

// resolve asks for a new table.
func (r *routes) resolve() (revision uint64) {
	r.mu.Lock()
	r.tree++
	revision = r.tree
	r.mu.Unlock()
	r.asked.notify()
	return revision
}

// resolved waits until the tree of a revision was answered.
func (r *routes) resolved(ctx context.Context, revision uint64) {
	for {
		changed := r.answered.changed()
		r.mu.Lock()
		done := r.revision >= revision
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// feedResolver gives the resolver its trees and takes its tables. While it is down the table in force stays; when it
// does not come up at the start, the table of the last run serves.
func (k *Kernel) feedResolver(ctx context.Context) error {
	fallback := time.AfterFunc(5*time.Second, k.lastTable)
	defer fallback.Stop()
	return k.stages.resolver.Session(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		trees := make(chan sdk.Tree)
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); feed(ctx, &k.routes.asked, k.tree, trees) }()
		defer func() { cancel(); <-done }()
		return k.takeTables(ctx, conn, trees)
	})
}

// takeTables gives a resolver trees and takes its tables until ctx ends. A refused table ends it, with an error, when
// the resolver is a replacement on probation: the one before was better.
func (k *Kernel) takeTables(ctx context.Context, conn *grpc.ClientConn, trees <-chan sdk.Tree) error {
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := k.expect("resolver", "a table of routes")
	defer answered()
	err := sdk.NewResolver(conn).Resolve(ctx, trees, func(t sdk.Table) error {
		answered()
		err := k.accept(t)
		if err != nil && !k.stages.resolver.Status().Probation.IsZero() {
			failed = fmt.Errorf("its table is refused: %w", err)
			cancel()
		}
		return err
	})
	return cmp.Or(failed, err)
}

func (k *Kernel) tree() sdk.Tree {
	k.routes.moving.RLock()
	defer k.routes.moving.RUnlock()
	k.routes.mu.Lock()
	defer k.routes.mu.Unlock()
	k.routes.tree++
	return sdk.Tree{Root: k.site.abs(k.config().Pages.Directory), Revision: k.routes.tree}
}

// lastTable is the floor of the resolver at the start.
func (k *Kernel) lastTable() {
	var t sdk.Table
	if k.routes.loaded() || loadJSON(k.site.path("routes.json"), &t) != nil {
		return
	}
	k.log.Warn("the resolver does not answer: serving the routes of the last run", "routes", len(t.Routes))
	t.Epoch, t.Version, t.Revision = "", 0, 0 // of a resolver, and a kernel, that are no more
	if err := k.accept(t); err != nil {
		k.log.Error("the routes of the last run are unusable", "error", err)
	}
}

// accept puts a table in force and on disk, or tells why not and changes nothing.
func (k *Kernel) accept(t sdk.Table) error {
	k.routes.taking.Lock()
	defer k.routes.taking.Unlock()
	changed, err := k.enforce(t)
	if err != nil {
		k.log.Error("the resolver's table is refused, the last good one stays", "error", err)
		return err
	}
	if !changed { // as after most saves of a file
		return nil
	}
	if err := saveJSON(k.site.path("routes.json"), t); err != nil {
		k.log.Warn("the route table could not be kept for the next start", "error", err)
	}
	k.saveReleases() // those of pages that are no more are forgotten
	return nil
}

// enforce puts a table in force, and tells whether it differs from the one before.
func (k *Kernel) enforce(t sdk.Table) (changed bool, err error) {
	r := k.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(t); err != nil {
		return false, err
	}
	if err := k.apply(t); err != nil {
		return false, err
	}
	for _, d := range t.Diagnostics {
		if !slices.Contains(r.table.Diagnostics, d) {
			k.logDiagnostic(d)
		}
	}
	changed = !r.loaded() || !slices.Equal(t.Routes, r.table.Routes) || !slices.Equal(t.Diagnostics, r.table.Diagnostics)
	r.table, r.revision = t, max(r.revision, t.Revision)
	if !r.loaded() {
		close(r.ready)
	}
	r.answered.notify()
	return changed, nil
}

func (k *Kernel) logDiagnostic(d sdk.Diagnostic) {
	if d.Warning {
		k.log.Warn(d.String())
	} else {
		k.log.Error(d.String())
	}
}

// check refuses a table that cannot be meant.
func (r *routes) check(t sdk.Table) error {
	switch {
	case r.closed:
		return errors.New("the server is stopping")
	case t.Epoch != "" && t.Epoch == r.table.Epoch && t.Version <= r.table.Version:
		return fmt.Errorf("version %d is not newer than %d", t.Version, r.table.Version)
	}
	return t.Check()
}

// apply makes pages and routes those of a table. The caller holds the lock.
func (k *Kernel) apply(t sdk.Table) error {
	r := k.routes
	fresh := map[string]*page{}
	cancels := map[string]context.CancelFunc{}
	table := make([]proxy.Route, 0, len(t.Routes))
	for _, route := range t.Routes {
		p := cmp.Or(r.pages[route.Page], fresh[route.Page])
		if p == nil {
			ctx, cancel := context.WithCancel(context.Background())
			p = newPage(ctx, k, route)
			fresh[route.Page], cancels[route.Page] = p, cancel
		}
		table = append(table, proxy.Route{Host: route.Host, Path: route.Path, Backend: p.backend})
	}
	if err := k.proxy.SetRoutes(table); err != nil {
		for _, cancel := range cancels {
			cancel()
		}
		return err
	}
	kept := map[string]sdk.Route{}
	for _, route := range slices.Backward(t.Routes) {
		kept[route.Page] = route // its first
	}
	for name, p := range r.pages {
		if route, ok := kept[name]; ok {
			p.post(func() {
				if p.route != route {
					p.rerouted(route)
				}
			})
			continue
		}
		k.log.Info("page removed", "page", name)
		r.cancels[name]()
		delete(r.pages, name)
		delete(r.cancels, name)
		k.good.remove(name)
		k.devGone(name)
	}
	for name, p := range fresh {
		if r.loaded() {
			k.log.Info("page added", "page", name)
		}
		r.pages[name], r.cancels[name] = p, cancels[name]
		r.leaving.Go(p.run)
	}
	return nil
}
