package watcher

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// poller is the source that compares what one sees of files without reading them: of whole directories where no
// events arrive, and of single paths ("points") that events do not cover: roots, which may come, go and be exchanged
// from above, and links. Its cost is bound to a tenth of a core. Safe for concurrent use.
type poller struct {
	hints  *hints
	every  time.Duration
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	dirs   map[string]map[string]entry
	points map[string]entry
}

var _ source = (*poller)(nil)

// entry is what was seen of a path.
type entry struct {
	info  fs.FileInfo // nil: nothing there
	again time.Time   // when to hint once more: a later change may have the same size and time
}

// newPoller starts a poller; close ends it.
func newPoller(h *hints, every time.Duration) *poller {
	ctx, cancel := context.WithCancel(context.Background())
	p := &poller{hints: h, every: every, cancel: cancel, dirs: map[string]map[string]entry{}, points: map[string]entry{}}
	p.done.Go(func() { p.run(ctx) })
	return p
}

func (p *poller) run(ctx context.Context) {
	timer := time.NewTimer(p.every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		p.poll(start)
		timer.Reset(max(p.every, 10*time.Since(start)))
	}
}

func (p *poller) close() error {
	p.cancel()
	p.done.Wait()
	return nil
}

// add polls the entries of a directory, links not followed, from the first saw on.
func (p *poller) add(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dirs[dir] = nil
	return nil
}

// remove tells that the directory is not alive: a watch that is bound to a path cannot move with the directory.
func (p *poller) remove(dir string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.dirs, dir)
	return false
}

// exact is never true: nobody tells the poller.
func (p *poller) exact(string) bool { return false }

// saw tells what the session saw in a directory. Hints are about differences to just that: a file that goes and comes
// back between two polls must not be missed when the session looked in between.
func (p *poller) saw(dir string, names map[string]fs.FileInfo) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := make(map[string]entry, len(names))
	for name, info := range names {
		old, ok := p.dirs[dir][name]
		seen[name] = old.saw(ok, info, now)
	}
	p.dirs[dir] = seen
}

// missed tells that a name which saw had is not there after all.
func (p *poller) missed(dir, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.dirs[dir], name)
}

// point polls a single path, links followed, of which the session saw info, nil if there was nothing.
func (p *poller) point(path string, info fs.FileInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, ok := p.points[path]
	p.points[path] = old.saw(ok, info, time.Now())
}

// keep ends the polling of all other points.
func (p *poller) keep(points map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path := range p.points {
		if !points[path] {
			delete(p.points, path)
		}
	}
}

func (p *poller) poll(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path, old := range p.points {
		next, changed := old.follow(stat(path), now)
		p.points[path] = next
		if changed {
			p.hints.point(path)
		}
	}
	for dir, seen := range p.dirs {
		p.pollDir(dir, seen, now)
	}
}

func (p *poller) pollDir(dir string, seen map[string]entry, now time.Time) {
	names, err := listing(dir)
	switch {
	case err != nil && seen == nil:
		return
	case err != nil:
		p.dirs[dir] = nil // and polled until it is back, or somebody finds that it is gone
		p.hints.event(dir, fsnotify.Remove)
		return
	case seen == nil:
		p.hints.event(dir, fsnotify.Write)
		return
	}
	for name, old := range seen {
		next, changed := old.follow(names[name], now)
		seen[name] = next
		if next.info == nil {
			delete(seen, name)
		}
		if changed {
			p.hints.event(filepath.Join(dir, name), fsnotify.Write)
		}
		delete(names, name)
	}
	for name, info := range names {
		seen[name] = newEntry(info, now, true)
		p.hints.event(filepath.Join(dir, name), fsnotify.Create)
	}
}

// follow gives the next state of an entry, and whether to hint at it.
func (e entry) follow(info fs.FileInfo, now time.Time) (entry, bool) {
	switch {
	case e.info == nil && info == nil:
		return e, false
	case e.info == nil || info == nil || !sameEntry(e.info, info):
		return newEntry(info, now, true), true
	case !e.again.IsZero() && now.After(e.again):
		return entry{info: info}, true
	}
	return e, false
}

// newEntry notes what is there; of a file that may just have changed, that it is to be hinted at once more.
func newEntry(info fs.FileInfo, now time.Time, recent bool) entry {
	e := entry{info: info}
	if recent && info != nil && info.Mode().IsRegular() {
		e.again = now.Add(settled)
	}
	return e
}

// saw gives the entry after the session looked itself.
func (e entry) saw(known bool, info fs.FileInfo, now time.Time) entry {
	if known && e.info != nil && info != nil && sameEntry(e.info, info) {
		return e
	}
	return newEntry(info, now, info != nil && now.Sub(info.ModTime()) <= settled)
}

// sameEntry is sameState; of directories, which change with each file in them, only what they are.
func sameEntry(a, b fs.FileInfo) bool {
	if a.IsDir() && b.IsDir() {
		return a.Mode() == b.Mode() && os.SameFile(a, b)
	}
	return sameState(a, b)
}

func stat(path string) fs.FileInfo {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

func listing(dir string) (map[string]fs.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	infos := make(map[string]fs.FileInfo, len(entries))
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			infos[e.Name()] = info
		}
	}
	return infos, nil
}
