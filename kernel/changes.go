package kernel

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/sdk"
)

// files is what the kernel knows about source files.
type files struct {
	k       *Kernel
	config  string // absolute path of the configuration file; "" when there is none
	mu      sync.Mutex
	seen    map[string]sighting // by path
	version uint64
	dirs    []string      // of the newest set
	scanned chan struct{} // closed at the watcher's first report
	set     notifier      // what to watch changed
}

// sighting is a file as the watcher reported it last.
type sighting struct {
	digest string // "" when it was removed
	at     time.Time
}

func newFiles(k *Kernel) *files {
	f := &files{k: k, seen: map[string]sighting{}, scanned: make(chan struct{})}
	if file := k.config().File; file != "" {
		f.config = absolute(file)
		digest, _ := sdk.FileDigest(f.config) // unreadable: the watcher's first report counts as a change
		f.seen[f.config] = sighting{digest, time.Now()}
	}
	return f
}

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}

// watched waits for the watcher's first look at the files, so that nothing is built twice at the start. A watcher that
// does not come up holds nobody for long: what it finds later is compared with what was built.
func (k *Kernel) watched(ctx context.Context) bool {
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-k.files.scanned:
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// feedWatcher tells the watcher what to watch and takes its reports. While it is down, `tqserver reload` finds
// changes; when it is back, its first report has what was missed.
func (k *Kernel) feedWatcher(ctx context.Context) error {
	return k.stages.watcher.Session(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		sets := make(chan sdk.WatchSet)
		ctx, cancel := context.WithCancel(ctx)
		var work sync.WaitGroup
		work.Go(func() { feed(ctx, &k.files.set, k.files.watchSet, sets) })
		defer func() { cancel(); work.Wait() }()
		return sdk.NewWatcher(conn).Watch(ctx, sets, func(c sdk.ChangeSet) error {
			k.filesChanged(ctx, &work, c)
			return nil
		})
	})
}

// watchSet is everything that a page was built from, the pages directory, and the configuration.
func (f *files) watchSet() sdk.WatchSet {
	c := f.k.config()
	s := sdk.WatchSet{Roots: []string{f.k.site.abs(c.Pages.Directory)}, Ignore: c.FileWatcher.Ignore,
		Debounce: c.FileWatcher.Debounce, Known: map[string]string{}}
	for _, p := range f.k.routes.list() {
		if src := p.sources.Load(); src != nil {
			maps.Copy(s.Known, src.inputs)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.config != "" {
		s.Known[f.config] = ""
	}
	for path := range s.Known {
		switch seen, ok := f.seen[path]; {
		case ok && seen.digest == "":
			delete(s.Known, path)
		case ok:
			s.Known[path] = seen.digest
		}
	}
	f.version++
	s.Version = f.version
	s.Dirs = outside(s.Roots[0], s.Known)
	f.dirs = s.Dirs
	return s
}

// outside gives the directories of files that are not below root.
func outside(root string, files map[string]string) []string {
	dirs := map[string]bool{}
	for path := range files {
		if !below(root, path) {
			dirs[filepath.Dir(path)] = true
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}

func below(dir, path string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// watchChanged sends the watcher a new set when a page was built from directories that are not watched yet.
func (k *Kernel) watchChanged() {
	root := k.site.abs(k.config().Pages.Directory)
	known := map[string]string{}
	for _, p := range k.routes.list() {
		if src := p.sources.Load(); src != nil {
			maps.Copy(known, src.inputs)
		}
	}
	if f := k.files.config; f != "" {
		known[f] = ""
	}
	k.files.mu.Lock()
	same := slices.Equal(outside(root, known), k.files.dirs)
	k.files.mu.Unlock()
	if !same {
		k.files.set.notify()
	}
}

// filesChanged takes a report: it builds the pages that a change concerns, resolves the routes anew, and applies a
// changed configuration.
func (k *Kernel) filesChanged(ctx context.Context, work *sync.WaitGroup, c sdk.ChangeSet) {
	at := time.Now()
	news := k.files.learn(c, at)
	if len(news) == 0 {
		return
	}
	k.log.Debug("files changed", "files", len(news), "first", news[0].Path, "op", news[0].Op.String(), "rescan", c.Rescan)
	if slices.ContainsFunc(news, func(c sdk.Change) bool { return c.Path == k.files.config && c.Op != sdk.Removed }) {
		work.Go(func() { _ = k.Reload(ctx) }) // logged and shown by status
	}
	revision := k.routes.resolve()
	if !slices.ContainsFunc(news, func(c sdk.Change) bool { return c.Op != sdk.Modified }) {
		k.dispatch(news, at)
		return
	}
	work.Go(func() { // a page may have come or gone: know that first, so that none is built that is no more
		wait, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		k.routes.resolved(wait, revision)
		k.dispatch(news, at)
	})
}

// learn keeps a report and drops what was reported before.
func (f *files) learn(c sdk.ChangeSet, at time.Time) (news []sdk.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, change := range c.Changes {
		if seen, ok := f.seen[change.Path]; !ok || seen.digest != change.Digest {
			f.seen[change.Path] = sighting{change.Digest, at}
			news = append(news, change)
		}
	}
	select {
	case <-f.scanned:
	default:
		close(f.scanned)
	}
	return news
}

// since tells whether something was reported after a moment that concerns a page built from src.
func (f *files) since(at time.Time, src *sources) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, seen := range f.seen {
		c := sdk.Change{Path: path, Op: sdk.Modified, Digest: seen.digest}
		if seen.digest == "" {
			c.Op = sdk.Removed
		}
		if seen.at.After(at) && src.concerns(c, false) {
			return true
		}
	}
	return false
}

// dispatch tells the pages what concerns them.
func (k *Kernel) dispatch(changes []sdk.Change, at time.Time) {
	for _, p := range k.routes.list() {
		p.post(func() {
			if p.concerned(changes) {
				p.changed(at)
			}
		})
	}
}

// concerned tells whether one of the changes can make a difference to the page. The first build is compared with what
// was reported when it has ended; a build that could not tell what it reads concerns the page's directory.
func (p *page) concerned(changes []sdk.Change) bool {
	src := p.sources.Load()
	return slices.ContainsFunc(changes, func(c sdk.Change) bool {
		if src == nil {
			return p.built != nil && below(p.route.Dir, c.Path)
		}
		return src.concerns(c, p.building != nil)
	})
}
