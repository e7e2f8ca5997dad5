package kernel

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

// goodReleases remembers, over restarts, the releases of each page: the last one that served, to which a page falls back
// when its newest source does not build, and those before it, to which one can go back. It is safe for concurrent use.
// What changes is on disk after the next save.
type goodReleases struct {
	path    string
	mu      sync.Mutex
	all     map[string]*kept
	changes uint64 // made so far
	saving  sync.Mutex
	saved   uint64 // changes that are on disk; saving guards it
}

// kept is what is remembered of one page. In the file the last good release is where it was before there were others.
type kept struct {
	release              // that served last
	Pin     *control.Pin `json:"pin,omitempty"`
	Records []record     `json:"releases,omitempty"` // in the order in which they were built
}

// record is one release of a page, and what became of it.
type record struct {
	release
	Built    time.Time     `json:"built"`
	Live     time.Time     `json:"live,omitzero"` // when it went live last
	Revision string        `json:"revision,omitempty"`
	Dirty    bool          `json:"dirty,omitempty"`
	Duration time.Duration `json:"duration"` // of the build
	Size     int64         `json:"size"`
	Undone   string        `json:"undone,omitempty"` // why it was put back: it is not deployed by itself again
	Failed   string        `json:"failed,omitempty"` // why it did not start
}

// used is when a release was of use last.
func (r record) used() time.Time {
	if r.Live.After(r.Built) {
		return r.Live
	}
	return r.Built
}

func loadGoodReleases(path string) *goodReleases {
	g := &goodReleases{path: path, all: map[string]*kept{}}
	_ = loadJSON(path, &g.all) // without it, a page that does not build at the start is down until it does
	for page, k := range g.all {
		if k == nil {
			delete(g.all, page)
		} else if k.ID != "" && k.find(k.ID) == nil { // the file is of a version that kept no others
			k.Records = append(k.Records, record{release: k.release, Built: modTime(k.Artifact), Live: modTime(path), Size: size(k.Artifact)})
		}
	}
	return g
}

// get gives the release of a page that served last; it has no ID when there is none.
func (g *goodReleases) get(page string) release {
	g.mu.Lock()
	defer g.mu.Unlock()
	if k := g.all[page]; k != nil {
		return k.release
	}
	return release{}
}

// set notes that a release of a page went live. What was wrong with it is forgiven.
func (g *goodReleases) set(page string, r release) {
	g.change(page, true, func(k *kept) bool {
		rec := k.find(r.ID)
		if rec != nil && k.ID == r.ID && k.Artifact == r.Artifact && rec.Undone == "" && rec.Failed == "" {
			return false // another worker of it
		}
		if rec == nil {
			k.Records = append(k.Records, record{Built: time.Now(), Size: size(r.Artifact)})
			rec = &k.Records[len(k.Records)-1]
		}
		k.release = r
		rec.release, rec.Live, rec.Undone, rec.Failed = r, time.Now(), "", ""
		return true
	})
}

// add notes a release that was built, and keeps the n that were of use last: it gives the others. One that is known stays
// what it was.
func (g *goodReleases) add(page string, r record, n int) (dropped []record) {
	g.change(page, true, func(k *kept) bool {
		if old := k.find(r.ID); old != nil {
			old.release = r.release
		} else {
			k.Records = append(k.Records, r)
		}
		dropped = k.trim(n)
		return true
	})
	return dropped
}

// update changes the record of a release, if it is there.
func (g *goodReleases) update(page, id string, f func(*record)) {
	g.change(page, false, func(k *kept) bool {
		rec := k.find(id)
		if rec != nil {
			f(rec)
		}
		return rec != nil
	})
}

// forget drops the record of a release that is of no use.
func (g *goodReleases) forget(page, id string) {
	g.change(page, false, func(k *kept) bool {
		n := len(k.Records)
		k.Records = slices.DeleteFunc(k.Records, func(r record) bool { return r.ID == id })
		return len(k.Records) != n
	})
}

// pin keeps a page on a release, or lets it go: nil.
func (g *goodReleases) pin(page string, p *control.Pin) {
	g.change(page, false, func(k *kept) bool {
		changed := k.Pin != p
		k.Pin = p
		return changed
	})
}

