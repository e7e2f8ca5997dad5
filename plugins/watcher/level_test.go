package watcher

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

func TestEditsWhileDown(t *testing.T) {
	root := site(t)
	first := start(t, quick())
	first.root(root)
	known := first.known

	write(t, root+"/index/main.go", "package main // while down")
	must(t, os.RemoveAll(root+"/api/users/db"))
	write(t, root+"/new/main.go", "package main")
	known["/elsewhere/main.go"] = "abc" // outside: not the watcher's

	second := start(t, quick())
	second.known = known
	c := second.send(sdk.WatchSet{Roots: []string{root}})
	if len(c.Changes) != 3 {
		t.Errorf("changes: %+v", c.Changes)
	}
	delete(known, "/elsewhere/main.go")
	second.equal(disk(t, root))
}

func TestNewSetReportsOnlyWhatTheKernelDoesNotKnow(t *testing.T) {
	root := site(t)
	r := start(t, quick())
	r.root(root)
	file := root + "/index/main.go"

	// the kernel names one file only: the others were reported before
	if c := r.send(sdk.WatchSet{Roots: []string{root}, Known: map[string]string{file: r.known[file]}}); len(c.Changes) != 0 {
		t.Errorf("repeated: %+v", c.Changes)
	}
	// the kernel acts on something else than is on disk
	r.known[file] = "stale"
	c := r.send(sdk.WatchSet{Roots: []string{root}})
	if len(c.Changes) != 1 || c.Changes[0].Path != file || c.Changes[0].Op != sdk.Modified {
		t.Errorf("stale: %+v", c.Changes)
	}
	// the kernel acts on a file that is gone
	r.known[root+"/index/gone.go"] = "stale"
	c = r.send(sdk.WatchSet{Roots: []string{root}})
	if len(c.Changes) != 1 || c.Changes[0].Op != sdk.Removed {
		t.Errorf("gone: %+v", c.Changes)
	}
	r.equal(disk(t, root))
}

func TestSetsReplaceEachOther(t *testing.T) {
	root, other := site(t), site(t)
	r := start(t, quick())
	r.root(root)
	first := r.known
	r.known = map[string]string{}
	r.root(other)
	write(t, root+"/index/main.go", "package main // not watched any more")
	r.quiet(other + "/index")
	r.known = first // what the watcher forgets, it reports by what the kernel knows
	r.send(sdk.WatchSet{Roots: []string{root}})
	r.equal(disk(t, root))
}

func TestDirsAreFlat(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/server.yaml", "port: 8080")
	write(t, dir+"/sub/x.go", "package x")
	r := start(t, quick())
	r.send(sdk.WatchSet{Dirs: []string{dir}, Debounce: 20 * time.Millisecond})
	if len(r.known) != 1 {
		t.Fatalf("known: %s", show(r.known))
	}
	write(t, dir+"/sub/y.go", "package y")
	write(t, dir+"/sub2/y.go", "package y")
	r.quiet(dir)
}

func TestIgnorePatternsOfTheSet(t *testing.T) {
	root := site(t)
	write(t, root+"/index/data.log", "x")
	write(t, root+"/api/gen/x.go", "package x")
	r := start(t, quick())
	c := r.send(sdk.WatchSet{Roots: []string{root}, Ignore: []string{"*.log", "api/gen"}, Debounce: 20 * time.Millisecond})
	if len(c.Changes) != 4 {
		t.Errorf("changes: %+v", c.Changes)
	}
	write(t, root+"/index/data.log", "y")
	write(t, root+"/api/gen/deep/x.go", "package y")
	r.quiet(root + "/index")
}

func TestHiddenRootAndNamedFile(t *testing.T) {
	root := filepath.Join(t.TempDir(), ".site")
	write(t, root+"/main.go", "package main")
	write(t, root+"/.hidden", "x")
	r := start(t, quick())
	r.root(root) // disk ignores what is hidden below the root
	r.known[root+"/.hidden"] = "the kernel acts on this one"
	if c := r.send(sdk.WatchSet{Roots: []string{root}}); len(c.Changes) != 1 || c.Changes[0].Op != sdk.Modified {
		t.Errorf("a hidden file that the kernel names: %+v", c.Changes)
	}
}

