package sdk

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	shortestBurst = 500 * time.Millisecond // that a burst may last at least, however short the debounce
	firstRetry    = time.Second            // of a source that failed; doubles up to longestRetry
	longestRetry  = time.Minute
)

// WatcherFunc makes a Watcher of a function that tells where to look, for Serve. It is called for each set, runs until its
// context ends, and calls changed with the files and directories that may have changed, or without any to have
// everything looked at. changed does not block and is safe for concurrent use. A function that listens to events calls
// changed() once it does, for what happened before.
//
//	func(ctx context.Context, c config, _ sdk.WatchSet, changed func(...string)) error {
//		for {
//			select {
//			case <-ctx.Done():
//				return nil
//			case <-time.After(time.Duration(c.Every) * time.Millisecond):
//				changed()
//			}
//		}
//	}
//
// The rest is done here: the comparison with what the kernel knows, at the start and after each burst of hints; what
// is to be watched at all; digests; and that each change is reported once. A function that returns an error, or
// panics, is called again after a second, later after up to a minute, and everything is looked at. It is also called
// again when the configuration changes; one that returns nil is not, until there is another set.
func WatcherFunc[C any](watch func(ctx context.Context, config C, set WatchSet, changed func(paths ...string)) error) Watcher {
	return &watcherFunc[C]{newSettings[C](), watch}
}

type watcherFunc[C any] struct {
	*settings[C]
	watch func(ctx context.Context, config C, set WatchSet, changed func(paths ...string)) error
}

func (f *watcherFunc[C]) Watch(ctx context.Context, sets <-chan WatchSet, report func(ChangeSet) error) error {
	w := &watching{report: report, hints: newHints(), timer: time.NewTimer(time.Hour), stop: func() {}}
	w.timer.Stop()
	defer func() { w.stop() }()
	config, changed := f.get()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case set, ok := <-sets:
			if !ok {
				return nil
			}
			w.stop()
			w.stop = f.start(ctx, config, set, w.hints)
			err = w.take(ctx, set)
		case <-changed:
			if config, changed = f.get(); w.tree.scope != nil {
				w.stop()
				w.stop = f.start(ctx, config, w.set, w.hints)
				w.hints.add()
				err = w.flush(ctx)
			}
		case <-w.hints.ready:
			w.delay()
		case <-w.timer.C:
			err = w.flush(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// start runs the function for a set, until stop is called, which waits for its end.
func (f *watcherFunc[C]) start(ctx context.Context, config C, set WatchSet, h *hints) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var source sync.WaitGroup
	source.Go(func() {
		for retry := firstRetry; ; retry = min(2*retry, longestRetry) {
			err := f.call(ctx, func(ctx context.Context) error { return f.watch(ctx, config, set, h.add) })
			if err == nil || ctx.Err() != nil {
				return
			}
			f.log.Error("the watcher failed and will be started again", "error", err, "in", retry.String())
			if !pause(ctx, retry) {
				return
			}
			h.add() // what happened meanwhile
		}
	})
	return func() { cancel(); source.Wait() }
}

// watching is one run of Watch.
type watching struct {
	report func(ChangeSet) error
	hints  *hints
	tree   watchTree
	set    WatchSet
	stop   func()
	timer  *time.Timer // the burst is over
	end    time.Time   // of the burst at the latest; zero: there is none
}

// take compares everything with a new set, and reports the difference, also if there is none.
func (w *watching) take(ctx context.Context, set WatchSet) error {
	w.set = set
	w.tree.take(set)
	changes, err := w.tree.compare(ctx, nil)
	if err != nil {
		return err
	}
	return w.report(ChangeSet{Version: set.Version, Changes: changes, Rescan: true})
}

// delay begins a burst, or lengthens it: up to ten times the debounce.
func (w *watching) delay() {
	if w.tree.scope == nil {
		return
	}
	now, quiet := time.Now(), max(w.set.Debounce, 0)
	if w.end.IsZero() {
		w.end = now.Add(max(10*quiet, shortestBurst))
	}
	w.timer.Reset(max(min(quiet, w.end.Sub(now)), 0))
}

// flush ends a burst: it looks where the hints point and reports what changed, if anything did.
func (w *watching) flush(ctx context.Context) error {
	w.timer.Stop()
	w.end = time.Time{}
	paths, all := w.hints.take()
	switch {
	case all:
		paths = nil
	case len(paths) == 0:
		return nil // they were taken before
	}
	changes, err := w.tree.compare(ctx, paths)
	if err != nil || len(changes) == 0 {
		return err
	}
	return w.report(ChangeSet{Version: w.set.Version, Changes: changes})
}

// hints collects where to look.
type hints struct {
	ready chan struct{}

	mu    sync.Mutex
	paths map[string]bool
	all   bool
}

func newHints() *hints { return &hints{ready: make(chan struct{}, 1), paths: map[string]bool{}} }

func (h *hints) add(paths ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, path := range paths {
		h.paths[filepath.Clean(path)] = true
	}
	h.all = h.all || len(paths) == 0
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

func (h *hints) take() (paths []string, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	paths, all = slices.Sorted(maps.Keys(h.paths)), h.all
	h.paths, h.all = map[string]bool{}, false
	return paths, all
}
