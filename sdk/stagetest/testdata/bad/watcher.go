package main

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// watcher looks at all files all the time.
type watcher struct {
	version uint64
	roots   []string // of the newest set, and, where that is how it is bad, of others
	ignore  []string
	known   map[string]string
	times   map[string]time.Time
}

func (w *watcher) Watch(ctx context.Context, sets <-chan sdk.WatchSet, report func(sdk.ChangeSet) error) error {
	var pending []sdk.Change // seen in the last look
	var since time.Time
	var debounce time.Duration
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case set := <-sets:
			debounce, pending = set.Debounce, nil
			if err := w.begin(set, report); err != nil {
				return err
			}
		case <-tick.C:
			changes := w.changes()
			if !slices.Equal(changes, pending) {
				pending, since = changes, time.Now()
				continue
			}
			if len(changes) == 0 || time.Since(since) < debounce {
				continue
			}
			if err := w.report(changes, report); err != nil {
				return err
			}
		}
	}
}

func (w *watcher) begin(set sdk.WatchSet, report func(sdk.ChangeSet) error) error {
	roots := set.Roots
	switch mode {
	case "watcher/replaced":
		roots = append(w.roots, roots...)
	case "watcher/later":
		roots = slices.DeleteFunc(roots, func(root string) bool { _, err := os.Stat(root); return err != nil })
	}
	w.version, w.roots, w.ignore, w.known, w.times = set.Version, roots, set.Ignore, set.Known, map[string]time.Time{}
	changes := w.changes()
	if bad("watcher/down") && len(set.Known) > 0 {
		changes = nil // events alone count
	}
	if bad("watcher/known") && len(changes) == 0 {
		return nil
	}
	if bad("watcher/large") {
		changes = changes[:min(len(changes), 10_000)]
	}
	w.learn(changes)
	return report(sdk.ChangeSet{Version: set.Version, Changes: changes, Rescan: !bad("watcher/first:rescan")})
}

func (w *watcher) report(changes []sdk.Change, report func(sdk.ChangeSet) error) error {
	w.learn(changes)
	times := 1
	if bad("watcher/storm") {
		times = 30
	}
	for range times - 1 {
		early := slices.Clone(changes)
		for i := range early {
			early[i].Digest = "00"
		}
		if err := report(sdk.ChangeSet{Version: w.version, Changes: early}); err != nil {
			return err
		}
	}
	return report(sdk.ChangeSet{Version: w.version, Changes: changes})
}

func (w *watcher) learn(changes []sdk.Change) {
	for _, c := range changes {
		if info, err := os.Stat(c.Path); err == nil {
			w.times[c.Path] = info.ModTime()
		}
		if c.Op == sdk.Removed {
			delete(w.known, c.Path)
		} else {
			w.known[c.Path] = c.Digest
		}
	}
}

// changes is the difference between the files and what is known.
func (w *watcher) changes() (all []sdk.Change) {
	now := w.scan()
	for _, path := range slices.Sorted(maps.Keys(now)) {
		known, ok := w.known[path]
		op := sdk.Modified
		if !ok && !bad("watcher/changes") {
			op = sdk.Created
		}
		if known != now[path] || w.touched(path) && bad("watcher/unchanged") {
			all = append(all, sdk.Change{Path: path, Op: op, Digest: now[path]})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(w.known)) {
		if _, ok := now[path]; !ok && !bad("watcher/changes:removed") && !bad("watcher/first") {
			all = append(all, sdk.Change{Path: path, Op: sdk.Removed})
		}
	}
	return all
}

func (w *watcher) touched(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	return !w.times[path].Equal(info.ModTime())
}

func (w *watcher) scan() map[string]string {
	files := map[string]string{}
	for _, root := range w.roots {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(root, path)
			if err != nil || d.IsDir() || w.ignored(rel) || strings.HasSuffix(path, ".tmp") {
				return nil
			}
			if digest, err := sdk.FileDigest(path); err == nil {
				if bad("watcher/digest") {
					digest = strings.ToUpper(digest)
				}
				files[path] = digest
			}
			return nil
		})
	}
	return files
}

func (w *watcher) ignored(rel string) bool {
	return !bad("watcher/ignored") && slices.ContainsFunc(w.ignore, func(pattern string) bool { return sdk.Match(pattern, rel) })
}