func TestRootComesGoesAndComesBack(t *testing.T) {
	for mode, w := range map[string]func() *Fsnotify{"events": quick, "poll": polling} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			root := base + "/not/yet/pages"
			r := start(t, w())
			r.root(root)
			write(t, root+"/index/main.go", "package main")
			r.settle(root)
			must(t, os.RemoveAll(base+"/not"))
			r.settle(root)
			write(t, root+"/index/main.go", "package main // back")
			r.settle(root)
			// moved from above: no event for the root itself
			must(t, os.Rename(base+"/not", base+"/away"))
			write(t, root+"/index/main.go", "package main // third")
			r.settle(root)
			write(t, root+"/index/main.go", "package main // fourth")
			r.settle(root)
		})
	}
}

// vanishing is a source in whose sight the first directory goes, after it was seen and before it is read.
type vanishing struct {
	silent
	once sync.Once
	away string
}

func (v *vanishing) add(dir string) (err error) {
	v.once.Do(func() { err = os.Rename(dir, v.away) })
	return err
}

// The same directory comes back as it was: with the inode number that was seen last.
func TestRootVanishesWhileItIsEntered(t *testing.T) {
	root := site(t)
	want := disk(t, root)
	v := &vanishing{away: root + ".away"}
	w := quick()
	w.config.Mode = "events"
	w.open = func(*hints) (source, error) { return v, nil }
	r := start(t, w)
	if c := r.send(sdk.WatchSet{Roots: []string{root}}); len(c.Changes) != 0 {
		t.Fatalf("changes without a root: %+v", c.Changes)
	}
	must(t, os.Rename(v.away, root))
	r.next()
	r.equal(want)
}

// A directory that went when it was to be entered is hinted at when it is there again, with the same inode number.
func TestPollerMissedOne(t *testing.T) {
	root := site(t)
	h := newHints()
	p := newPoller(h, time.Hour)
	defer p.close()
	must(t, p.add(root))
	names, err := listing(root)
	must(t, err)
	p.saw(root, names)
	p.poll(time.Now())
	if f := h.take(); len(f.events) != 0 {
		t.Fatalf("hints without a change: %v", f.events)
	}
	p.missed(root, "index")
	p.poll(time.Now())
	if f := h.take(); f.events[root+"/index"] != fsnotify.Create || len(f.events) != 1 {
		t.Errorf("hints: %v", f.events)
	}
}

func TestSymlinks(t *testing.T) {
	base := t.TempDir()
	root := base + "/pages"
	write(t, base+"/real/main.go", "package main")
	write(t, base+"/shared/dir/x.go", "package x")
	must(t, os.MkdirAll(root+"/index", 0o777))
	must(t, os.Symlink(base+"/real/main.go", root+"/index/main.go"))
	must(t, os.Symlink("..", root+"/index/loop"))
	must(t, os.Symlink("self", root+"/index/self"))
	must(t, os.Symlink("nowhere", root+"/index/dangling"))
	must(t, os.Symlink(base+"/shared/dir", root+"/linked"))
	r := start(t, quick())
	r.root(root)
	if len(r.known) != 1 {
		t.Fatalf("known:\n%s", show(r.known))
	}
	write(t, base+"/real/main.go", "package main // through the link")
	r.settle(root)
	write(t, root+"/index/nowhere", "no longer dangling")
	r.settle(root)

	// a file that the kernel names behind a linked directory is followed, too
	behind := root + "/linked/x.go"
	r.known[behind] = "stale"
	r.send(sdk.WatchSet{Roots: []string{root}, Debounce: 20 * time.Millisecond})
	write(t, base+"/shared/dir/x.go", "package x // two")
	want, err := sdk.FileDigest(behind)
	must(t, err)
	for r.known[behind] != want {
		r.next()
	}
}

func TestRootIsALinkThatIsExchanged(t *testing.T) {
	base := t.TempDir()
	write(t, base+"/v1/index/main.go", "package main // v1")
	write(t, base+"/v2/index/main.go", "package main // v2")
	write(t, base+"/v2/more/main.go", "package main")
	must(t, os.Symlink("v1", base+"/current"))
	root := base + "/current"
	followed := func() map[string]string {
		real, err := filepath.EvalSymlinks(root)
		must(t, err)
		files := map[string]string{}
		for path, digest := range disk(t, real) {
			files[root+strings.TrimPrefix(path, real)] = digest
		}
		return files
	}
	r := start(t, quick())
	r.send(sdk.WatchSet{Roots: []string{root, base + "/v1"}, Debounce: 20 * time.Millisecond}) // one directory, two paths
	until := func() {
		t.Helper()
		for {
			want := followed()
			for path, digest := range disk(t, base+"/v1") {
				want[path] = digest
			}
			if show(want) == show(r.known) {
				return
			}
			r.next()
		}
	}
	until()
	write(t, base+"/v1/index/main.go", "package main // v1 edited")
	until()
	must(t, os.Symlink("v2", base+"/next"))
	must(t, os.Rename(base+"/next", root))
	until()
	write(t, base+"/v2/more/main.go", "package main // v2 edited")
	until()
}

