package kernel

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/sdk"
)

// goBack rolls a page back and handles its mail until that has ended.
func (p *page) goBack(t *testing.T, name string) (out control.RolledBack, err error) {
	t.Helper()
	ended := false
	p.rollback(name, &out, func(e error) { err, ended = e, true })
	p.until(t, "the rollback to end", func() bool { return ended })
	return out, err
}

func coldKernel(t *testing.T) *Kernel {
	t.Helper()
	return testKernel(t, func(c *config.Config) { c.Workers.KeepWarm = 0 })
}

// A page that was rolled back stays so until its source makes another release, also over a restart of the server.
func TestRollbackPins(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	two := testRelease(t, "two", "serve")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, two)
	out, err := p.goBack(t, "")
	if err != nil || p.current.release.ID != "one" || out.Release != "one" || out.From != "two" || out.Warm || out.Pinned == nil {
		t.Fatalf("rolled back: %+v, %v; serving is %s", out, err, p.current.release.ID)
	}
	if p.probation != nil {
		t.Error("a release that was asked for is on probation")
	}
	p.releaseBuilt(builtAs(two), nil)
	if p.current.release.ID != "one" || p.candidate != nil || p.trouble() != "" {
		t.Errorf("serving is %s, trouble %q", p.current.release.ID, p.trouble())
	}
	if err := k.good.save(); err != nil {
		t.Fatal(err)
	}

	k2 := coldKernel(t)
	k2.good = loadGoodReleases(k.good.path)
	again := testPage(t, k2, "a")
	again.releaseBuilt(builtAs(two), nil)
	again.until(t, "the page to serve", func() bool { return again.current != nil })
	if again.current.release.ID != "one" || again.view.Load().page.Pinned == nil {
		t.Errorf("after a restart %s serves, pinned %+v", again.current.release.ID, again.view.Load().page.Pinned)
	}
	if out, err := again.goBack(t, "two"); err != nil || out.Pinned != nil || again.current.release.ID != "two" || k2.good.pinned("a") != nil {
		t.Errorf("forward: %+v, %v; serving is %s", out, err, again.current.release.ID)
	}
}

// A rollback that fails has changed nothing: what was being started is, and what serves does.
func TestRollbackThatFails(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	bad := testRelease(t, "bad", "fail")
	k.good.add("a", record{release: bad, Built: time.Now()}, 10)
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "serve"))
	before := k.good.pinned("a")
	if _, err := p.goBack(t, "bad"); err == nil || !strings.Contains(err.Error(), "release bad does not start") || !strings.Contains(err.Error(), "cannot go on") {
		t.Errorf("a release that does not start: %v", err)
	}
	if p.current.release.ID != "two" || p.candidate != nil || k.good.pinned("a") != before || p.trouble() != "" || p.probation == nil {
		t.Errorf("serving is %s, pinned %+v, trouble %q, probation %+v", p.current.release.ID, k.good.pinned("a"), p.trouble(), p.probation)
	}
	p.releaseBuilt(builtAs(testRelease(t, "three", "serve")), nil)
	if _, err := p.goBack(t, "bad"); err == nil {
		t.Error("a release that does not start: no error")
	}
	p.until(t, "release three", func() bool { return p.current.release.ID == "three" })
	if _, err := p.goBack(t, "nothing"); err == nil || !strings.Contains(err.Error(), "there are three (live), two, one, bad") {
		t.Errorf("no such release: %v", err)
	}
}

// A build that had begun before a rollback is not what was wanted after it; one that began later is.
func TestRollbackDuringABuild(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "serve"))
	p.building = &build{func() {}}
	if _, err := p.goBack(t, "one"); err != nil {
		t.Fatal(err)
	}
	p.releaseBuilt(builtAs(testRelease(t, "three", "serve")), nil)
	if pin := k.good.pinned("a"); p.candidate != nil || p.current.release.ID != "one" || pin == nil || pin.Over != "three" {
		t.Errorf("being started is %+v, pinned %+v", p.candidate, pin)
	}
	p.serveRelease(t, testRelease(t, "four", "serve"))
	if k.good.pinned("a") != nil {
		t.Error("a new release is live, and the page is pinned")
	}
}

// What comes after a rollback, while its release is being started, wins, and the rollback says so.
func TestRollbackIsSuperseded(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "serve"))
	var out control.RolledBack
	var ended error
	p.rollback("one", &out, func(err error) { ended = err })
	p.releaseBuilt(builtAs(testRelease(t, "three", "serve")), nil)
	p.until(t, "release three", func() bool { return p.current.release.ID == "three" && ended != nil })
	if !strings.Contains(ended.Error(), "something newer") || k.good.pinned("a") != nil {
		t.Errorf("the rollback ended with %v, pinned %+v", ended, k.good.pinned("a"))
	}
	p.rollback("one", &out, func(err error) { ended = err })
	k.testReload(t, p, func(c *config.Config) { c.Workers.Default.GoMaxProcs = 7 }) // starts it anew
	ended = errors.New("not yet")
	p.until(t, "the rollback to end", func() bool { return ended == nil })
	if p.current.release.ID != "one" || p.current.settings.GoMaxProcs != 7 || k.good.pinned("a") == nil {
		t.Errorf("serving is %s, pinned %+v", p.current.release.ID, k.good.pinned("a"))
	}
}

