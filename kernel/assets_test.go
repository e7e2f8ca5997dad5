package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/worker"
	"github.com/tqserver/tqserver/sdk"
	sdkworker "github.com/tqserver/tqserver/sdk/worker"
)

// beReader is a page that is wrong while there is a file views/bad. It gets ready when there is a file of the name that
// BEGIN says.
func beReader() {
	rt, err := sdkworker.NewRuntime()
	if err != nil {
		panic(err)
	}
	rt.OnChange("views", func([]string) error {
		if _, err := os.Stat(filepath.Join(rt.PageDir, "views", "bad")); err == nil {
			return errors.New("wrong")
		}
		return nil
	})
	for begin := os.Getenv("BEGIN"); begin != ""; time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(begin); err == nil {
			break
		}
	}
	fmt.Fprintln(os.Stderr, rt.StartServer(nil))
	os.Exit(1)
}

func modified(paths ...string) (changes []sdk.Change) {
	for _, path := range paths {
		changes = append(changes, sdk.Change{Path: path, Op: sdk.Modified, Digest: "2"})
	}
	return changes
}

// builtFrom is the report of a build that has read the page's main.go.
func builtFrom(p *page, r release) *buildReport {
	return builtAs(r, sdk.Input{Path: p.route.Dir + "/main.go", Digest: "1"})
}

// hears waits until the worker in service has said what it wants to know.
func (p *page) hears(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); p.assets.tell(nil, p.current) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the worker wants to know of nothing")
		}
	}
}

func TestFilesThatNeedNoBuild(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	testPage(t, k, "b")
	r := testRelease(t, "one", "reader")
	p.releaseBuilt(builtAs(r, sdk.Input{Path: p.route.Dir + "/views/embedded.html", Digest: "1"}), nil)
	p.until(t, "the worker", func() bool { return p.current != nil })
	p.hears(t)
	inst := p.current
	p.filesChanged(modified(p.route.Dir+"/views/a.html", p.route.Dir+"/style.css", k.site.abs("pages/b/x.html")), time.Now())
	if len(p.assets.waiting) != 2 {
		t.Errorf("%d files wait for the answer", len(p.assets.waiting))
	}
	p.until(t, "the answer", func() bool { return inst.update != nil && len(p.assets.waiting) == 0 })
	if !inst.update.OK || p.trouble() != "" {
		t.Errorf("%+v, %q", inst.update, p.trouble())
	}
	bad := p.route.Dir + "/views/bad"
	if err := errors.Join(os.MkdirAll(filepath.Dir(bad), 0o700), os.WriteFile(bad, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	p.filesChanged(modified(bad), time.Now())
	p.until(t, "the mistake in the status", func() bool { return p.view.Load().page.Error != "" })
	if got := p.view.Load().page; got.Error != "update failed: wrong" || got.State != serving || len(got.Update.Diagnostics) != 1 {
		t.Errorf("the status is %+v", got)
	}
	if p.building != nil || p.candidate != nil || p.current != inst {
		t.Error("something is built or started")
	}
	p.filesChanged(modified(p.route.Dir+"/views/embedded.html"), time.Now())
	if p.building == nil || len(p.assets.waiting) != 1 {
		t.Errorf("what a build has read: builds %v, %d wait", p.building != nil, len(p.assets.waiting))
	}
	p.building.cancel()
	p.until(t, "the build to end", func() bool { return p.building == nil })
	p.assets.waiting = []told{{1, sdk.Change{}}, {2, sdk.Change{}}}
	p.updated(inst, worker.Update{Upto: 1})
	if len(p.assets.waiting) != 1 {
		t.Errorf("after the answer to the first, %d wait", len(p.assets.waiting))
	}
	p.serveRelease(t, testRelease(t, "two", "serve"))
	if p.trouble() != "" || len(p.assets.waiting) != 0 {
		t.Errorf("a new worker: %q, %d wait", p.trouble(), len(p.assets.waiting))
	}
}

// What a worker may have read before it was changed is told when it is ready.
func TestChangeDuringAStartIsTold(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	begin := filepath.Join(t.TempDir(), "begin")
	r := testRelease(t, "one", "reader")
	r.Env["BEGIN"] = begin
	p.releaseBuilt(builtFrom(p, r), nil)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		p.assets.mu.Lock()
		started := len(p.assets.workers) > 0
		p.assets.mu.Unlock()
		if started {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no worker is started")
		}
	}
	p.filesChanged(modified(p.route.Dir+"/views/a.html"), time.Now())
	if err := os.WriteFile(begin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.until(t, "the answer", func() bool { return p.current != nil && p.current.update != nil })
	if u := p.current.update; u.Files != 0 || !u.OK {
		t.Errorf("got %+v", u)
	}
}

// A release that did not start is tried again when a file is changed that it may read.
func TestFilesMendAStart(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.releaseBuilt(builtFrom(p, testRelease(t, "one", "fail")), nil)
	p.until(t, "a wait for the next try", func() bool { return p.candidate != nil && time.Until(p.candidate.begins) > 0 })
	waits := p.candidate
	inner := testPage(t, k, "a/inner")
	testPage(t, k, "b")
	p.filesChanged(modified(k.site.abs("pages/b/x.html"), inner.route.Dir+"/x.html"), time.Now())
	if p.candidate != waits {
		t.Error("a file of another page starts it")
	}
	p.filesChanged(modified(k.site.abs("pages/_layout/x.html")), time.Now())
	if p.candidate == waits || time.Until(p.candidate.begins) > 0 {
		t.Error("it waits on")
	}
	p.serveRelease(t, testRelease(t, "good", "serve"))
	p.releaseBuilt(builtFrom(p, testRelease(t, "two", "fail")), nil)
	p.until(t, "the release to be discarded", func() bool { return p.candidate == nil && p.stale != "" })
	p.filesChanged(modified(p.route.Dir+"/x.html"), time.Now())
	if p.candidate == nil || p.candidate.release.ID != "two" || p.candidate.why != deploy {
		t.Errorf("not started again: %+v", p.candidate)
	}
	p.until(t, "the release to be discarded again", func() bool { return p.candidate == nil })
	p.serveRelease(t, testRelease(t, "three", "serve"))
	p.filesChanged(modified(p.route.Dir+"/x.html"), time.Now())
	if p.candidate != nil {
		t.Error("a release that serves is started again")
	}
	p.assets.mu.Lock()
	defer p.assets.mu.Unlock()
	if n := len(p.assets.workers); n > 2 { // the one before may be ending
		t.Errorf("%d workers are remembered", n)
	}
}
