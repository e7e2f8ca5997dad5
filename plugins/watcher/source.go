package watcher

import (
	"errors"
	"sync"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

// A source hints at changes in the directories it was given, from the moment add returned.
type source interface {
	add(dir string) error
	remove(dir string) (alive bool) // whether the directory was still watched
	exact(dir string) bool          // it will tell when a file in the directory is complete
	close() error                   // ends its goroutines and waits for them
}

// hints collects what the sources noticed until the session takes it. Nothing in it blocks, so that the queue of the
// operating system is always drained. Safe for concurrent use.
type hints struct {
	ready chan struct{} // there is something to take
	mu    sync.Mutex
	found found
}

// found is a number of hints.
type found struct {
	events map[string]fsnotify.Op // real path -> what happened to it
	done   map[string]bool        // real paths of files that are complete: nobody writes to them any more
	points map[string]bool        // paths that were watched one by one
	lost   bool                   // events were: anything may have changed
}

func newHints() *hints {
	return &hints{ready: make(chan struct{}, 1), found: newFound()}
}

func newFound() found {
	return found{events: map[string]fsnotify.Op{}, done: map[string]bool{}, points: map[string]bool{}}
}

func (h *hints) event(path string, op fsnotify.Op) { h.put(func(f *found) { f.events[path] |= op }) }
func (h *hints) complete(path string)              { h.put(func(f *found) { f.done[path] = true }) }
func (h *hints) point(path string)                 { h.put(func(f *found) { f.points[path] = true }) }
func (h *hints) overflow()                         { h.put(func(f *found) { f.lost = true }) }

func (h *hints) put(add func(*found)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	add(&h.found)
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

func (h *hints) take() found {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.found
	h.found = newFound()
	return f
}

// events is the source of the operating system's events.
type events struct {
	watcher *fsnotify.Watcher
	closes  *closes
	closing map[string]bool // directories that closes listens to; for the session's goroutine
	hints   *hints
	done    sync.WaitGroup
}

var _ source = (*events)(nil)

func openEvents(h *hints) (source, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	e := &events{watcher: w, closes: openCloses(h), closing: map[string]bool{}, hints: h}
	e.done.Go(e.pump)
	return e, nil
}

// pump ends when the watcher closes its channels.
func (e *events) pump() {
	in, errs := e.watcher.Events, e.watcher.Errors
	for in != nil || errs != nil {
		select {
		case event, ok := <-in:
			if !ok {
				in = nil
			} else if event.Name != "" {
				e.hints.event(event.Name, event.Op)
			}
		case _, ok := <-errs:
			if !ok {
				errs = nil
			} else {
				e.hints.overflow() // fsnotify.ErrEventOverflow, or a broken read: events are lost either way
			}
		}
	}
}

// add takes two watches for a directory, or one when there are not enough.
func (e *events) add(dir string) error {
	err := e.watcher.Add(dir)
	if errors.Is(err, syscall.ENOSPC) && e.closes != nil {
		e.forgo()
		err = e.watcher.Add(dir)
	}
	if err != nil {
		return err
	}
	e.closing[dir] = e.closes.add(dir)
	return nil
}

// forgo gives up what only makes things quicker.
func (e *events) forgo() {
	e.closes.close()
	e.closes = nil
	clear(e.closing)
}

func (e *events) remove(dir string) bool {
	delete(e.closing, dir)
	e.closes.remove(dir)
	return e.watcher.Remove(dir) == nil
}

func (e *events) exact(dir string) bool { return e.closing[dir] }

func (e *events) close() error {
	e.closes.close()
	err := e.watcher.Close()
	e.done.Wait()
	if errors.Is(err, fsnotify.ErrClosed) {
		return nil
	}
	return err
}
