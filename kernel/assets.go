package kernel

import (
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/worker"
	"github.com/tqserver/tqserver/sdk"
)

// The life of a save that needs no build: assetsChanged → the workers are told → updated → effective. Such files are
// templates, static files and data: what the watcher reports and no build has read. Nothing is built and no worker is
// restarted for them; a page that keeps them in memory asks to be told.

// mostWaiting bounds what is remembered of files of which a worker was told.
const mostWaiting = 1000

// assets is what a page knows about such files, and whom to tell.
type assets struct {
	mu      sync.Mutex
	version uint64                  // of the files: counts the changes
	workers map[*worker.Worker]bool // all that live, in whatever state

	// Owned by the page's goroutine.
	waiting   []sdk.Change    // the worker in service was told of them and has not taken them
	update    *control.Update // the last answer of the worker in service
	unstarted string          // the release that did not start, which other files may mend
}

// start starts a worker that is told of every change from its first instant on.
func (a *assets) start(spec worker.Spec) (*worker.Worker, error) {
	a.mu.Lock()
	before := a.version
	a.mu.Unlock()
	w, err := worker.Start(spec)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bury()
	a.workers[w] = true
	if a.version != before {
		w.Tell(nil)
	}
	return w, nil
}

// tell tells all workers; nil is that any file may have changed. The result is whether one of them will answer.
func (a *assets) tell(files []string, one *instance) (answers bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	a.bury()
	for w := range a.workers {
		if heard := w.Tell(files); one != nil && w == one.worker {
			answers = heard
		}
	}
	return answers
}

// bury forgets the workers that have ended. It is called with the lock held.
func (a *assets) bury() {
	if a.workers == nil {
		a.workers = map[*worker.Worker]bool{}
	}
	maps.DeleteFunc(a.workers, func(w *worker.Worker, _ bool) bool { return w.Err() != nil })
}

// assetsChanged takes the changes that need no build.
func (p *page) assetsChanged(changes []sdk.Change) {
	var files []string
	var mine []sdk.Change
	for _, c := range changes {
		if p.isInput(c.Path) {
			continue
		}
		files = append(files, c.Path)
		if p.built != nil && (below(p.route.Dir, c.Path) || p.shared(c.Path)) {
			mine = append(mine, c)
		}
	}
	if len(files) == 0 {
		return
	}
	answers := p.assets.tell(files, p.current)
	if len(mine) == 0 {
		return
	}
	p.tryAgain()
	if !answers {
		p.effective(mine)
		return
	}
	p.assets.waiting = append(p.assets.waiting, mine...)
	p.assets.waiting = p.assets.waiting[max(0, len(p.assets.waiting)-mostWaiting):]
}

// rescanAssets is for when what has changed is not known: the watcher was away, and does not report removed files that
// no build has read.
func (p *page) rescanAssets() { p.assets.tell(nil, nil) }

func (k *Kernel) rescanAssets() {
	for _, p := range k.routes.list() {
		p.rescanAssets()
	}
}

// isInput tells whether the last build has read a file, or would have read it.
func (p *page) isInput(path string) bool {
	src := p.sources.Load()
	if src == nil {
		return false
	}
	if _, ok := src.inputs[path]; ok {
		return true
	}
	return matchesGlob(src.globs, path)
}

func matchesGlob(globs []string, path string) bool {
	for _, g := range globs {
		if sdk.Match(g, path) {
			return true
		}
	}
	return false
}

// shared tells whether a file lies in the pages directory and belongs to no page, because a directory above it begins
// with "_".
func (p *page) shared(path string) bool {
	rel, err := filepath.Rel(p.k.site.abs(p.k.config().Pages.Directory), path)
	return err == nil && filepath.IsLocal(rel) && strings.Contains("/"+filepath.ToSlash(rel), "/_")
}

// tryAgain starts the newest release anew, if it did not start: a broken template may have been why, and that is not
// mended by a build.
func (p *page) tryAgain() {
	c := p.candidate
	switch {
	case c != nil && c.release.ID == p.assets.unstarted && time.Until(c.begins) > 0:
		p.start(c.release, c.why, 0)
	case c == nil && p.building == nil && p.stale != "" && p.newest(release{ID: p.assets.unstarted}):
		r := p.built.result
		p.built.changed, p.assets.unstarted = time.Now(), ""
		p.start(release{ID: r.Release, Artifact: r.Artifact, Argv: r.Argv, Env: r.Env}, deploy, 0)
	}
}

// updated takes the answer of a worker that was told of changed files.
func (p *page) updated(inst *instance, u worker.Update) {
	had := len(inst.faults) > 0
	inst.faults = nil
	for _, f := range u.Faults {
		inst.faults = append(inst.faults, sdk.Diagnostic{Message: f.Message, File: f.File, Line: f.Line})
	}
	if inst != p.current {
		return
	}
	p.assets.update = &control.Update{At: time.Now(), Worker: inst.id, Files: len(u.Files), DurationUS: u.Took.Microseconds(),
		OK: len(inst.faults) == 0, Diagnostics: inst.faults}
	for _, d := range inst.faults {
		p.k.log.Error(updateFailed+p.relative(d), "page", p.name)
	}
	if len(inst.faults) > 0 {
		p.k.log.Warn("the page serves on with the files it had before", "page", p.name, "worker", inst.id)
		return
	}
	if len(u.Files) > 0 || had {
		p.k.log.Info("updated: "+p.route.Host+p.route.Path, "page", p.name, "worker", inst.id, "files", len(u.Files), "took", u.Took.Round(10*time.Microsecond))
	}
	p.taken()
}

// taken is for when the worker in service has the files as they are now.
func (p *page) taken() {
	changes := p.assets.waiting
	p.assets.waiting = nil
	p.effective(changes)
}

// assetsSwapped is for a new worker in service.
func (p *page) assetsSwapped() {
	p.assets.unstarted = ""
	p.taken()
}

const updateFailed = "update failed: "

// faults is what is wrong with files that the page reads while it runs.
func (p *page) faults() []sdk.Diagnostic {
	if p.current == nil {
		return nil
	}
	return p.current.faults
}

// misread says it in words.
func (p *page) misread() string {
	var lines []string
	for _, d := range p.faults() {
		lines = append(lines, updateFailed+p.relative(d))
	}
	return strings.Join(lines, "\n")
}

// effective is where changed files that need no build have taken effect: the next request gets what is made of them.
// It is called on the page's goroutine.
func (p *page) effective(changes []sdk.Change) {
	if len(changes) > 0 {
		p.k.log.Debug("changed files are live", "page", p.name, "files", len(changes), "first", changes[0].Path)
		p.devAssets(changes)
	}
}
