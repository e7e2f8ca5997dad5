package kernel

import (
	"context"
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
	seen    map[string]string // path -> digest, as the watcher reported it last; "" when removed
	version uint64
	dirs    []string      // of the newest set
	scanned chan struct{} // closed at the watcher's first report
	set     notifier      // what to watch changed
	edited  chan struct{} // holds a token when the configuration file changed
	plugins chan struct{} // holds a token when a file that a plugin comes from changed
}

func newFiles(k *Kernel) *files {
	f := &files{k: k, seen: map[string]string{}, scanned: make(chan struct{}), edited: make(chan struct{}, 1),
		plugins: make(chan struct{}, 1)}
	if file := k.config().File; file != "" {
		f.config = absolute(file)
		f.seen[f.config], _ = sdk.FileDigest(f.config)
	}
	for _, path := range f.pluginFiles() {
		f.seen[path], _ = sdk.FileDigest(path)
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
// does not come up holds nobody for long: what it finds later is compared with what was built. It tells whether the
// look was taken.
func (k *Kernel) watched(ctx context.Context) bool {
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-k.files.scanned:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
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
		answered := k.expect("watcher", "a first report")
		defer answered()
		return sdk.NewWatcher(conn).Watch(ctx, sets, func(c sdk.ChangeSet) error {
			answered()
			k.filesChanged(ctx, &work, c)
			return nil
		})
	})
}

// watchSet is what the watcher is to watch from now on.
func (f *files) watchSet() sdk.WatchSet {
	set := f.present()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	f.dirs = set.Dirs
	set.Version = f.version
	return set
}

// present is everything that a page was built from, the pages directory, the configuration, and the files of plugins.
func (f *files) present() sdk.WatchSet {
	c := f.k.config()
	known, dirs := f.wanted()
	f.mu.Lock()
	defer f.mu.Unlock()
	for path := range known {
		switch digest, ok := f.seen[path]; {
		case ok && digest == "":
			delete(known, path)
		case ok:
			known[path] = digest
		}
	}
	return sdk.WatchSet{Version: f.version, Roots: []string{f.k.site.abs(c.Pages.Directory)}, Dirs: dirs, Ignore: c.FileWatcher.Ignore,
		Debounce: c.FileWatcher.Debounce, Known: known}
}

// disputed is no digest: the watcher reports a file of which two pages have read different contents.
const disputed = "disputed"

// wanted gives the files that count, with the digests that were built, and the directories outside of the pages
// directory where they are, or may come to be.
func (f *files) wanted() (known map[string]string, dirs []string) {
	known = map[string]string{}
	var places []string
	for _, p := range f.k.routes.list() {
		src := p.sources.Load()
		if src == nil {
			continue
		}
		places = append(places, src.dirs...)
		for path, digest := range src.inputs {
			if other, ok := known[path]; ok && other != digest {
				digest = disputed
			}
			known[path] = digest
		}
	}
	if f.config != "" {
		known[f.config] = ""
	}
	for _, path := range f.pluginFiles() {
		known[path] = ""
	}
	for path := range known {
		places = append(places, filepath.Dir(path))
	}
	root := f.k.site.abs(f.k.config().Pages.Directory)
	places = slices.DeleteFunc(places, func(dir string) bool { return dir == root || below(root, dir) })
	slices.Sort(places)
	return known, slices.Compact(places)
}

// forget is for when pages are built whatever was reported: what they read then is what the next session with the
// watcher starts from.
func (f *files) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := map[string]string{f.config: f.seen[f.config]}
	for _, path := range f.pluginFiles() {
		if digest, ok := f.seen[path]; ok {
			kept[path] = digest
		}
	}
	f.seen = kept
}

func below(dir, path string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// watchChanged sends the watcher a new set when a page was built from directories that are not watched yet.
func (k *Kernel) watchChanged() {
	_, dirs := k.files.wanted()
	k.files.mu.Lock()
	same := slices.Equal(dirs, k.files.dirs)
	k.files.mu.Unlock()
	if !same {
		k.files.set.notify()
	}
}

// filesChanged takes a report: it builds the pages that a change concerns, resolves the routes anew, and applies a
// changed configuration.
func (k *Kernel) filesChanged(ctx context.Context, work *sync.WaitGroup, c sdk.ChangeSet) {
	at := time.Now()
	news, first := k.files.learn(c)
	if c.Rescan && !first {
		k.rescanAssets()
	}
	if len(news) == 0 {
		return
	}
	k.log.Debug("files changed", "files", len(news), "first", news[0].Path, "op", news[0].Op.String(), "rescan", c.Rescan)
	if slices.ContainsFunc(news, func(c sdk.Change) bool { return c.Path == k.files.config && c.Op != sdk.Removed }) {
		leave(k.files.edited)
	}
	if own := k.files.pluginFiles(); slices.ContainsFunc(news, func(c sdk.Change) bool { return slices.Contains(own, c.Path) }) {
		leave(k.files.plugins)
	}
	revision := k.routes.resolve()
	if first || !slices.ContainsFunc(news, func(c sdk.Change) bool { return c.Op != sdk.Modified }) {
		k.dispatch(news, at, first)
		return
	}
	work.Go(func() { // a page may have come or gone: know that first, so that none is built that is no more
		wait, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		k.routes.resolved(wait, revision)
		k.dispatch(news, at, false)
	})
}

// leave puts a token into a channel of one. When one is there, who takes it sees the newest state.
func leave(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

// learn drops what was reported before, and tells whether this is the first report.
func (f *files) learn(c sdk.ChangeSet) (news []sdk.Change, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, change := range c.Changes {
		if digest, ok := f.seen[change.Path]; !ok || digest != change.Digest {
			f.seen[change.Path] = change.Digest
			news = append(news, change)
		}
	}
	select {
	case <-f.scanned:
	default:
		first = true
		close(f.scanned)
	}
	return news, first
}

// dispatch tells the pages what concerns them. The first report is old news to a page that waited for it.
func (k *Kernel) dispatch(changes []sdk.Change, at time.Time, first bool) {
	for _, p := range k.routes.list() {
		p.post(func() {
			if !first || !p.scanned {
				p.filesChanged(changes, at)
			}
		})
	}
}

// filesChanged builds the page if a change concerns it. Whether it does is not known of what a build under way may be
// the first to read: that is looked at again when the build has ended.
func (p *page) filesChanged(changes []sdk.Change, at time.Time) {
	p.assetsChanged(changes)
	if p.concerned(changes) {
		p.saved(changes)
		p.overtaken = ""
		p.changed(at)
	} else if p.building != nil {
		p.missed = append(p.missed, changes...)
	}
}

// outdated tells whether what the build that has just ended has read was changed meanwhile.
func (p *page) outdated() bool {
	src := p.sources.Load()
	return src != nil && slices.ContainsFunc(p.missed, func(c sdk.Change) bool { return src.concerns(c, false) })
}

// concerned tells whether one of the changes can make a difference to the page. Before the first build has told what
// it reads, that is anything below the page's directory.
func (p *page) concerned(changes []sdk.Change) bool {
	src := p.sources.Load()
	return slices.ContainsFunc(changes, func(c sdk.Change) bool {
		if src == nil {
			return p.built == nil && p.building == nil || below(p.route.Dir, c.Path)
		}
		return src.concerns(c, p.building != nil) || p.k.choosesBuilder(p.route.Source, c)
	})
}
