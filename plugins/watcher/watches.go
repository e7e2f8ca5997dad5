package watcher

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// directory is one that is watched.
type directory struct {
	real   string      // path without symlinks, under which it is watched
	info   fs.FileInfo // tells it from another one at the same path
	source source
	links  bool // has symlinks in it
}

// same tells whether path is still the directory.
func (d *directory) same(path string) bool {
	info, err := os.Stat(path)
	return err == nil && os.SameFile(info, d.info)
}

const limitHint = "the files are polled until then; to raise it for good put the setting into /etc/sysctl.d/"

// connect opens the sources. Without file events everything is polled.
func (s *session) connect(config Config) {
	s.config = config
	s.dirs, s.byReal, s.points = map[string]*directory{}, map[string]map[string]bool{}, map[string]bool{}
	s.polls = newPoller(s.hints, time.Duration(config.Poll)*time.Millisecond)
	s.events = nil
	if config.Mode == "poll" {
		return
	}
	events, err := s.open(s.hints)
	switch {
	case err == nil:
		s.events = events
	case errors.Is(err, syscall.EMFILE):
		s.log.Warn("no file events: too many inotify instances or open files; raise /proc/sys/fs/inotify/max_user_instances",
			"error", err, "command", "sysctl -w fs.inotify.max_user_instances=1024", "hint", limitHint)
	default:
		s.log.Warn("no file events: polling", "error", err)
	}
}

// disconnect closes the sources. Nothing is watched afterwards.
func (s *session) disconnect() {
	s.burst.reset()
	s.polls.close()
	if s.events == nil {
		return
	}
	if err := s.events.close(); err != nil {
		s.log.Warn("close file events", "error", err)
	}
	s.events = nil
}

// watch has the directory at path watched, anew if it is another one than before. It tells whether the watch is new.
func (s *session) watch(path string, anew bool) (fresh bool, err error) {
	info, err := os.Stat(path)
	if s.scope.anchor(path) {
		s.point(path, info)
	}
	if err != nil {
		return false, err
	}
	if !info.IsDir() {
		return false, &fs.PathError{Op: "watch", Path: path, Err: syscall.ENOTDIR}
	}
	real, err := s.realPath(path)
	if err != nil {
		return false, err
	}
	if old := s.dirs[path]; old != nil {
		if !anew && old.real == real && os.SameFile(old.info, info) {
			return false, nil
		}
		s.unwatch(path)
	}
	from, err := s.addTo(real, info)
	if err != nil {
		return false, err
	}
	s.dirs[path] = &directory{real: real, info: info, source: from}
	if s.byReal[real] == nil {
		s.byReal[real] = map[string]bool{}
	}
	s.byReal[real][path] = true
	return true, nil
}

// realPath resolves the links of a root's or dir's path; below a root none is followed.
func (s *session) realPath(path string) (string, error) {
	if parent := s.dirs[filepath.Dir(path)]; parent != nil && !s.scope.anchor(path) {
		return filepath.Join(parent.real, filepath.Base(path)), nil
	}
	return filepath.EvalSymlinks(path)
}

// addTo chooses the source for a directory: events where they arrive and the limits allow, else polling.
func (s *session) addTo(real string, info fs.FileInfo) (source, error) {
	if s.events == nil || !s.eventsArrive(real, info) {
		return s.polls, s.polls.add(real)
	}
	err := s.events.add(real)
	switch {
	case err == nil:
		return s.events, nil
	case errors.Is(err, syscall.ENOSPC):
		s.warn("/proc/sys/fs/inotify/max_user_watches", "too few inotify watches: raise the limit", err,
			"first", real, "command", "sysctl -w fs.inotify.max_user_watches=524288", "hint", limitHint)
	case errors.Is(err, syscall.EMFILE):
		s.warn("/proc/sys/fs/inotify/max_user_instances", "too many inotify instances or open files: raise the limit", err,
			"first", real, "command", "sysctl -w fs.inotify.max_user_instances=1024", "hint", limitHint)
	default:
		return nil, err
	}
	return s.polls, s.polls.add(real)
}

// leave ends the watch of a path that is not coming back. It tells whether the directory was still alive.
func (s *session) leave(path string) (alive bool) {
	delete(s.subs, path)
	return s.unwatch(path)
}

// unwatch ends the watch of a path. It tells whether the directory was still alive.
func (s *session) unwatch(path string) (alive bool) {
	d := s.dirs[path]
	if d == nil {
		return false
	}
	delete(s.dirs, path)
	delete(s.byReal[d.real], path)
	if len(s.byReal[d.real]) > 0 {
		return false
	}
	delete(s.byReal, d.real)
	return d.source.remove(d.real)
}
