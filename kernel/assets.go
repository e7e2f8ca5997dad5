package kernel

import (
	"maps"
	"math"
	"slices"
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
	waiting   []told  // the worker in service was told of them and has not answered that it has them
	unstarted release // did not start, which other files may mend
}

type told struct {
	call   int // see worker.Tell
	change sdk.Change
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

// tell tells all workers; nil is that any file may have changed. The result is what Tell has said of one of them.
func (a *assets) tell(files []string, one *instance) (call int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	a.bury()
	for w := range a.workers {
		if n := w.Tell(files); one != nil && w == one.worker {
			call = n
		}
	}
	return call
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
	changes = slices.DeleteFunc(slices.Clone(changes), func(c sdk.Change) bool { return p.isInput(c.Path) })
	if len(changes) == 0 {
		return
	}
	files := make([]string, len(changes))
	for i, c := range changes {
		files[i] = c.Path
	}
	call := p.assets.tell(files, p.current)
	if p.built == nil {
		return
	}
	owns := p.owns()
	mine := slices.DeleteFunc(changes, func(c sdk.Change) bool { return !owns(c.Path) })
	if len(mine) == 0 {
		return
	}
	p.tryAgain()
	if call == 0 {
		p.effective(mine)
		return
	}
	for _, c := range mine {
		p.assets.waiting = append(p.assets.waiting, told{call, c})
	}
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
	return slices.ContainsFunc(src.globs, func(glob string) bool { return sdk.Match(glob, path) })
}

// tryAgain starts the newest release anew, if it did not start: a broken template may have been why, and that is not
// mended by a build.
func (p *page) tryAgain() {
	waits := false
	for _, c := range p.starts() {
		if c.release.ID == p.assets.unstarted.ID && time.Until(c.begins) > 0 {
			p.repeat(c, 0)
			waits = true
		}
	}
	if !waits && p.candidate == nil && p.building == nil && p.stale != "" && p.newest(p.assets.unstarted) {
		r := p.assets.unstarted
		p.built.changed, p.assets.unstarted = time.Now(), release{}
		p.start(r, deploy, 0)
	}
}

// updated takes the answer of a worker that was told of changed files.
func (p *page) updated(inst *instance, u worker.Update) {
	had := inst.update != nil && !inst.update.OK
	inst.update = &control.Update{At: time.Now(), Worker: inst.id, OK: len(u.Faults) == 0, Files: len(u.Files), DurationUS: u.Took.Microseconds()}
	for _, f := range u.Faults {
		inst.update.Diagnostics = append(inst.update.Diagnostics, sdk.Diagnostic{Message: f.Message, File: f.File, Line: f.Line})
	}
	switch {
	case inst != p.current:
	case !inst.update.OK:
		p.logFaults()
	default:
		if len(u.Files) > 0 || had {
			p.k.log.Info("updated: "+p.route.Host+p.route.Path, "page", p.name, "worker", inst.id, "files", len(u.Files), "took", u.Took.Round(10*time.Microsecond))
		}
		p.taken(u.Upto)
	}
}

func (p *page) logFaults() {
	for _, d := range p.faults() {
		p.k.log.Error(updateFailed+p.relative(d), "page", p.name)
	}
	p.k.log.Warn("the page serves on with the files it had before", "page", p.name, "worker", p.current.id)
}

// everyCall is later than any call.
const everyCall = math.MaxInt

// taken is for when the worker in service has the files of which it was told by a call and those before.
func (p *page) taken(call int) {
	var changes []sdk.Change
	p.assets.waiting = slices.DeleteFunc(p.assets.waiting, func(t told) bool {
		if t.call <= call {
			changes = append(changes, t.change)
		}
		return t.call <= call
	})
	p.effective(changes)
}

// assetsSwapped is for a new worker in service.
func (p *page) assetsSwapped() {
	p.assets.unstarted = release{}
	if len(p.faults()) > 0 { // it has answered before it served
		p.logFaults()
	}
	p.taken(everyCall)
}

const updateFailed = "update failed: "

// faults is what is wrong with files that the page reads while it runs.
func (p *page) faults() []sdk.Diagnostic {
	if p.current == nil || p.current.update == nil {
		return nil
	}
	return p.current.update.Diagnostics
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
