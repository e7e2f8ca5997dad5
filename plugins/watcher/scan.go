package watcher

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// stamp is a digest with the state of the file that it was made of.
type stamp struct {
	digest string
	info   fs.FileInfo
	final  bool // the file was old enough: the same state means the same content
}

// rescan compares everything, again when a directory turned out to have moved: its watches carry wrong paths. One that
// keeps moving is left to the events that it sends.
func (s *session) rescan(fresh bool) {
	s.scan(fresh)
	for range 3 {
		if s.moved && s.ctx.Err() == nil {
			s.scan(true)
		}
	}
}

// scan compares everything. With fresh, all watches are set up anew.
func (s *session) scan(fresh bool) {
	if fresh {
		for _, path := range slices.Collect(maps.Keys(s.dirs)) {
			s.unwatch(path)
		}
	}
	s.moved = false
	s.visited, s.points, s.blind = map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, path := range s.scope.anchors() {
		s.enter(path, fresh)
	}
	for _, dir := range slices.Collect(maps.Keys(s.known)) {
		if !s.visited[dir] && !s.unreadable(dir) {
			s.singles(dir)
		}
	}
	for _, path := range slices.Collect(maps.Keys(s.dirs)) {
		if !s.visited[path] && !s.unreadable(path) {
			s.leave(path)
		}
	}
	if s.ctx.Err() == nil {
		s.polls.keep(s.points)
	}
}

