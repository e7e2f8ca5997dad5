package kernel

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// goodReleases remembers, over restarts, the last release of each page that served: it serves when the newest source
// does not build.
type goodReleases struct {
	path string
	mu   sync.Mutex
	all  map[string]release
}

func loadGoodReleases(path string) *goodReleases {
	g := &goodReleases{path: path, all: map[string]release{}}
	_ = loadJSON(path, &g.all) // without it, a page that does not build at the start is down until it does
	return g
}

func (g *goodReleases) get(page string) release {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all[page]
}

func (g *goodReleases) set(page string, r release) { g.change(func() { g.all[page] = r }) }

func (g *goodReleases) remove(page string) { g.change(func() { delete(g.all, page) }) }

func (g *goodReleases) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := maps.Clone(g.all)
	f()
	if !maps.EqualFunc(before, g.all, func(a, b release) bool { return a.ID == b.ID && a.Artifact == b.Artifact }) {
		_ = saveJSON(g.path, g.all) // as above
	}
}

func (g *goodReleases) artifacts() map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	keep := map[string]bool{}
	for _, r := range g.all {
		keep[filepath.Dir(r.Artifact)] = true
	}
	return keep
}

// cleanReleases removes old binaries every hour: those that were not used for workers.binary_max_age_hours, except
// what runs or is being started and each page's last good one. Names that begin with "." are the builders' own.
func (k *Kernel) cleanReleases(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		k.cleanOnce(time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leastAge is how old a binary is at least before it is removed: one that was built, or found again, a moment ago is
// about to be started.
const leastAge = time.Minute

func (k *Kernel) cleanOnce(now time.Time) {
	keep := k.good.artifacts()
	for _, p := range k.routes.list() {
		for _, artifact := range p.view.Load().artifacts {
			keep[filepath.Dir(artifact)] = true
		}
	}
	age := max(k.config().Workers.BinaryMaxAge, leastAge)
	entries, err := os.ReadDir(*k.site.releases.Load())
	if err != nil {
		k.log.Warn("old binaries cannot be removed", "error", err)
		return
	}
	for _, e := range entries {
		dir := filepath.Join(*k.site.releases.Load(), e.Name())
		info, err := e.Info()
		if err != nil || keep[dir] || strings.HasPrefix(e.Name(), ".") || now.Sub(info.ModTime()) < age {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			k.log.Warn("an old binary cannot be removed", "error", err)
			continue
		}
		k.log.Debug("old binary removed", "release", e.Name())
	}
}
