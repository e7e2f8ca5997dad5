package kernel

import (
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/dev"
	"github.com/tqserver/tqserver/kernel/worker"
	"github.com/tqserver/tqserver/sdk"
)

// Dev mode: what a page tells the browsers of its developer. All of it does nothing when k.dev is nil, which it is
// unless Options.Dev is set.

// editorEnv wins over dev.editor, for a developer who shares the configuration with others.
const editorEnv = "TQSERVER_EDITOR"

// newDev gives the hub of dev mode, nil outside of it.
func newDev(k *Kernel) *dev.Hub {
	if !k.opts.Dev {
		return nil
	}
	return dev.New(dev.Options{
		Page: func(host, path string) string {
			route, ok := k.proxy.Lookup(host, path)
			if !ok {
				return ""
			}
			return route.Backend.Page()
		},
		Known: func(host string) bool {
			return strings.EqualFold(host, k.config().Server.Host) || k.routes.hasHost(host)
		},
		Wait: func() time.Duration { return k.config().Dev.Wait },
		Warn: func(page, text string) { k.log.Warn("dev mode: "+text, "page", page) },
	})
}

// hasHost tells whether a route is for a host.
func (r *routes) hasHost(host string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.table.Routes, func(route sdk.Route) bool { return strings.EqualFold(route.Host, host) })
}

// devHandler puts dev mode in front of a handler.
func (k *Kernel) devHandler(next http.Handler) http.Handler {
	if k.dev == nil {
		return next
	}
	return k.dev.Handler(next)
}

