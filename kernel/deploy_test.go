package kernel

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/sdk"
)

// testReload puts a changed configuration in force.
func (k *Kernel) testReload(t *testing.T, p *page, change func(*config.Config)) {
	t.Helper()
	next := *k.config()
	change(&next)
	k.cfg.Store(&next)
	p.reconfigured()
}

// What a worker in service needs while a release is being started is done when that release is discarded.
func TestDiscardedReleaseHoldsUpNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		need func(t *testing.T, k *Kernel, p *page, inst *instance)
	}{
		{"max_requests", func(t *testing.T, k *Kernel, p *page, inst *instance) { p.spent(inst) }},
		{"unhealthy", func(t *testing.T, k *Kernel, p *page, inst *instance) {
			p.checked(sdk.Health{Target: inst.id, Reason: "sick", Failures: 3})
		}},
		{"configuration", func(t *testing.T, k *Kernel, p *page, inst *instance) {
			k.testReload(t, p, func(c *config.Config) { c.Workers.Default.GoMaxProcs = 7 })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := testKernel(t)
			p := testPage(t, k, "a")
			p.serveRelease(t, testRelease(t, "good", "serve"))
			inst := p.current
			p.releaseBuilt(builtAs(testRelease(t, "bad", "fail")), nil)
			if p.candidate == nil {
				t.Fatal("the release is not started")
			}
			c.need(t, k, p, inst)
			p.until(t, "another worker of the old release", func() bool { return p.current != inst && p.current != nil })
			if p.current.release.ID != "good" || !p.current.fits(p) {
				t.Errorf("serves %s, fits: %v", p.current.release.ID, p.current.fits(p))
			}
			if !strings.Contains(p.trouble(), "release bad does not start") {
				t.Errorf("the status forgets that the newest source is not live: %q", p.trouble())
			}
		})
	}
}

// A worker that ends during the extra wait before it gets requests has not started.
func TestWorkerThatEndsDuringTheStartupDelay(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "good", "serve"))
	inst := p.current
	k.testReload(t, p, func(c *config.Config) { c.Workers.StartupDelay = 2 * time.Second })
	p.releaseBuilt(builtAs(testRelease(t, "brief", "brief")), nil)
	p.until(t, "the start to end", func() bool { return p.candidate == nil })
	if p.current != inst || !strings.Contains(p.stale, "exited with status 5") {
		t.Errorf("the old worker serves: %v, status %q", p.current == inst, p.stale)
	}
	if n := len(k.ports.Leases()); n != 1 {
		t.Errorf("%d ports are leased", n)
	}
}

// The status says why the newest source is not live until it is, whatever else happens.
func TestStaleUntilTheNewestIsLive(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	if p.built.live == 0 {
		t.Error("the time from change to live is missing")
	}
	broken := &buildReport{at: time.Now(), diagnostics: []sdk.Diagnostic{{Message: "undefined: x"}}}
	p.releaseBuilt(broken, nil)
	inst := p.current
	p.spent(inst)
	p.until(t, "the recycled worker", func() bool { return p.current != inst })
	if !strings.Contains(p.trouble(), "undefined: x") {
		t.Errorf("after max_requests the status says %q", p.trouble())
	}
	p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
	p.releaseBuilt(broken, nil) // saved again while it starts
	p.until(t, "release two", func() bool { return p.current.release.ID == "two" })
	if !strings.Contains(p.trouble(), "undefined: x") || broken.live != 0 {
		t.Errorf("after an older release went live the status says %q, live %v", p.trouble(), broken.live)
	}
	p.serveRelease(t, testRelease(t, "three", "serve"))
	if p.trouble() != "" {
		t.Errorf("the newest is live, and the status says %q", p.trouble())
	}
}

// The time from change to live begins with the change, not with an earlier one that failed.
func TestLiveIsCountedFromTheChange(t *testing.T) {
	k := testKernel(t)
	k.good.set("a", testRelease(t, "good", "serve"))
	p := testPage(t, k, "a")
	p.changedAt = time.Now().Add(-time.Hour)
	p.releaseBuilt(builtAs(testRelease(t, "bad", "fail")), nil)
	p.until(t, "the last good release", func() bool { return p.current != nil })
	p.changed(time.Now())
	p.until(t, "the build to end", func() bool { return p.building == nil })
	p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
	p.until(t, "release two", func() bool { return p.current.release.ID == "two" })
	if d := p.built.live; d <= 0 || d > time.Minute {
		t.Errorf("live %v after the change", d)
	}
}

// A binary that somebody has removed is built again.
func TestBinaryThatIsGone(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	gone := p.current.release
	gone.Artifact = filepath.Join(k.site.root, "gone")
	gone.Argv = []string{gone.Artifact}
	p.current.release, p.good = gone, gone
	p.current.worker.Kill()
	p.until(t, "a build", func() bool { return p.building != nil })
}

// A port that comes free between a start that finds none and the wait for one ends the wait.
func TestPortThatComesFreeAtTheWrongMoment(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	var taken []interface{ Release() }
	for {
		l, err := k.ports.Lease("other")
		if err != nil {
			break
		}
		taken = append(taken, l)
	}
	p.releaseBuilt(builtAs(testRelease(t, "one", "serve")), nil)
	p.work.Wait() // the start has found no port, and its end is in the mail
	for _, l := range taken {
		l.Release()
	}
	start := time.Now()
	p.until(t, "the release", func() bool { return p.current != nil })
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("the page waited %v for ports that were free", d)
	}
}

// Whatever a page was doing when it ends, no worker, lease or goroutine is left.
func TestTakeDownLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, p *page)
	}{
		{"serving", func(t *testing.T, p *page) { p.serveRelease(t, testRelease(t, "one", "serve")) }},
		{"starting", func(t *testing.T, p *page) { p.releaseBuilt(builtAs(testRelease(t, "one", "mute")), nil) }},
		{"swapping", func(t *testing.T, p *page) {
			p.serveRelease(t, testRelease(t, "one", "serve"))
			p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
		}},
		{"superseded", func(t *testing.T, p *page) {
			for _, id := range []string{"one", "two", "three"} {
				p.releaseBuilt(builtAs(testRelease(t, id, "serve")), nil)
			}
		}},
		{"built at the same moment", func(t *testing.T, p *page) {
			p.post(func() { p.releaseBuilt(builtAs(testRelease(t, "one", "serve")), nil) })
			p.post(func() { p.changed(time.Now()) })
		}},
		{"backoff", func(t *testing.T, p *page) {
			p.failures = 10
			p.start(testRelease(t, "one", "serve"), restart, time.Hour)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := testKernel(t)
			ctx, cancel := context.WithCancel(t.Context())
			dir := k.site.abs("a")
			p := newPage(ctx, k, sdk.Route{Page: "a", Path: "/a", Dir: dir, Source: dir})
			c.do(t, p)
			cancel()
			p.takeDown()
			if leases := k.ports.Leases(); len(leases) != 0 {
				t.Errorf("leased are %+v", leases)
			}
			if p.post(func() {}) {
				t.Error("the page takes mail after its end")
			}
		})
	}
}

func TestBuilderThatIsNotThere(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.changed(time.Now())
	p.until(t, "the build to end", func() bool { return p.building == nil })
	if !strings.Contains(p.stale, "no builder matches") || p.state() != "failed" {
		t.Errorf("state %s: %q", p.state(), p.stale)
	}
	p.releaseBuilt(nil, errors.New("the builder fails: out of luck"))
	if !strings.Contains(p.stale, "out of luck") {
		t.Errorf("status %q", p.stale)
	}
}
