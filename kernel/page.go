package kernel

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/sdk"
)

// page is one page while it is in the route table. One goroutine owns its state: whatever happens to the page is
// posted to it as a function, so that the life of a page (deploy.go, keep.go) reads as plain code without locks.
type page struct {
	k       *Kernel
	name    string
	backend *proxy.Backend
	mail    *mailbox
	traffic traffic
	scale   scale
	work    sync.WaitGroup // what the page started and waits for

	sources atomic.Pointer[sources] // what the last build read
	view    atomic.Pointer[view]    // what status shows

	// Owned by the page's goroutine.
	ctx       context.Context
	route     sdk.Route
	settings  config.Worker
	current   *instance          // serves, and leads those that serve beside it: see instances.go
	others    []*instance        // serve beside it
	scaled    int                // how many the load takes
	short     bool               // there is no port for a further one, for a while
	told      bool               // the log has been told
	candidate *candidate         // being started in the place of what serves
	joining   *candidate         // being started beside what serves: see instances.go
	leaving   map[*instance]bool // draining and stopping
	warm      *resting           // those of the previous release, ready to come back
	probation *probation         // of the release that serves; nil when it has passed
	building  *build             // under way
	again     bool               // the source changed during the build
	overtaken string             // the release to which a rollback went since the save that is being built
	missed    []sdk.Change       // arrived during the build, and were none of what the build before had read
	scanned   bool               // the first build began after the watcher's first look at the files
	changedAt time.Time          // when the first change of the newest build arrived
	built     *buildReport       // the last build that ended
	good      release            // the last release that served
	stale     string             // why the newest source is not live
	problem   string             // why no worker runs, or the one that does is to be replaced
	failures  int                // starts or short lives in a row
	crashes   int
	started   int // workers, for their IDs
	assets    assets

	savedAt time.Time // when the files of the newest change were written; zero: unknown
	dev     devPage
}

// newPage makes a page that runs until ctx ends.
func newPage(ctx context.Context, k *Kernel, route sdk.Route) *page {
	p := &page{k: k, name: route.Page, route: route, ctx: ctx, mail: newMailbox(), leaving: map[*instance]bool{}, settings: k.config().Workers.For(route.Path), good: k.good.get(route.Page)}
	p.backend = proxy.NewBackend(route.Page, proxy.BackendOptions{
		Hold: func() (time.Duration, int) {
			w := k.config().Workers
			return w.HoldTimeout, w.HoldRequests
		},
		Queue: func() (time.Duration, int) {
			s := p.view.Load().settings
			return s.QueueTimeout, s.QueueRequests
		},
		SlowStart: func() time.Duration { return p.view.Load().settings.SlowStart },
	})
	p.publish()
	return p
}

// run is the page's goroutine: it builds the page, keeps a worker of it running, and when ctx ends takes it down.
func (p *page) run() {
	if p.scanned = p.k.watched(p.ctx); p.ctx.Err() == nil {
		p.changed(time.Now())
		p.bridge()
		p.publish()
	}
	for p.ctx.Err() == nil {
		select {
		case <-p.ctx.Done():
		case <-p.mail.wake:
			p.handle()
		}
	}
	p.takeDown()
}

func (p *page) handle() {
	for _, f := range p.mail.take() {
		f()
		p.unreserve()
		p.publish()
	}
}

// post hands f to the page's goroutine, and tells whether it will be called: not after the page has ended.
func (p *page) post(f func()) bool { return p.mail.put(f) }

// takeDown ends everything that the page started. Requests in flight finish first, as far as the drain timeout allows.
func (p *page) takeDown() {
	p.backend.Close()
	if p.building != nil {
		p.building.cancel()
	}
	p.dropStart() // what it still brings is retired
	p.cool()
	p.retire(p.set()...)
	p.employ(nil)
	p.save()
	p.publish()
	for p.work.Wait(); !p.mail.closeEmpty(); p.work.Wait() {
		p.handle()
	}
	p.unreserve()
}

// endStreams lets streams that would stay open for ever end, before a shutdown waits for them.
func (p *page) endStreams() {
	p.cool()
	for _, inst := range p.set() {
		inst.worker.Retire()
	}
}

// rerouted takes a new place, or new directories, of the same page.
func (p *page) rerouted(route sdk.Route) {
	old := p.route
	p.route = route
	if old.Source != route.Source || old.Dir != route.Dir {
		p.changed(time.Now())
	}
	p.reconfigured()
}

// reconfigured applies the configuration: a worker whose environment it changes is replaced, new one first.
func (p *page) reconfigured() {
	old := p.settings
	p.settings = p.k.config().Workers.For(p.route.Path)
	if old.Instances != p.settings.Instances {
		p.scaled = len(p.set())
	}
	if !sameSettings(old, p.settings) {
		for _, c := range p.starts() {
			p.beginAnew(c)
		}
	}
	p.coolUnfit()
	p.limit()
	p.renew()
}

// beginAnew has a start begin anew, with the settings that its workers are to have now.
func (p *page) beginAnew(c *candidate) {
	if c.beside && p.current != nil {
		p.drop(p.place(c)) // renew decides
		return
	}
	p.repeat(c, 0)
	(*p.place(c)).takeOver(c)
}

// sources is what the last build read, for telling which pages a change concerns.
type sources struct {
	inputs map[string]string // path -> digest
	globs  []string
	dirs   []string // where globs look for new files; they need not exist
}

func newSources(r sdk.Result) *sources {
	s := &sources{inputs: make(map[string]string, len(r.Inputs)), globs: r.Globs}
	for _, in := range r.Inputs {
		s.inputs[in.Path] = in.Digest
	}
	for _, g := range r.Globs {
		if dir, ok := globDir(g); ok {
			s.dirs = append(s.dirs, dir)
		}
	}
	return s
}

// globDir gives the directory in which a pattern begins to choose. A pattern that names one file chooses nothing: it is
// met when something else is watched where that file may come to be, or not.
func globDir(glob string) (dir string, ok bool) {
	elems := strings.Split(glob, "/")
	for i, elem := range elems {
		plain := strings.NewReplacer(`\\`, "", `\*`, "", `\?`, "", `\[`, "").Replace(elem)
		if strings.ContainsAny(plain, "*?[") {
			dir = strings.Join(elems[:i], "/")
			return strings.NewReplacer(`\\`, `\`, `\*`, "*", `\?`, "?", `\[`, "[").Replace(dir), filepath.IsAbs(dir)
		}
	}
	return "", false
}

// concerns tells whether a change can make a difference to the page. building: a build is under way, which may have
// read the file before the change or after it.
func (s *sources) concerns(c sdk.Change, building bool) bool {
	if digest, ok := s.inputs[c.Path]; ok {
		return building || c.Op == sdk.Removed || c.Digest != digest
	}
	if c.Op == sdk.Removed {
		return false
	}
	for _, g := range s.globs {
		if sdk.Match(g, c.Path) {
			return true
		}
	}
	return false
}
