package builder

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	lanesKept  = 4               // of a source: an edit of the imports is often taken back
	ahead      = 16              // sources whose lane is prepared before their first edit
	backLimit  = 2 * time.Minute // for one piece of work in the background
	missesWarn = 3               // builds in a row that had a lane and needed the go command all the same
)

// fast is what is remembered of the lane of one source.
type fast struct {
	mu      sync.Mutex
	lanes   []*lane // the newest last
	pending bool    // something is done in the background
	next    *build  // the newest one that leaves something to do there
	refused string  // plan that has no lane
	off     bool    // the lane made something else than the go command
	stale   bool    // the toolchain is another one
	misses  int
	built   built // the last build
	checked time.Time
}

// built is a build on the lane.
type built struct {
	release string
	lane    *lane
	local   map[string]string // archives of the units
}

// lanes is what the lanes of all sources share.
type lanes struct {
	background background
	temps      temps
	log        hclog.Logger
	mu         sync.Mutex
	stores     map[string]*store // by OutDir
}

// stop ends what is done in the background, and the linkers that wait.
func (l *lanes) stop() {
	l.background.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.stores {
		s.linker.Close()
	}
}

func (l *lanes) store(outDir string) *store {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stores[outDir] == nil {
		if l.stores == nil {
			l.stores = map[string]*store{}
		}
		l.stores[outDir] = newStore(outDir, l.log)
	}
	return l.stores[outDir]
}

// lane gives the lane of the build's plan, nil if there is none (yet).
func (b *build) lane() *lane {
	f := &b.src.fast
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.config.Fast == "off" || f.off {
		return nil
	}
	return f.lane(b.laneKey())
}

func (f *fast) lane(key string) *lane {
	for _, l := range f.lanes {
		if l.key == key {
			return l
		}
	}
	return nil
}

// missed tells why the go command had to build what has a lane.
func (b *build) missed(why error) {
	f := &b.src.fast
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(b.laneKey())
	if f.misses++; f.misses == missesWarn {
		b.log.Warn("builds of the page go through the go command again and again, which takes longer", "page", b.job.Page, "why", why)
		return
	}
	b.log.Debug("not built on the fast lane", "page", b.job.Page, "why", why)
}

// drop forgets a lane: it is prepared anew.
func (f *fast) drop(key string) {
	f.lanes = slices.DeleteFunc(f.lanes, func(l *lane) bool { return l.key == key })
}

// keep takes note of a build on the lane, for the next check, and lets the archives go that it replaces.
func (b *build) keep(r *laneRun) {
	f := &b.src.fast
	f.mu.Lock()
	before := f.built
	f.built, f.misses = built{b.state.release, r.lane, r.local}, 0
	f.mu.Unlock()
	gone := ""
	if before.lane != nil {
		gone = before.main()
	}
	b.hold(r, gone)
}

// hold keeps the archives of the source's lanes, and lets the others go.
func (b *build) hold(r *laneRun, gone string) {
	names := map[string]bool{filepath.Base(r.config): true}
	for name := range maps.Values(r.local) {
		names[name] = true
	}
	f := &b.src.fast
	f.mu.Lock()
	for _, l := range append([]*lane{r.lane}, f.lanes...) {
		for name := range maps.Values(l.fixed) {
			names[name] = true
		}
	}
	f.mu.Unlock()
	r.store.hold(b.job.Source, names, gone)
}

// main names the archive of the page.
func (t built) main() string { return t.local[t.lane.units[len(t.lane.units)-1].path] }

// afterwards has done in the background what a good build leaves to do: the lane of its plan is prepared, or what came
// from the lane is compared with what the go command makes.
func (b *build) afterwards(cached bool) {
	if cached && b.sourceCount() > ahead {
		return
	}
	f := &b.src.fast
	f.mu.Lock()
	defer f.mu.Unlock()
	later := b.silent()
	later.plan, later.state = b.plan, b.state
	if later.todo() == nil {
		return
	}
	f.next = later
	if !f.pending {
		f.pending = true
		b.lanes.background.do(b.busy, later.catchUp)
	}
}

