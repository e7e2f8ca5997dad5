package watcher

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tqserver/tqserver/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// rig runs a watcher and keeps the kernel's picture of the files. Each report must fit the picture: nothing is created
// twice, nothing modified to what it was.
type rig struct {
	t       *testing.T
	sets    chan sdk.WatchSet
	reports chan sdk.ChangeSet
	version uint64
	known   map[string]string
}

// start runs w until the test ends. run, if given, calls what it is given on a thread of its choice.
func start(t *testing.T, w sdk.Watcher, run ...func(func())) *rig {
	t.Helper()
	r := &rig{t: t, sets: make(chan sdk.WatchSet), reports: make(chan sdk.ChangeSet), known: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	watch := func() {
		err := w.Watch(ctx, r.sets, func(c sdk.ChangeSet) error {
			select {
			case r.reports <- c:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if ctx.Err() == nil {
			t.Errorf("Watch returned early: %v", err)
		}
	}
	go func() {
		defer close(done)
		if len(run) > 0 {
			run[0](watch)
			return
		}
		watch()
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

func quick() *Fsnotify {
	w := NewFsnotify()
	w.config.Poll = 20
	return w
}

func polling() *Fsnotify {
	w := quick()
	w.config.Mode = "poll"
	return w
}

// send sends a set and gives the first report on it.
func (r *rig) send(set sdk.WatchSet) sdk.ChangeSet {
	r.t.Helper()
	r.version++
	set.Version = r.version
	if set.Known == nil {
		set.Known = maps.Clone(r.known)
	}
	select {
	case r.sets <- set:
	case <-time.After(patience):
		r.t.Fatal("the watcher takes no set")
	}
	c := r.next()
	if !c.Rescan || c.Version != r.version {
		r.t.Fatalf("first report of set %d: %+v", r.version, c)
	}
	return c
}

// root watches one root and checks that the first report is what is on disk.
func (r *rig) root(root string) {
	r.t.Helper()
	r.send(sdk.WatchSet{Roots: []string{root}, Debounce: 20 * time.Millisecond})
	r.equal(disk(r.t, root))
}

func (r *rig) next() sdk.ChangeSet {
	r.t.Helper()
	select {
	case c := <-r.reports:
		for _, change := range c.Changes {
			r.apply(change)
		}
		return c
	case <-time.After(patience):
		r.t.Fatalf("no report; known is %s", show(r.known))
	}
	panic("unreachable")
}

func (r *rig) apply(c sdk.Change) {
	r.t.Helper()
	old, had := r.known[c.Path]
	fits := map[sdk.Op]bool{sdk.Created: !had, sdk.Modified: had && old != c.Digest, sdk.Removed: had}[c.Op]
	if !fits || (c.Digest == "") != (c.Op == sdk.Removed) {
		r.t.Fatalf("%s %s with digest %.8s does not fit what was reported: %.8s", c.Op, c.Path, c.Digest, old)
	}
	if c.Op == sdk.Removed {
		delete(r.known, c.Path)
	} else {
		r.known[c.Path] = c.Digest
	}
}

// settle takes reports until the picture is that of the disk, and gives their number.
func (r *rig) settle(root string) int {
	r.t.Helper()
	for n := 0; ; n++ {
		if maps.Equal(r.known, disk(r.t, root)) {
			return n
		}
		r.next()
	}
}

// quiet shows that nothing but the marker it writes is reported.
func (r *rig) quiet(dir string) {
	r.t.Helper()
	marker := filepath.Join(dir, fmt.Sprintf("marker%d.go", len(r.known)))
	write(r.t, marker+".tmp", "package marker") // all at once
	must(r.t, os.Rename(marker+".tmp", marker))
	c := r.next()
	if len(c.Changes) != 1 || c.Changes[0].Path != marker {
		r.t.Fatalf("reported besides %s: %+v", marker, c.Changes)
	}
}

func (r *rig) equal(want map[string]string) {
	r.t.Helper()
	if !maps.Equal(r.known, want) {
		r.t.Fatalf("known:\n%s\nwant:\n%s", show(r.known), show(want))
	}
}

// disk gives the digests of the files that a root means by the default rules.
func disk(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != root && ignoredName(d.Name()):
			if d.IsDir() {
				return fs.SkipDir
			}
		case !d.IsDir():
			if digest, err := sdk.FileDigest(path); err == nil {
				files[path] = digest
			}
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return files
}

func show(files map[string]string) string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&b, "%s %.8s\n", path, files[path])
	}
	return b.String()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o777))
	must(t, os.WriteFile(path, []byte(content), 0o666))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site makes a small tree and gives its root.
func site(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "pages")
	write(t, filepath.Join(root, "index/main.go"), "package main")
	write(t, filepath.Join(root, "api/users/main.go"), "package main // users")
	write(t, filepath.Join(root, "api/users/db/db.go"), "package db")
	write(t, filepath.Join(root, "index/deep/down/deep.go"), "package down")
	return root
}

// memory gives a temporary directory that is not on a disk, if there is such a place: thousands of files take long there.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tqserver-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