func TestKubernetesConfigMap(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/..v1/server.yaml", "port: 1")
	write(t, dir+"/..v2/server.yaml", "port: 2")
	must(t, os.Symlink("..v1", dir+"/..data"))
	must(t, os.Symlink("..data/server.yaml", dir+"/server.yaml"))
	w := NewFsnotify()
	w.config.Poll = 3_600_000 // the event must do
	r := start(t, w)
	r.send(sdk.WatchSet{Dirs: []string{dir}, Debounce: 20 * time.Millisecond})
	must(t, os.Symlink("..v2", dir+"/..data_tmp"))
	must(t, os.Rename(dir+"/..data_tmp", dir+"/..data"))
	want, err := sdk.FileDigest(dir + "/..v2/server.yaml")
	must(t, err)
	for r.known[dir+"/server.yaml"] != want {
		r.next()
	}
}

// A file that an event names is read, even if it looks as before.
func TestSameSizeAndTime(t *testing.T) {
	root := site(t)
	file, old := root+"/index/main.go", time.Now().Add(-time.Hour)
	must(t, os.Chtimes(file, old, old))
	r := start(t, quick())
	r.root(root)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("package niam")
	must(t, err)
	must(t, os.Chtimes(file, old, old))
	must(t, f.Close())
	r.settle(root)
}

// A file whose time is old is not read again for each set.
func TestDigestsAreKept(t *testing.T) {
	root := site(t)
	file, old := root+"/index/main.go", time.Now().Add(-time.Hour)
	must(t, os.Chtimes(file, old, old))
	w := NewFsnotify()
	w.config.Poll, w.config.Mode = 3_600_000, "events"
	w.open = func(h *hints) (source, error) { return &silent{hints: h}, nil } // tells nothing
	r := start(t, w)
	r.root(root)
	write(t, file, "package niam")
	must(t, os.Chtimes(file, old, old))
	if c := r.send(sdk.WatchSet{Roots: []string{root}}); len(c.Changes) != 0 {
		t.Errorf("read again: %+v", c.Changes)
	}
	now := time.Now()
	must(t, os.Chtimes(file, now, now))
	if c := r.send(sdk.WatchSet{Roots: []string{root}}); len(c.Changes) != 1 {
		t.Errorf("another time, not read again: %+v", c.Changes)
	}
}

// silent is a source that watches nothing, fails as told, and lets the test send hints.
type silent struct {
	hints *hints
	err   error
}

func (s *silent) add(string) error   { return s.err }
func (s *silent) remove(string) bool { return false }
func (s *silent) exact(string) bool  { return false }
func (s *silent) close() error       { return nil }

func TestOverflowLooksAtEverything(t *testing.T) {
	root := site(t)
	w := NewFsnotify()
	w.config.Poll, w.config.Mode = 3_600_000, "events"
	opened := make(chan *silent, 1)
	w.open = func(h *hints) (source, error) {
		s := &silent{hints: h}
		opened <- s
		return s, nil
	}
	r := start(t, w)
	r.root(root)
	write(t, root+"/a/b/new.go", "package b")
	must(t, os.Remove(root+"/index/main.go"))
	(<-opened).hints.overflow()
	c := r.next()
	if !c.Rescan || len(c.Changes) != 2 {
		t.Errorf("report: %+v", c)
	}
	r.equal(disk(t, root))
}

