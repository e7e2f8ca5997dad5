package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// watchRig runs a WatcherFunc directly, on the clock of a synctest bubble and real files.
type watchRig struct {
	t       *testing.T
	root    string
	sets    chan WatchSet
	got     chan ChangeSet
	changed func(paths ...string) // of the newest source
	source  func() error          // what the function does before it waits
	started int
	config  suffix
	plugin  *plugin
}

func watcherTest(t *testing.T, test func(r *watchRig)) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &watchRig{t: t, root: root, sets: make(chan WatchSet), got: make(chan ChangeSet, 10), source: func() error { return nil }}
		watcher := WatcherFunc(func(ctx context.Context, c suffix, _ WatchSet, changed func(...string)) error {
			r.started++
			r.config, r.changed = c, changed
			if err := r.source(); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		})
		r.plugin = newPlugin("test", "1", watcher)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- watcher.Watch(ctx, r.sets, func(c ChangeSet) error { r.got <- c; return nil }) }()
		test(r)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("end of Watch: %v", err)
		}
	})
}

func (r *watchRig) path(name string) string { return filepath.Join(r.root, name) }

func (r *watchRig) write(name, text string) string {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	digest, err := FileDigest(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return digest
}

// want waits for the next report, after the time that bursts take.
func (r *watchRig) want(rescan bool, want ...string) {
	r.t.Helper()
	var c ChangeSet
	select {
	case c = <-r.got:
	case <-time.After(time.Hour):
		r.t.Fatalf("no report; want %q", want)
	}
	synctest.Wait()
	var got []string
	for _, change := range c.Changes {
		got = append(got, fmt.Sprintf("%s %s", strings.TrimPrefix(change.Path, r.root+"/"), change.Op))
	}
	if c.Rescan != rescan || !slices.Equal(got, want) {
		r.t.Errorf("report %q, rescan %v; want %q", got, c.Rescan, want)
	}
}

func (r *watchRig) quiet() {
	r.t.Helper()
	select {
	case c := <-r.got:
		r.t.Errorf("report %+v, want none", c)
	case <-time.After(time.Hour):
	}
}

func (r *watchRig) take(known map[string]string) {
	r.sets <- WatchSet{Version: 1, Roots: []string{r.path("pages")}, Dirs: []string{r.path("config")}, Ignore: []string{"out/**", "*.log"}, Debounce: 50 * time.Millisecond, Known: known}
}

func TestWatcherFuncComparesWithWhatIsKnown(t *testing.T) {
	watcherTest(t, func(r *watchRig) {
		same := r.write("pages/same.go", "1")
		r.write("pages/edited.go", "1")
		for _, name := range []string{"pages/deep/er/new.go", "pages/.git/x", "pages/a.swp", "pages/out/x", "pages/x.log", "config/c.yaml", "config/sub/d.yaml", "elsewhere/e.go"} {
			r.write(name, "1")
		}
		r.take(map[string]string{r.path("pages/same.go"): same, r.path("pages/edited.go"): "other", r.path("pages/gone.go"): "d"})
		r.want(true, "config/c.yaml created", "pages/deep/er/new.go created", "pages/edited.go modified", "pages/gone.go removed")
		r.take(nil)
		r.want(true) // all that was told
	})
}

func TestWatcherFuncReportsEachChangeOnce(t *testing.T) {
	watcherTest(t, func(r *watchRig) {
		r.write("pages/a.go", "1")
		r.write("pages/dir/b.go", "1")
		r.take(nil)
		r.want(true, "pages/a.go created", "pages/dir/b.go created")
		r.write("pages/a.go", "2")
		r.write("pages/dir/c.go", "1")
		for range 3 {
			r.changed(r.path("pages/a.go"), r.path("pages/dir"))
		}
		r.want(false, "pages/a.go modified", "pages/dir/c.go created")
		r.changed(r.path("pages/a.go"))
		r.quiet()
		if err := os.RemoveAll(r.path("pages/dir")); err != nil {
			r.t.Fatal(err)
		}
		r.write("config/c.yaml", "1")
		r.changed(r.path("pages/dir"), r.path("elsewhere"))
		r.want(false, "pages/dir/b.go removed", "pages/dir/c.go removed")
		r.changed()
		r.want(false, "config/c.yaml created")
		if err := os.RemoveAll(r.path("pages")); err != nil {
			r.t.Fatal(err)
		}
		r.changed()
		r.want(false, "pages/a.go removed")
	})
}

func TestWatcherFuncFollowsLinksOnce(t *testing.T) {
	watcherTest(t, func(r *watchRig) {
		r.write("elsewhere/deep/e.go", "1")
		r.write("pages/a/b.go", "1")
		for _, link := range [][2]string{{"../elsewhere", "pages/link"}, {"..", "pages/a/loop"}, {"../pages", "elsewhere/back"}, {"nowhere", "pages/dangling"}} {
			if err := os.Symlink(link[0], r.path(link[1])); err != nil {
				r.t.Fatal(err)
			}
		}
		r.take(nil)
		r.want(true, "pages/a/b.go created", "pages/link/deep/e.go created")
	})
}

func TestWatcherFuncEndsABurstThatGoesOn(t *testing.T) {
	watcherTest(t, func(r *watchRig) {
		r.take(nil)
		r.want(true)
		began := time.Now()
		for i := 0; len(r.got) == 0 && time.Since(began) < time.Minute; i++ {
			r.write("pages/a.go", fmt.Sprint(i))
			r.changed(r.path("pages/a.go"))
			time.Sleep(20 * time.Millisecond)
		}
		if took := time.Since(began); took < 400*time.Millisecond || took > 600*time.Millisecond {
			r.t.Errorf("reported after %s, want about ten times the debounce", took)
		}
	})
}

func TestWatcherFuncIsCalledAgainAfterAPanicAndAnError(t *testing.T) {
	watcherTest(t, func(r *watchRig) {
		r.source = func() error {
			switch r.started {
			case 1:
				panic("boom")
			case 2:
				return errors.New("too many watches")
			}
			return nil
		}
		r.take(nil)
		r.want(true)
		r.write("pages/a.go", "1") // while nobody looks
		r.want(false, "pages/a.go created")
		time.Sleep(time.Hour)
		synctest.Wait()
		if r.started != 3 {
			r.t.Errorf("called %d times, want 3", r.started)
		}
	})
}

func TestWatcherFuncStartsAnewWithAnotherConfiguration(t *testing.T) {
	watcherTest(t, func(r *watchRig) {
		r.take(nil)
		r.want(true)
		r.write("pages/a.go", "1")
		if err := r.plugin.configure(t.Context(), []byte(`{"suffix":".x"}`)); err != nil {
			r.t.Fatal(err)
		}
		r.want(false, "pages/a.go created")
		synctest.Wait()
		if r.started != 2 || r.config.Suffix != ".x" {
			r.t.Errorf("called %d times, with %+v", r.started, r.config)
		}
	})
}

func TestWatcherFuncKeepsWhatItCannotRead(t *testing.T) {
	watcherTest(t, func(r *watchRig) {
		r.write("pages/dir/a.go", "1")
		r.take(nil)
		r.want(true, "pages/dir/a.go created")
		if err := errors.Join(os.RemoveAll(r.path("pages/dir")), os.Symlink("dir", r.path("pages/dir"))); err != nil {
			r.t.Fatal(err)
		}
		r.changed() // it leads to itself, which is not the same as being gone
		r.quiet()
	})
}
