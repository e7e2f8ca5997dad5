package resolver

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/tqserver/tqserver/sdk"
)

// VHost is the resolver that serves several hosts: the first level of directories names them, and below each is a tree
// as FS takes it. pages/example.org/api serves example.org/api.
type VHost struct {
	changed chan struct{} // the configuration did

	mu     sync.Mutex
	config VHostConfig
}

var _ sdk.Resolver = (*VHost)(nil)

// NewVHost makes a resolver without aliases, that answers no host but those of the directories.
func NewVHost() *VHost { return &VHost{changed: make(chan struct{}, 1)} }

// ServeVHost runs the resolver as a plugin.
func ServeVHost() {
	v := NewVHost()
	sdk.Serve("vhost", sdk.Version, v, sdk.Config(v.Configure))
}

// Configure sets the configuration; a table for the newest tree is pushed again.
func (v *VHost) Configure(_ context.Context, c VHostConfig) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.config = c
	select {
	case v.changed <- struct{}{}:
	default:
	}
	return nil
}

// Resolve implements sdk.Resolver, by the contract of [FS.Resolve].
func (v *VHost) Resolve(ctx context.Context, trees <-chan sdk.Tree, push func(sdk.Table) error) error {
	h := &hosts{trees: map[string]*resolution{}}
	return answer(ctx, trees, v.changed, push, func(tree sdk.Tree) sdk.Table {
		v.mu.Lock()
		h.config = v.config
		v.mu.Unlock()
		return h.table(tree)
	})
}

// hosts is what one stream remembers.
type hosts struct {
	config VHostConfig
	root   string
	trees  map[string]*resolution // of each host
	last   []sdk.Route
}

// table puts the tables of all hosts together.
func (h *hosts) table(tree sdk.Tree) sdk.Table {
	root := filepath.Clean(tree.Root)
	if root != h.root {
		*h = hosts{config: h.config, root: root, trees: map[string]*resolution{}}
	}
	all := sdk.Table{Revision: tree.Revision, AllowEmpty: true}
	entries, err := os.ReadDir(root)
	if err != nil {
		all.Routes, all.AllowEmpty = h.last, false
		all.Diagnostics = []sdk.Diagnostic{{Message: rootMessage(root, err), File: root}}
		return all
	}
	names, diagnostics := h.names(entries)
	others, problems := h.config.others(names)
	all.Diagnostics = diagnostics
	for _, problem := range problems {
		all.Diagnostics = append(all.Diagnostics, sdk.Diagnostic{Warning: true, Message: problem, File: root})
	}
	maps.DeleteFunc(h.trees, func(name string, _ *resolution) bool { return !slices.Contains(names, name) })
	for _, name := range names {
		h.add(&all, name, others[name])
	}
	h.last = all.Routes
	return all
}

// names gives the hosts that have a directory, and what is wrong with the other directories.
func (h *hosts) names(entries []os.DirEntry) (names []string, found []sdk.Diagnostic) {
	for _, e := range entries {
		dir := filepath.Join(h.root, e.Name())
		info, err := os.Stat(dir)
		if os.IsNotExist(err) || err == nil && !info.IsDir() || skips(h.config.Skip, e.Name(), e.Name()) {
			continue
		}
		if err := checkHost(e.Name()); err != nil {
			found = append(found, sdk.Diagnostic{File: strings.ToValidUTF8(dir, "\uFFFD"),
				Message: fmt.Sprintf("directory %s is not served, for its name is to be a host: %v; rename it", printable(dir), err)})
			continue
		}
		names = append(names, e.Name())
	}
	if len(names) == 0 {
		found = append(found, sdk.Diagnostic{Warning: true, File: h.root,
			Message: fmt.Sprintf("no host in %s: a directory in it that is named as a host, like example.org, holds the pages of that host", printable(h.root))})
	}
	return names, found
}

// add adds the pages of a host: each with a route for the host itself, and one for each other name that it answers to.
func (h *hosts) add(all *sdk.Table, host string, others []string) {
	r := h.trees[host]
	if r == nil {
		r = newResolution()
		h.trees[host] = r
	}
	r.skip = h.config.Skip
	t := r.table(sdk.Tree{Root: filepath.Join(h.root, host)})
	all.Diagnostics = append(all.Diagnostics, t.Diagnostics...)
	all.AllowEmpty = all.AllowEmpty && t.AllowEmpty
	for _, route := range t.Routes {
		route.Page = path.Join(host, route.Page)
		for _, route.Host = range append([]string{host}, others...) {
			all.Routes = append(all.Routes, route)
		}
	}
}