// greetDev tells a developer what he has started.
func (k *Kernel) greetDev() {
	if k.dev == nil {
		return
	}
	k.log.Info("dev mode: open " + k.url + ", save a page, and the browser shows it; errors show there, too")
	if host := k.config().Server.Host; !loopback(host) {
		k.log.Warn("dev mode shows source code to everyone who can reach "+k.listener.Addr().String(), "hint", "set server.host to 127.0.0.1, or leave it out")
	}
	if name, _ := k.lookupEnv(editorEnv); name != "" {
		if _, err := config.EditorLink(name); err != nil {
			k.log.Warn(editorEnv + " is ignored: " + err.Error())
		}
	}
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// endDev ends the streams of browsers, which would hold up a shutdown.
func (k *Kernel) endDev() {
	if k.dev != nil {
		k.dev.Close()
	}
}

// devPage is what a page keeps for dev mode. It belongs to the page's goroutine.
type devPage struct {
	served   *instance // last
	reloads  uint64
	styles   dev.Styles
	pending  []string  // files that changed since a release went live
	timed    *instance // that live is about
	live     *dev.Timing
	trace    []string // of the last panic of the release that serves
	crash    string   // how its last worker has ended
	cause    devCause
	problems []dev.Problem
	last     dev.State
}

// devCause is what the problems of a page are made of: while it is the same, so are they.
type devCause struct {
	built   *buildReport
	trouble string
	trace   string
	crash   string
	serving bool
}

// devPublish tells the browsers the state of the page. It is called after each event.
func (p *page) devPublish() {
	if p.k.dev == nil || p.ctx.Err() != nil {
		return
	}
	d := &p.dev
	if inst := p.current; inst != nil && inst != d.served {
		p.devServes(inst)
	}
	if p.current == nil && p.problem != "" {
		d.crash = p.problem // it is started again in no time, and would never be seen
	}
	cause := devCause{p.built, p.trouble(), strings.Join(d.trace, "\n"), d.crash, p.current != nil}
	if cause != d.cause {
		d.cause, d.problems = cause, p.devProblems()
	}
	s := dev.State{Name: p.name, Route: p.route.Host + p.route.Path, Serving: p.current != nil, Building: p.devBusy(), Failed: p.stale != "",
		Reloads: d.reloads, Styles: d.styles, Problems: d.problems, Live: d.live}
	if !reflect.DeepEqual(s, d.last) {
		d.last = s
		p.k.dev.Set(s)
	}
}

// devServes takes that another worker serves. What browsers show is out of date unless it is one like the last.
func (p *page) devServes(inst *instance) {
	d := &p.dev
	old := d.served
	d.served = inst
	if d.timed != inst {
		d.live = nil // it is no save that brought it
	}
	if old == nil || old.release.ID == inst.release.ID && old.route == inst.route && sameSettings(old.settings, inst.settings) {
		return
	}
	p.devChanged(old.release.ID != inst.release.ID)
}

// devChanged has browsers take what has changed: stylesheets in place where nothing else has, or else by a reload.
func (p *page) devChanged(all bool) {
	d := &p.dev
	d.trace, d.crash = nil, ""
	if all && len(d.pending) > 0 && !slices.ContainsFunc(d.pending, func(path string) bool { return filepath.Ext(path) != ".css" }) {
		d.styles.Version++
		d.styles.Files = nil
		for _, path := range d.pending {
			d.styles.Files = append(d.styles.Files, filepath.Base(path))
		}
	} else {
		d.reloads++
	}
	d.pending = nil
}

// devBusy tells whether other code is on its way.
func (p *page) devBusy() bool {
	c := p.candidate
	if c == nil || time.Until(c.begins) > 0 {
		return p.building != nil
	}
	return p.building != nil || c.why != restart && c.why != recycle && c.why != replace && c.why != fallback
}

// devGone takes that a page is no more.
func (k *Kernel) devGone(page string) {
	if k.dev != nil {
		k.dev.Remove(page)
	}
}

// devSources notes which files a build is for: see devChanged.
func (p *page) devSources(changes []sdk.Change) {
	src := p.sources.Load()
	if p.k.dev == nil || src == nil {
		return
	}
	for _, c := range changes {
		if !src.concerns(c, true) {
			continue
		}
		path := c.Path
		if c.Op == sdk.Removed {
			path += " (removed)" // no stylesheet to load
		}
		if !slices.Contains(p.dev.pending, path) {
			p.dev.pending = append(p.dev.pending, path)
		}
	}
}

// devLive notes how long a save took, and makes its line in the log one for a developer.
func (p *page) devLive(inst *instance, args []any) []any {
	if p.k.dev == nil {
		return args
	}
	p.dev.timed, p.dev.live = inst, p.built.timing()
	return append([]any{"page", p.name, "release", p.built.result.Release[:min(8, len(p.built.result.Release))]}, p.built.line()...)
}

// devAssets shows changed files in the browser that the page serves or reads without a build, once they have taken
// effect: those below its directory, unless another page lies there, and those below the pages directory that are no
// page's.
func (p *page) devAssets(changes []sdk.Change) {
	if p.k.dev == nil {
		return
	}
	src := p.sources.Load()
	var files []string
	plain := true // nothing but stylesheets
	owns := p.owns()
	for _, c := range changes {
		if src == nil || src.concerns(c, true) || !showsInBrowser(c.Path) || !owns(c.Path) {
			continue
		}
		if !slices.Contains(files, c.Path) {
			files = append(files, c.Path)
		}
		plain = plain && c.Op != sdk.Removed
	}
	if len(files) == 0 {
		return
	}
	waiting := p.dev.pending // for a build
	p.dev.pending = files
	p.devChanged(plain)
	p.dev.pending = waiting
	p.dev.shown(savedAt(files))
	if p.current != nil && p.current.update != nil {
		return // the worker has told how it took them
	}
	p.k.log.Info("live: "+p.route.Host+p.route.Path, "page", p.name, "file", sourcePath(p.k.site.root, files[0]), "files", len(files), "why", "no build needed")
}

// shown notes how long files that need no build took, which were saved at a time, zero when that is unknown.
func (d *devPage) shown(saved time.Time) {
	d.live = nil
	if took := time.Since(saved); took >= 0 && took < longDetect {
		d.live = &dev.Timing{Total: milliseconds(took), Steps: []dev.Step{{Name: "detect", MS: milliseconds(took)}}}
	}
}

// owns gives what tells whether a file is the page's to show, for any number of files: it goes through all pages first.
func (p *page) owns() func(path string) bool {
	root, own := p.k.site.abs(p.k.config().Pages.Directory), p.route.Dir
	var nearer, others []string // directories of pages that lie in the page's own, and of those that do not
	for _, other := range p.k.routes.list() {
		switch dir := other.view.Load().page.Dir; {
		case below(own, dir):
			nearer = append(nearer, dir)
		case dir != own:
			others = append(others, dir)
		}
	}
	return func(path string) bool {
		holds := func(dir string) bool { return below(dir, path) }
		if below(own, path) {
			return !slices.ContainsFunc(nearer, holds)
		}
		return below(root, path) && !slices.ContainsFunc(others, holds)
	}
}

// workFiles are what a page or a tool writes beside the source for itself: a reload at each change of such a file could
// cause the next one.
var workFiles = []string{".go", ".mod", ".sum", ".work", ".db", ".sqlite", ".sqlite3", ".log", ".pid", ".lock", ".tmp", ".swp", ".bak", ".orig"}

func showsInBrowser(path string) bool {
	name := filepath.Base(path)
	return !slices.Contains(workFiles, filepath.Ext(name)) && !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, "~") &&
		!strings.HasSuffix(name, "-wal") && !strings.HasSuffix(name, "-shm") && !strings.HasSuffix(name, "-journal")
}

// devTap looks for panics in what a worker prints, and tells the page of the newest: a worker may print them faster than
// the page can take them. It is for one goroutine.
func (p *page) devTap(inst *instance) func(worker.Stream, []byte) {
	if p.k.dev == nil {
		return func(worker.Stream, []byte) {}
	}
	trace := new(dev.Trace)
	var untold atomic.Pointer[[]string]
	return func(stream worker.Stream, line []byte) {
		if stream != worker.Stderr {
			return
		}
		if lines := trace.Add(string(line)); lines != nil && untold.Swap(&lines) == nil {
			p.post(func() { p.devPanicked(inst, *untold.Swap(nil)) })
		}
	}
}

// devPanicked takes a trace of a worker, unless another release serves by now.
func (p *page) devPanicked(inst *instance, lines []string) {
	if served := p.dev.served; served != nil && served.release.ID == inst.release.ID {
		p.dev.trace = lines
	}
}