// pinned gives the pin of a page, nil when there is none. It is not to be changed.
func (g *goodReleases) pinned(page string) *control.Pin {
	g.mu.Lock()
	defer g.mu.Unlock()
	if k := g.all[page]; k != nil {
		return k.Pin
	}
	return nil
}

// records gives the releases of a page that can still be started, in the order in which they were built.
func (g *goodReleases) records(page string) []record {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.all[page]
	if k == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(k.Records), func(r record) bool { return !executable(r.Artifact) })
}

// undone tells why a release of a page was put back; "" when it was not.
func (g *goodReleases) undone(page, id string) (why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if k := g.all[page]; k != nil {
		if rec := k.find(id); rec != nil {
			why = rec.Undone
		}
	}
	return why
}

// revised tells whether the revision of a release is known.
func (g *goodReleases) revised(page, id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.all[page]
	if k == nil {
		return false
	}
	rec := k.find(id)
	return rec != nil && rec.Revision != ""
}

func (g *goodReleases) remove(page string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all[page] != nil {
		delete(g.all, page)
		g.changes++
	}
}

// retain forgets all other pages than those that are named.
func (g *goodReleases) retain(pages map[string]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := len(g.all)
	maps.DeleteFunc(g.all, func(page string, _ *kept) bool { return !pages[page] })
	if len(g.all) != n {
		g.changes++
	}
}

// change has f change what is kept of a page, and tell whether it did. fresh: also when nothing is kept yet.
func (g *goodReleases) change(page string, fresh bool, f func(*kept) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.all[page]
	if k == nil && !fresh {
		return
	}
	if k == nil {
		k = &kept{}
		g.all[page] = k
	}
	if f(k) {
		g.changes++
	}
}

// save writes what has changed. It blocks for the disk; of those who wait for each other the first writes for all.
func (g *goodReleases) save() error {
	g.saving.Lock()
	defer g.saving.Unlock()
	g.mu.Lock()
	changes, all := g.changes, make(map[string]kept, len(g.all))
	for page, k := range g.all {
		all[page] = kept{k.release, k.Pin, slices.Clone(k.Records)}
	}
	g.mu.Unlock()
	if g.saved == changes {
		return nil
	}
	err := saveJSON(g.path, all)
	if err == nil {
		g.saved = changes
	}
	return err
}

// artifacts gives the directories of all binaries that are kept, after it has dropped what one can go back to no more:
// the binary is gone, or there are more than n of a page.
func (g *goodReleases) artifacts(n int) map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	keep := map[string]bool{}
	for _, k := range g.all {
		k.Records = slices.DeleteFunc(k.Records, func(r record) bool { return r.ID != k.ID && !executable(r.Artifact) })
		k.trim(n)
		keep[filepath.Dir(k.Artifact)] = true
		for _, r := range k.Records {
			keep[filepath.Dir(r.Artifact)] = true
		}
	}
	g.changes++
	return keep
}

// find gives the record of a release, nil when there is none.
func (k *kept) find(id string) *record {
	i := slices.IndexFunc(k.Records, func(r record) bool { return r.ID == id })
	if i < 0 {
		return nil
	}
	return &k.Records[i]
}

// trim leaves the n records that were of use last, and those of which the page makes use.
func (k *kept) trim(n int) (dropped []record) {
	for len(k.Records) > n {
		oldest := -1
		for i, r := range k.Records {
			inUse := r.ID == k.ID || k.Pin != nil && (r.ID == k.Pin.Release || r.ID == k.Pin.Over)
			if !inUse && (oldest < 0 || r.used().Before(k.Records[oldest].used())) {
				oldest = i
			}
		}
		if oldest < 0 {
			break
		}
		dropped = append(dropped, k.Records[oldest])
		k.Records = slices.Delete(k.Records, oldest, oldest+1)
	}
	return dropped
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func modTime(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// saveReleases keeps what is remembered of the pages for the next start.
func (k *Kernel) saveReleases() {
	if err := k.good.save(); err != nil {
		k.log.Warn("the releases could not be kept for the next start", "error", err)
	}
}
