package watcher

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// session is one stream of sets. It belongs to one goroutine; only hints and the sources have others.
type session struct {
	ctx    context.Context // of the stream; ends long scans
	log    hclog.Logger
	report func(sdk.ChangeSet) error
	open   func(*hints) (source, error)
	config Config

	version  uint64 // of the newest set
	debounce time.Duration
	scope    *scope // of that set; nil before the first
	hints    *hints
	burst    *burst
	events   source // nil: there are none
	polls    *poller
	arrive   map[uint64]bool   // device -> file events arrive
	warned   map[string]string // path -> what was logged about it

	dirs    map[string]*directory        // watched
	subs    map[string][]string          // directory -> its sub-directories in the scope when last listed
	byReal  map[string]map[string]bool   // real path of a watched directory -> its paths
	known   map[string]map[string]string // directory -> name -> digest: what the kernel knows or was told
	stamps  map[string]stamp             // path -> digest that need not be made again
	points  map[string]bool              // paths that are polled one by one
	blind   map[string]bool              // directories that exist but cannot be read
	visited map[string]bool              // directories that this scan listed
	before  map[string]string            // changed path -> digest before this burst
	moved   bool                         // a directory was: watches may carry a wrong path

	dirty  map[string]bool // directories to list at the end of the burst
	anew   map[string]bool // directories to watch and list with all below
	forced map[string]bool // files to digest whatever their size and time
	lost   bool            // look at everything
}

func newSession(ctx context.Context, open func(*hints) (source, error), log hclog.Logger, report func(sdk.ChangeSet) error) *session {
	s := &session{ctx: ctx, open: open, log: log, report: report, hints: newHints(), burst: newBurst(),
		arrive: map[uint64]bool{}, warned: map[string]string{}, known: map[string]map[string]string{},
		subs: map[string][]string{}, stamps: map[string]stamp{}, before: map[string]string{}}
	s.calm()
	return s
}

// calm forgets the hints of a burst.
func (s *session) calm() {
	s.burst.reset()
	s.dirty, s.anew, s.forced, s.lost = map[string]bool{}, map[string]bool{}, map[string]bool{}, false
}

// take compares all files with a new set and reports the difference.
func (s *session) take(set sdk.WatchSet) error {
	s.version, s.debounce, s.scope = set.Version, set.Debounce, newScope(set)
	s.burst.quiet = s.config.debounce(s.debounce)
	s.known = s.merge(set.Known)
	maps.DeleteFunc(s.stamps, func(path string, _ stamp) bool { return !s.scope.file(path) })
	for path := range s.dirs {
		if !s.scope.dir(path) {
			s.leave(path)
		}
	}
	s.rescan(s.lost || s.moved || len(s.anew) > 0)
	s.calm()
	return s.finish(true)
}

// merge gives what is known after a new set: what the kernel knows, else what it was told before.
func (s *session) merge(kernel map[string]string) map[string]map[string]string {
	known := map[string]map[string]string{}
	put := func(path, digest string) {
		dir, name := filepath.Dir(path), filepath.Base(path)
		if known[dir] == nil {
			known[dir] = map[string]string{}
		}
		known[dir][name] = digest
	}
	for dir, names := range s.known {
		for name, digest := range names {
			if path := filepath.Join(dir, name); s.scope.file(path) {
				put(path, digest)
			}
		}
	}
	for path, digest := range kernel {
		if path = filepath.Clean(path); digest != "" && s.scope.file(path) {
			put(path, digest)
		}
	}
	return known
}

// reconfigure connects new sources and looks at everything once.
func (s *session) reconfigure(config Config) error {
	s.disconnect()
	s.connect(config)
	if s.scope == nil {
		return nil
	}
	s.burst.quiet = config.debounce(s.debounce)
	s.rescan(true)
	s.calm()
	return s.finish(false)
}

// flush ends a burst: it looks where the hints point, and reports the difference, if there is one.
func (s *session) flush() error {
	lost := s.lost
	if !lost && !s.moved {
		s.visited = map[string]bool{}
		for _, dir := range slices.Sorted(maps.Keys(s.anew)) {
			if s.scope.dir(dir) {
				s.enter(dir, true)
			}
		}
		for _, dir := range slices.Sorted(maps.Keys(s.dirty)) {
			s.look(dir)
		}
	}
	if lost || s.moved {
		s.rescan(true)
	}
	s.calm()
	return s.finish(lost)
}

// look compares a directory, or the single files of it that are polled where the directory itself is not watched.
func (s *session) look(dir string) {
	if s.dirs[dir] != nil {
		s.list(dir, false, false)
		return
	}
	for path := range s.forced {
		if filepath.Dir(path) == dir && s.scope.file(path) {
			s.single(path)
		}
	}
}

// finish reports what changed since the last time. Only a comparison of the whole set is reported without changes.
func (s *session) finish(whole bool) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	changes := make([]sdk.Change, 0, len(s.before))
	for path, old := range s.before {
		now := s.known[filepath.Dir(path)][filepath.Base(path)]
		switch {
		case now == old:
		case now == "":
			changes = append(changes, sdk.Change{Path: path, Op: sdk.Removed})
		case old == "":
			changes = append(changes, sdk.Change{Path: path, Op: sdk.Created, Digest: now})
		default:
			changes = append(changes, sdk.Change{Path: path, Op: sdk.Modified, Digest: now})
		}
	}
	clear(s.before)
	if len(changes) == 0 && !whole {
		return nil
	}
	slices.SortFunc(changes, func(a, b sdk.Change) int { return strings.Compare(a.Path, b.Path) })
	return s.report(sdk.ChangeSet{Version: s.version, Changes: changes, Rescan: whole})
}

// warn logs a fault of a path once, until healed is called for it.
func (s *session) warn(path, message string, err error, hint ...any) {
	if s.warned[path] == err.Error() {
		return
	}
	s.warned[path] = err.Error()
	s.log.Warn(message, append([]any{"path", path, "error", err}, hint...)...)
}

func (s *session) healed(path string) { delete(s.warned, path) }

// settled is how old a file's time must be before the same size, time and file mean the same content: coarser file
// systems give two changes in a row the same time.
const settled = 2 * time.Second