// catchUp does what the newest build leaves to do, until there is nothing.
func (b *build) catchUp(ctx context.Context) {
	f := &b.src.fast
	for {
		f.mu.Lock()
		var work func(context.Context)
		if next := f.next; next != nil && ctx.Err() == nil {
			work = next.todo()
		}
		f.next, f.pending = nil, work != nil
		f.mu.Unlock()
		if work == nil {
			b.lanes.store(b.job.OutDir).sweep(time.Now())
			return
		}
		limited, cancel := context.WithTimeout(ctx, backLimit)
		work(limited)
		cancel()
	}
}

// todo gives what is to be done after a build, nil for nothing. It is called with the lock of the source's fast.
func (b *build) todo() func(context.Context) {
	f, key := &b.src.fast, b.laneKey()
	if b.config.Fast == "off" || f.off || f.refused == key {
		return nil
	}
	if f.lane(key) == nil {
		return b.ready
	}
	every := time.Duration(b.config.CheckMinutes) * time.Minute
	if f.built.release == b.state.release && every > 0 && (f.checked.IsZero() || time.Since(f.checked) > every) {
		return b.check
	}
	return nil
}

// ready prepares the lane of the plan.
func (b *build) ready(ctx context.Context) {
	start, key := time.Now(), b.laneKey()
	l, err := b.prepare(ctx, b.plan, b.state.files)
	f := &b.src.fast
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.lanes = append(f.lanes[max(0, len(f.lanes)-lanesKept+1):], l)
		b.log.Debug("fast lane is ready", "page", b.job.Page, "took", time.Since(start))
	case ctx.Err() != nil || errors.Is(err, errChanged) || errors.Is(err, errSlow):
		b.log.Debug("fast lane is not ready, the next build tries again", "page", b.job.Page, "why", err)
	default:
		f.refused = key
		b.log.Debug("page has no fast lane", "page", b.job.Page, "why", err)
	}
}

// check has the go command compile what the lane compiled last, and compares. If files changed meanwhile it says
// nothing.
func (b *build) check(ctx context.Context) {
	f := &b.src.fast
	f.mu.Lock()
	last := f.built
	f.mu.Unlock()
	if env, err := b.goEnv(ctx); err == nil && !b.sameSettings(env) {
		f.mu.Lock()
		f.stale = true
		f.mu.Unlock()
		return
	}
	pkgs, err := b.exports(ctx)
	if now := b.plan.scan(b.state.files); err != nil || now.release != last.release || now.shape != b.plan.shape {
		b.log.Debug("check of the fast lane came to nothing", "page", b.job.Page, "error", err)
		return
	}
	differs := b.differences(pkgs, last)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked = time.Now()
	if len(differs) == 0 || f.built.release != last.release { // the archives may be gone by now
		return
	}
	f.off, f.lanes = true, nil
	b.disown(last.release)
	b.log.Warn("the fast lane compiles the page other than the go command does; it is off for this page from now on: "+
		"save the page to have it built by the go command, set `fast: off` in the builder's config to switch the lane off for good, and please report this",
		"page", b.job.Page, "release", last.release, "go", b.plan.version, "packages", strings.Join(differs, " "))
}

// differences names the packages of which the go command has another archive than the lane.
func (b *build) differences(pkgs []pkg, last built) []string {
	s := b.lanes.store(b.job.OutDir)
	var differs []string
	for _, q := range pkgs {
		name, ok := last.local[q.ImportPath]
		if !ok || q.Export == "" {
			continue
		}
		if same, err := sameArchives(s.path(name), q.Export); err != nil {
			b.log.Debug("check of the fast lane came to nothing", "page", b.job.Page, "error", err)
		} else if !same {
			differs = append(differs, q.ImportPath)
		}
	}
	return differs
}

// turned tells whether a check found another toolchain.
func (f *fast) turned() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.stale
	f.stale = false
	return was
}

// disown has a release built again when it is wanted again. A worker that runs it goes on.
func (b *build) disown(release string) {
	if err := os.Remove(filepath.Join(b.job.OutDir, release, recordName)); err != nil {
		b.log.Debug("release stays", "release", release, "error", err)
	}
}