// unreadable tells whether a directory cannot be read at present, so that nothing follows from not finding its files.
func (s *session) unreadable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if s.blind[dir] {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

// enter watches a directory, and only then compares it and all below it. With fresh, or when it is another directory
// than before, the watches are set up anew all the way down: inode numbers are used again, and then a dead watch
// cannot be told from a living one.
func (s *session) enter(path string, fresh bool) {
	if s.ctx.Err() != nil || s.visited[path] {
		return
	}
	fresh, err := s.watch(path, fresh)
	if err != nil {
		s.failed(path, "watch directory", err)
		return
	}
	s.list(path, true, fresh)
}

// failed takes an error about a directory: it is gone, or it cannot be read, which is no statement on its files.
func (s *session) failed(path, what string, err error) {
	if absent(err) {
		s.vanished(path, err)
		s.gone(path)
		return
	}
	s.blind[path] = true
	s.warn(path, what, err)
}

// vanished has a directory polled as missing that was seen a moment ago: another one may come with the same inode
// number before the next poll.
func (s *session) vanished(path string, err error) {
	if !errors.Is(err, fs.ErrNotExist) {
		return // something else is there, and was seen
	}
	if s.scope.anchor(path) {
		s.point(path, nil)
	}
	if parent := s.dirs[filepath.Dir(path)]; parent != nil {
		s.polls.missed(parent.real, filepath.Base(path))
	}
}

func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// list compares the files of a watched directory. It enters sub-directories that are new, or all of them.
func (s *session) list(path string, all, fresh bool) {
	names, err := listing(path)
	if err != nil {
		s.failed(path, "read directory", err)
		return
	}
	delete(s.blind, path)
	s.healed(path)
	s.visited[path] = true
	d, recursive := s.dirs[path], s.scope.recursive(path)
	if d.source == s.polls {
		s.polls.saw(d.real, names)
	}
	present := map[string]bool{}
	var subs []string
	for name, info := range names {
		if s.ctx.Err() != nil {
			return
		}
		child := filepath.Join(path, name)
		switch {
		case !info.IsDir():
			d.links = d.links || info.Mode()&fs.ModeSymlink != 0
			present[name] = s.scope.file(child) && s.file(child, info)
		case recursive && s.scope.recursive(child):
			subs = append(subs, child)
		}
	}
	for name := range s.known[path] {
		if !present[name] {
			s.learn(filepath.Join(path, name), "")
		}
	}
	slices.Sort(subs)
	s.descend(path, subs, all, fresh)
}

// descend leaves the sub-directories that are gone, then enters those that are new: a directory that was renamed must
// have left its old path, whose watch it still carries.
func (s *session) descend(path string, subs []string, all, fresh bool) {
	for _, sub := range s.subs[path] {
		if _, found := slices.BinarySearch(subs, sub); !found {
			s.gone(sub)
		}
	}
	s.subs[path] = subs
	for _, sub := range subs {
		if all || s.dirs[sub] == nil || !s.dirs[sub].same(sub) {
			s.enter(sub, fresh)
		}
	}
}

// file compares one entry of a directory. It tells whether there is such a file.
func (s *session) file(path string, info fs.FileInfo) bool {
	if info.Mode()&fs.ModeSymlink != 0 {
		info, err := os.Stat(path)
		s.point(path, info)
		return s.compare(path, info, err)
	}
	return s.compare(path, info, nil)
}

// compare learns the digest of a file of which info or err is known. A file that cannot be read counts as unchanged.
func (s *session) compare(path string, info fs.FileInfo, err error) (exists bool) {
	if err == nil && !info.Mode().IsRegular() {
		return false
	}
	var digest string
	if err == nil {
		digest, err = s.digest(path, info)
	}
	switch {
	case err == nil:
		s.healed(path)
		s.learn(path, digest)
		return true
	case absent(err):
		return false
	}
	s.warn(path, "read file", err)
	return true
}

func (s *session) digest(path string, info fs.FileInfo) (string, error) {
	old, ok := s.stamps[path]
	if ok && old.final && !s.forced[path] && sameState(old.info, info) {
		return old.digest, nil
	}
	final := time.Since(info.ModTime()) > settled
	digest, err := sdk.FileDigest(path)
	if err != nil {
		delete(s.stamps, path)
		return "", err
	}
	s.stamps[path] = stamp{digest: digest, info: info, final: final}
	return digest, nil
}

// sameState compares what one sees of a file without reading it.
func sameState(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode() && os.SameFile(a, b)
}

// learn notes the digest of a file, "" for none, and that it changed.
func (s *session) learn(path, digest string) {
	dir, name := filepath.Dir(path), filepath.Base(path)
	old := s.known[dir][name]
	if old == digest {
		return
	}
	if _, ok := s.before[path]; !ok {
		s.before[path] = old
	}
	switch {
	case digest != "" && s.known[dir] == nil:
		s.known[dir] = map[string]string{name: digest}
	case digest != "":
		s.known[dir][name] = digest
	default:
		delete(s.known[dir], name)
		delete(s.stamps, path)
	}
}

// gone takes that there is no directory at path.
func (s *session) gone(path string) {
	if s.ctx.Err() != nil {
		return
	}
	s.healed(path)
	delete(s.subs, path)
	for _, dir := range slices.Collect(maps.Keys(s.dirs)) {
		if _, below := relative(path, dir); below && s.leave(dir) {
			s.moved = true // alive: it is elsewhere now, and so is what it watches
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(s.known)) {
		if _, below := relative(path, dir); below {
			s.singles(dir)
		}
	}
}

// singles compares the known files of a directory that is not watched: it does not exist, or is reached through a
// link.
func (s *session) singles(dir string) {
	for _, name := range slices.Collect(maps.Keys(s.known[dir])) {
		if s.ctx.Err() != nil {
			return
		}
		s.single(filepath.Join(dir, name))
	}
	if len(s.known[dir]) == 0 {
		delete(s.known, dir)
	}
}

// single compares a file in a directory that is not watched. If there is one it is polled from now on.
func (s *session) single(path string) {
	info, err := os.Stat(path)
	if s.compare(path, info, err) {
		s.point(path, info)
	} else {
		s.learn(path, "")
	}
}

// point has a path polled by itself. info is what was seen of it, nil if nothing.
func (s *session) point(path string, info fs.FileInfo) {
	s.points[path] = true
	s.polls.point(path, info)
}