// A rollback to what is live keeps what is being started from going live.
func TestRollbackToWhatIsLive(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
	if _, err := p.goBack(t, "one"); err != nil || p.candidate != nil {
		t.Fatalf("%v, being started is %+v", err, p.candidate)
	}
	p.until(t, "the start to have ended", func() bool { return len(k.ports.Leases()) == 1 && len(p.leaving) == 0 })
	if pin := k.good.pinned("a"); p.current.release.ID != "one" || pin == nil || pin.Over != "two" {
		t.Errorf("serving is %s, pinned %+v", p.current.release.ID, pin)
	}
}

func TestKernelRollsBack(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "serve"))
	k.routes.table = sdk.Table{Routes: []sdk.Route{{Page: "a", Host: "h", Path: "/a"}}}
	type outcome struct {
		done control.RolledBack
		err  error
	}
	results := make(chan outcome, 1)
	go func() {
		done, err := k.Rollback(t.Context(), "h/a/", "on")
		results <- outcome{done, err}
	}()
	var got outcome
	p.until(t, "the rollback", func() bool {
		select {
		case got = <-results:
			return true
		default:
			p.post(func() {}) // look again
			return false
		}
	})
	if got.err != nil || got.done.Release != "one" || !got.done.Warm || got.done.TookMS <= 0 {
		t.Errorf("rolled back: %+v, %v", got.done, got.err)
	}
	r, err := k.Releases("a")
	if err != nil || len(r.Releases) != 2 || r.Pinned == nil || r.Releases[0].State != "previous" || !r.Releases[0].Warm || r.Releases[1].State != "live" {
		t.Errorf("releases: %+v, %v", r, err)
	}
	if left := loadGoodReleases(k.good.path).pinned("a"); left == nil || left.Release != "one" {
		t.Errorf("on disk the page is pinned: %+v", left)
	}
	if _, err := k.Rollback(t.Context(), "aa", ""); err == nil || !strings.Contains(err.Error(), `no page "aa": there are a (h/a)`) {
		t.Errorf("no such page: %v", err)
	}
}

// A rollback ends also when the page does.
func TestRollbackOfAPageThatGoes(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "serve"))
	k.good.add("a", record{release: testRelease(t, "slow", "mute"), Built: time.Now()}, 10)
	var out control.RolledBack
	var ended error
	p.rollback("slow", &out, func(err error) { ended = err })
	k.routes.cancels["a"]()
	p.until(t, "the rollback to end", func() bool { return ended != nil })
}

// A page that is pinned to a release whose binary is gone serves what its source makes.
func TestPinnedBinaryThatIsGone(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	two := testRelease(t, "two", "serve")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, two)
	if _, err := p.goBack(t, "one"); err != nil {
		t.Fatal(err)
	}
	gone := p.current.release
	gone.Artifact = filepath.Join(k.site.root, "gone")
	gone.Argv = []string{gone.Artifact}
	p.current.release, p.good = gone, gone
	p.current.worker.Kill()
	p.until(t, "a build", func() bool { return p.building != nil })
	p.releaseBuilt(builtAs(two), nil)
	p.until(t, "the release of the source", func() bool { return p.current != nil && p.current.release.ID == "two" })
}

// What a rollback keeps from going live is what was saved before it, however far that has come.
func TestSavesBeforeARollback(t *testing.T) {
	for _, c := range []struct {
		name, to string
		then     func(p *page)
		want     string
	}{
		{"to another", "one", func(p *page) {}, "one"},
		{"to the live one", "two", func(p *page) {}, "two"},
		{"saved during the build", "one", func(p *page) { p.again = true }, "one"},
		{"saved after the rollback", "one", nil, "three"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := coldKernel(t)
			p := testPage(t, k, "a")
			p.serveRelease(t, testRelease(t, "one", "serve"))
			p.serveRelease(t, testRelease(t, "two", "serve"))
			p.building = &build{func() {}}
			if c.then != nil {
				c.then(p)
			}
			if _, err := p.goBack(t, c.to); err != nil {
				t.Fatal(err)
			}
			if c.then == nil {
				p.filesChanged(modified(p.route.Dir+"/main.go"), time.Now())
			}
			three := builtAs(testRelease(t, "three", "serve"))
			if p.again {
				p.releaseBuilt(three, nil) // is built again
				p.building.cancel()
			}
			p.releaseBuilt(three, nil)
			if c.want == "three" != (p.candidate != nil) {
				t.Fatalf("being started is %+v", p.candidate)
			}
			p.until(t, "release "+c.want, func() bool { return p.current.release.ID == c.want && p.candidate == nil })
			if pin := k.good.pinned("a"); (pin == nil) != (c.want == "three") || pin != nil && (pin.Release != c.want || pin.Over != "three") {
				t.Errorf("pinned %+v", pin)
			}
		})
	}
}

// A rollback that fails does not hold back what is built.
func TestBuildDuringARollbackThatFails(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	for _, id := range []string{"one", "two"} {
		p.serveRelease(t, testRelease(t, id, "serve"))
	}
	if _, err := p.goBack(t, "one"); err != nil {
		t.Fatal(err)
	}
	k.good.add("a", record{release: testRelease(t, "bad", "fail"), Built: time.Now()}, 10)
	p.building = &build{func() {}}
	if _, err := p.goBack(t, "bad"); err == nil {
		t.Fatal("a release that does not start: no error")
	}
	p.releaseBuilt(builtAs(testRelease(t, "three", "serve")), nil)
	p.until(t, "release three", func() bool { return p.current.release.ID == "three" })
}
