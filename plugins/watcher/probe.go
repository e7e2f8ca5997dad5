package watcher

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	probeName  = ".tqserver-probe-" // of the scratch file; hidden, so that nobody else looks at it
	probeLimit = 200 * time.Millisecond
)

// eventsArrive tells whether changes in a directory are heard of, whoever makes them. It asks once for each device.
//
// On network and shared file systems a trial would lie: they announce what this machine writes, and not what others
// do. They are told by their type. Everywhere else it is tried.
func (s *session) eventsArrive(dir string, info fs.FileInfo) bool {
	if s.config.Mode == "events" {
		return true
	}
	device, remote := device(dir, info)
	arrive, asked := s.arrive[device]
	if asked {
		return arrive
	}
	arrive = remote == "" && probe(s.ctx, dir)
	s.arrive[device] = arrive
	switch {
	case remote != "":
		s.log.Info("polling: changes made elsewhere send no file events", "path", dir, "file_system", remote)
	case !arrive && s.ctx.Err() == nil:
		s.log.Warn("polling: no file event arrived for a scratch file", "path", dir, "waited", probeLimit)
	}
	return arrive
}

// probe writes a scratch file, renames and removes it, and tells whether an event arrives. Where it cannot write, it
// takes that for granted.
func probe(ctx context.Context, dir string) bool {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return true // adding the watch will say why not
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		return true
	}
	if err := scratch(dir); err != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.Errors:
			return true
		case event := <-w.Events:
			if strings.HasPrefix(filepath.Base(event.Name), probeName) {
				return true
			}
		}
	}
}

func scratch(dir string) error {
	f, err := os.CreateTemp(dir, probeName+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.WriteString("tqserver looks whether file events arrive\n"); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	renamed := f.Name() + "-renamed"
	defer os.Remove(renamed)
	return os.Rename(f.Name(), renamed)
}
