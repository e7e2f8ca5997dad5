package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// watcher polls: it reads every file, again and again.
type watcher struct{ every time.Duration }

func (w *watcher) Watch(ctx context.Context, sets <-chan sdk.WatchSet, report func(sdk.ChangeSet) error) error {
	var set sdk.WatchSet
	known := map[string]string{}
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		rescan := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case set = <-sets:
			known, rescan = set.Known, true
		case <-tick.C:
		}
		now := look(set)
		changes := difference(known, now)
		if !rescan && len(changes) == 0 {
			continue
		}
		if err := report(sdk.ChangeSet{Version: set.Version, Changes: changes, Rescan: rescan}); err != nil {
			return err
		}
		known = now
	}
}

// look gives the digests of all files of a set.
func look(set sdk.WatchSet) map[string]string {
	now := map[string]string{}
	add := func(path string) {
		for _, pattern := range set.Ignore {
			if sdk.Match(pattern, path) {
				return
			}
		}
		if digest, err := sdk.FileDigest(path); err == nil {
			now[path] = digest
		}
	}
	for _, root := range set.Roots {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				add(path)
			}
			return nil // what is gone meanwhile is seen to be
		})
	}
	for _, dir := range set.Dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			add(filepath.Join(dir, e.Name()))
		}
	}
	return now
}

func difference(known, now map[string]string) (changes []sdk.Change) {
	for path, digest := range now {
		switch old, ok := known[path]; {
		case !ok:
			changes = append(changes, sdk.Change{Path: path, Op: sdk.Created, Digest: digest})
		case old != digest:
			changes = append(changes, sdk.Change{Path: path, Op: sdk.Modified, Digest: digest})
		}
	}
	for path := range known {
		if _, ok := now[path]; !ok {
			changes = append(changes, sdk.Change{Path: path, Op: sdk.Removed})
		}
	}
	return changes
}