// A directory that moved is found by a new set before its events are. The watch below it still has the old path.
func TestMoveOvertakesItsEvents(t *testing.T) {
	root := site(t)
	w := NewFsnotify()
	w.config.Poll, w.config.Mode = 3_600_000, "events" // a probe could time out on a loaded machine
	held, forwarded := newHints(), make(chan *hints, 1)
	w.open = func(h *hints) (source, error) {
		forwarded <- h
		return openEvents(held)
	}
	r := start(t, w)
	r.root(root)
	must(t, os.Rename(root+"/index/deep", root+"/api/deep"))
	r.send(sdk.WatchSet{Roots: []string{root}, Debounce: 20 * time.Millisecond})
	r.equal(disk(t, root))
	file := root + "/api/deep/down/deep.go"
	write(t, file+".tmp", "package down // two") // all at once
	must(t, os.Rename(file+".tmp", file))
	h := <-forwarded
	for {
		select {
		case <-held.ready: // events of the move among them, if they were read before their watches were removed
			if op := held.take().events[file]; op != 0 {
				h.event(file, op)
				r.settle(root)
				return
			}
		case <-time.After(patience):
			t.Fatal("no event by the new path")
		}
	}
}

func TestLimitsFallBackToPolling(t *testing.T) {
	for name, c := range map[string]struct {
		open func(*hints) (source, error)
		want string
	}{
		"watches":   {func(h *hints) (source, error) { return &silent{h, syscall.ENOSPC}, nil }, "max_user_watches=524288"},
		"instances": {func(*hints) (source, error) { return nil, syscall.EMFILE }, "max_user_instances=1024"},
		"other":     {func(*hints) (source, error) { return nil, errors.New("no such thing here") }, "no such thing here"},
	} {
		t.Run(name, func(t *testing.T) {
			root := site(t)
			var log strings.Builder
			w := quick()
			w.SetLogger(hclog.New(&hclog.LoggerOptions{Output: &log}))
			w.open = c.open
			t.Run("run", func(t *testing.T) {
				r := start(t, w)
				r.root(root)
				write(t, root+"/index/main.go", "package main // polled")
				write(t, root+"/a/b/x.go", "package x")
				r.settle(root)
			})
			if n := strings.Count(log.String(), c.want); n != 1 {
				t.Errorf("%d warnings:\n%s", n, &log)
			}
		})
	}
}

func TestReconfigureKeepsWatching(t *testing.T) {
	root := site(t)
	w := quick()
	r := start(t, w)
	r.root(root)
	for _, mode := range []string{"poll", "events", "auto"} {
		must(t, w.Configure(t.Context(), Config{Debounce: 1, Mode: mode, Poll: 20}))
		write(t, root+"/index/main.go", "package main // "+mode)
		r.settle(root)
	}
}

func TestWatchEnds(t *testing.T) {
	sets := make(chan sdk.WatchSet)
	close(sets)
	if err := NewFsnotify().Watch(t.Context(), sets, nil); err != nil {
		t.Errorf("no more sets: %v", err)
	}
	refused := errors.New("refused")
	sets = make(chan sdk.WatchSet, 1)
	sets <- sdk.WatchSet{Roots: []string{site(t)}}
	if err := NewFsnotify().Watch(t.Context(), sets, func(sdk.ChangeSet) error { return refused }); err != refused {
		t.Errorf("report fails: %v", err)
	}
}

// A change that leaves size and time as they were is looked at once more.
func TestPollerHintsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := dir + "/x.go"
		write(t, file, "one")
		when := time.Now().Add(-time.Hour)
		must(t, os.Chtimes(file, when, when))
		h := newHints()
		p := newPoller(h, 100*time.Millisecond)
		defer p.close()
		names, err := listing(dir)
		must(t, err)
		must(t, p.add(dir))
		p.saw(dir, names)
		p.point(file, names["x.go"])
		expect := func(what string, after time.Duration) {
			t.Helper()
			time.Sleep(after) // in the bubble's time
			synctest.Wait()
			if f := h.take(); len(f.events) != 1 || !f.points[file] {
				t.Fatalf("%s: %+v", what, f)
			}
		}
		time.Sleep(2 * settled)
		if f := h.take(); len(f.events)+len(f.points) > 0 {
			t.Fatalf("an old file: %+v", f)
		}
		must(t, os.WriteFile(file, []byte("three"), 0o666))
		expect("changed", 100*time.Millisecond)
		expect("once more, after the change", settled+150*time.Millisecond)
		p.saw(dir, nil)
		p.point(file, nil)
		expect("back since the session looked", 100*time.Millisecond)
		must(t, os.Remove(file))
		expect("removed", 100*time.Millisecond)
	})
}

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	if !probe(t.Context(), dir) {
		t.Error("no event for a scratch file in a temporary directory")
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("the probe leaves %v", left)
	}
}
