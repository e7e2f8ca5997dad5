package watcher

import (
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

const structure = fsnotify.Create | fsnotify.Remove | fsnotify.Rename

// note sorts hints by what is to be looked at. What cannot matter does not lengthen the burst. Files that are found
// complete are reported here and now, see lead.
func (s *session) note(f found) error {
	if s.scope == nil {
		return nil
	}
	s.lost = s.lost || f.lost
	if f.lost || len(f.points) > 0 {
		s.burst.noteRough()
	}
	for path, op := range f.events {
		s.noteEvent(path, op, f.done[path])
	}
	for path := range f.points {
		if s.scope.anchor(path) {
			s.anew[path] = true
		} else {
			s.dirty[filepath.Dir(path)], s.forced[path] = true, true
		}
	}
	return s.lead(s.noteDone(f.done))
}

// noteEvent takes an event about a path, as far as it is a watched directory or in one.
func (s *session) noteEvent(path string, op fsnotify.Op, done bool) {
	for dir := range s.byReal[path] {
		if op&structure != 0 {
			s.anew[dir] = true
		} else {
			s.dirty[dir] = true
		}
		s.moved = s.moved || op.Has(fsnotify.Rename)
		s.burst.noteRough()
	}
	name := filepath.Base(path)
	for dir := range s.byReal[filepath.Dir(path)] {
		file := filepath.Join(dir, name)
		// A link may lead through a name that is ignored itself: Kubernetes exchanges ..data below the files.
		if !s.scope.file(file) && !(s.dirs[dir].links && op&structure != 0) {
			continue
		}
		s.dirty[dir], s.forced[file] = true, true
		exact := s.dirs[dir].source.exact(s.dirs[dir].real)
		if exact && op&(fsnotify.Remove|fsnotify.Rename) != 0 && !done {
			s.burst.noteRough() // it may come back
			continue
		}
		s.burst.note(path, done || !exact || op == fsnotify.Chmod || s.late(path, file))
	}
}

// late tells whether an event is about what the file was complete with already: the two instances of inotify do not
// keep the order between them.
func (s *session) late(path, file string) bool {
	info, err := os.Lstat(file)
	return err == nil && s.burst.files[path] && s.stamps[file].info != nil && sameState(s.stamps[file].info, info)
}

// noteDone takes that files are complete, and gives those that are in the scope. An empty one may be about to be
// written: a program that has made it so is not done with it.
func (s *session) noteDone(done map[string]bool) (files []string) {
	for path := range done {
		name := filepath.Base(path)
		for dir := range s.byReal[filepath.Dir(path)] {
			file := filepath.Join(dir, name)
			if !s.scope.file(file) {
				continue
			}
			s.dirty[dir], s.forced[file] = true, true
			info, err := os.Lstat(file)
			s.burst.note(path, err == nil && info.Size() > 0)
			files = append(files, file)
		}
	}
	return files
}

// lead reports a save on its leading edge: one or two files that are known, complete and not empty, and have another
// content now, when nothing else has been going on for a quiet time. What else there is to see, such as files that
// came or went, is looked at when the burst is over, as is all that follows a report: the beginning of a checkout looks
// like a save, and costs one report more.
func (s *session) lead(files []string) error {
	if s.burst.led || !s.burst.small() || s.lost || s.moved {
		return nil
	}
	for _, file := range files {
		if s.edited(file) {
			s.burst.led = true
		}
	}
	if !s.burst.led {
		return nil
	}
	return s.finish(false)
}

// edited learns the content of a file that is known, if there is another one and nobody touched it meanwhile.
func (s *session) edited(file string) bool {
	old := s.known[filepath.Dir(file)][filepath.Base(file)]
	info, err := os.Lstat(file)
	if old == "" || err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	digest, err := s.digest(file, info)
	if err != nil || digest == old {
		return false
	}
	if after, err := os.Lstat(file); err != nil || !sameState(info, after) {
		return false
	}
	s.learn(file, digest)
	return true
}
