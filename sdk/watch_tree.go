package sdk

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settledAfter is how old a file's time must be before the same size and time mean the same content: coarse file
// systems give two changes in a row the same time.
const settledAfter = 2 * time.Second

// watchTree compares the files of a scope with what the kernel knows or was told. For use by one goroutine.
type watchTree struct {
	scope  *watchScope
	known  map[string]string // path -> digest
	stamps map[string]stamp
}

// stamp is what was seen of a file when its digest was made.
type stamp struct {
	info   fs.FileInfo
	digest string
	final  bool
}

// take makes a new set the one to compare with. What the kernel was told and has not in the set stays known.
func (w *watchTree) take(set WatchSet) {
	w.scope = newWatchScope(set)
	known := map[string]string{}
	for _, from := range []map[string]string{w.known, set.Known} {
		for path, digest := range from {
			if path = filepath.Clean(path); digest != "" && w.scope.file(path) {
				known[path] = digest
			}
		}
	}
	w.known = known
	if w.stamps == nil {
		w.stamps = map[string]stamp{}
	}
	maps.DeleteFunc(w.stamps, func(path string, _ stamp) bool { return !w.scope.file(path) })
}

// compare looks at paths, with everything below those that are directories, and gives what changed; without paths at
// everything. What cannot be read counts as unchanged.
func (w *watchTree) compare(ctx context.Context, paths []string) ([]Change, error) {
	look := paths
	if len(paths) == 0 {
		look = slices.Concat(w.scope.roots, w.scope.dirs)
	}
	found := &sighting{tree: w, ctx: ctx, digests: map[string]string{}}
	for _, path := range look {
		found.visit(path, len(paths) > 0, nil)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var changes []Change
	for path, digest := range found.digests {
		if old := w.known[path]; old == "" {
			changes = append(changes, Change{path, Created, digest})
		} else if old != digest {
			changes = append(changes, Change{path, Modified, digest})
		}
	}
	for path := range w.known {
		if found.digests[path] == "" && found.covers(look, path) {
			changes = append(changes, Change{Path: path, Op: Removed})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	w.told(changes)
	return changes, nil
}

// told makes changes known.
func (w *watchTree) told(changes []Change) {
	for _, c := range changes {
		if c.Op == Removed {
			delete(w.known, c.Path)
			delete(w.stamps, c.Path)
		} else {
			w.known[c.Path] = c.Digest
		}
	}
}

// digest makes the digest of a file, unless it is the one that was seen before. again: look inside all the same.
func (w *watchTree) digest(path string, info fs.FileInfo, again bool) (string, error) {
	s, ok := w.stamps[path]
	if ok && s.final && !again && s.info.Size() == info.Size() && s.info.ModTime().Equal(info.ModTime()) && os.SameFile(s.info, info) {
		return s.digest, nil
	}
	final := time.Since(info.ModTime()) > settledAfter
	digest, err := FileDigest(path)
	if err == nil {
		w.stamps[path] = stamp{info, digest, final}
	}
	return digest, err
}

// sighting is one look at some paths.
type sighting struct {
	tree    *watchTree
	ctx     context.Context
	digests map[string]string // of the files that there are
	unread  []string          // files and directories that could not be read
}

// covers tells whether a known file that was not seen is gone: it is at or below a path that was looked at, and not
// behind one that could not be read.
func (s *sighting) covers(looked []string, path string) bool {
	under := func(dir string) bool { _, ok := below(dir, path); return ok }
	return slices.ContainsFunc(looked, under) && !slices.ContainsFunc(s.unread, under)
}

// visit looks at a path; asked: it was named itself, so that its time says nothing. links are the real directories at
// both ends of the links on the way to it.
func (s *sighting) visit(path string, asked bool, links []string) {
	if s.ctx.Err() != nil {
		return
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		s.failed(path, err)
	case info.IsDir():
		s.list(path, links)
	case info.Mode().IsRegular() && s.tree.scope.file(path):
		digest, err := s.tree.digest(path, info, asked)
		if err != nil {
			s.failed(path, err)
			return
		}
		s.digests[path] = digest
	}
}

// list visits what is in a directory, as far as it is watched.
func (s *sighting) list(dir string, links []string) {
	scope := s.tree.scope
	if !scope.deep(dir) && !slices.Contains(scope.dirs, dir) {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		s.failed(dir, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Type()&fs.ModeSymlink == 0 {
			s.visit(path, false, links)
		} else if chain, ok := follow(dir, path, links); ok {
			s.visit(path, false, chain)
		}
	}
}

// follow adds a link to those on the way, unless it leads back to where that came from.
func follow(dir, path string, links []string) ([]string, bool) {
	parent, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, false
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return links, true // visit says what it is
	}
	chain := append(slices.Clone(links), parent)
	if slices.ContainsFunc(chain, func(on string) bool { _, back := below(target, on); return back }) {
		return nil, false
	}
	return append(chain, target), true
}

// failed notes what could not be read, unless it is not there at all.
func (s *sighting) failed(path string, err error) {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		s.unread = append(s.unread, path)
	}
}
