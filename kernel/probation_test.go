package kernel

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
)

func TestWhenAReleaseFailsTooOften(t *testing.T) {
	for _, c := range []struct {
		share    float64
		requests int64
		before   float64
		want     bool
	}{
		{1, 19, 0, false}, // too few to tell
		{1, 20, 0, true},
		{0.5, 1000, 0, true},
		{0.49, 1000, 0, false}, // a corner of the page
		{0.5, 1000, 0.1, true},
		{0.5, 1000, 0.11, false}, // it was not much better before
		{1, 1000, 0.2, true},
		{1, 1000, 0.3, false},
		{0, 0, 0, false},
	} {
		if got := failsTooOften(c.share, c.requests, c.before); got != c.want {
			t.Errorf("%v of %d, %v before: %v", c.share, c.requests, c.before, got)
		}
	}
}

// A crash on probation brings the release before it back, from its warm worker or by a start, and the same source does
// not go live again; another does.
func TestCrashOnProbation(t *testing.T) {
	for name, keep := range map[string]time.Duration{"warm": time.Hour, "cold": 0} {
		t.Run(name, func(t *testing.T) {
			k := testKernel(t, func(c *config.Config) { c.Workers.KeepWarm = keep })
			p := testPage(t, k, "a")
			p.serveRelease(t, testRelease(t, "one", "serve"))
			p.serveRelease(t, testRelease(t, "two", "serve"))
			if p.probation == nil || p.view.Load().page.Probation.IsZero() && keep == 0 {
				t.Fatal("a new release is not on probation")
			}
			crashed := p.current
			p.ask(t, t.Context(), "/crash")
			p.until(t, "the first release", func() bool { return p.current != nil && p.current.release.ID == "one" && p.candidate == nil })
			if p.probation != nil || !strings.Contains(p.trouble(), "release two was rolled back: worker "+crashed.id) || !strings.Contains(p.trouble(), "lost my marbles") {
				t.Errorf("on probation %+v, trouble %q", p.probation, p.trouble())
			}
			if pin := k.good.pinned("a"); pin == nil || pin.Release != "one" || pin.Over != "two" || !strings.Contains(pin.Reason, "lost my marbles") {
				t.Errorf("pinned: %+v", pin)
			}
			p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
			if p.current.release.ID != "one" || p.candidate != nil {
				t.Error("what was rolled back is deployed again")
			}
			p.serveRelease(t, testRelease(t, "three", "serve"))
			if k.good.pinned("a") != nil || p.trouble() != "" {
				t.Errorf("with another release the page is pinned, trouble %q", p.trouble())
			}
			p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
			if p.current.release.ID != "three" || p.candidate != nil || !strings.Contains(p.trouble(), "release two was rolled back") {
				t.Errorf("what was rolled back is deployed again, trouble %q", p.trouble())
			}
			if err := k.good.save(); err != nil || loadGoodReleases(k.good.path).undone("a", "two") == "" {
				t.Errorf("it is not remembered: %v", err)
			}
		})
	}
}

// Without a release before it, after its probation, or without one, a release that crashes is started again.
func TestCrashWithoutProbation(t *testing.T) {
	for name, change := range map[string]func(*config.Config){
		"switched off": func(c *config.Config) { c.Workers.Probation = 0 },
		"passed":       func(c *config.Config) { c.Workers.Probation = time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			p := testPage(t, testKernel(t, change), "a")
			p.serveRelease(t, testRelease(t, "one", "serve"))
			if p.probation != nil {
				t.Error("the first release is on probation")
			}
			p.serveRelease(t, testRelease(t, "two", "serve"))
			p.until(t, "the probation to pass", func() bool { return p.probation == nil })
			inst := p.current
			p.ask(t, t.Context(), "/crash")
			p.until(t, "another worker", func() bool { return p.current != nil && p.current != inst })
			if p.current.release.ID != "two" {
				t.Errorf("serving is %s", p.current.release.ID)
			}
		})
	}
}

func TestErrorsOnProbation(t *testing.T) {
	for _, dev := range []bool{false, true} {
		k := testKernel(t)
		k.opts.Dev = dev
		p := testPage(t, k, "a")
		p.serveRelease(t, testRelease(t, "one", "serve"))
		p.serveRelease(t, testRelease(t, "two", "broken"))
		pr := p.probation
		for range fewRequests {
			if code := p.ask(t, t.Context(), "/"); code != 500 {
				t.Fatalf("the broken release answers %d", code)
			}
		}
		if dev {
			ctx, cancel := context.WithTimeout(t.Context(), 3*judgeEvery)
			if text := pr.watch(ctx, true); text != "" || p.current.release.ID != "two" {
				t.Errorf("a developer does not see his page's errors: %q", text)
			}
			cancel()
			continue
		}
		p.until(t, "the first release", func() bool { return p.current.release.ID == "one" })
		if !strings.Contains(p.trouble(), "20 of its first 20 requests failed (5xx), 0% of those of release one before") || p.crashes != 0 {
			t.Errorf("trouble %q", p.trouble())
		}
		if code := p.ask(t, t.Context(), "/"); code != 200 {
			t.Errorf("the first release answers %d", code)
		}
	}
}

// A release that comes back within its own probation is on probation for what is left of it.
func TestProbationGoesOn(t *testing.T) {
	p := testPage(t, testKernel(t), "a")
	for _, id := range []string{"one", "two", "three"} {
		p.serveRelease(t, testRelease(t, id, "serve"))
	}
	for _, want := range []string{"two", "one"} {
		p.ask(t, t.Context(), "/crash")
		p.until(t, "release "+want, func() bool { return p.current != nil && p.current.release.ID == want })
	}
	if p.probation != nil {
		t.Errorf("the first release is on probation: %+v", p.probation)
	}
}

// When the release before does not start either, the one that crashed is started again, as without it.
func TestNothingToGoBackTo(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.KeepWarm = 0 })
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "serve"))
	p.probation.previous = testRelease(t, "one", "fail")
	inst := p.current
	p.ask(t, t.Context(), "/crash")
	p.until(t, "release two again", func() bool { return p.current != nil && p.current != inst && p.candidate == nil })
	if p.current.release.ID != "two" || k.good.undone("a", "two") != "" || k.good.pinned("a") != nil {
		t.Errorf("serving is %s, pinned %+v", p.current.release.ID, k.good.pinned("a"))
	}

	p.serveRelease(t, testRelease(t, "three", "serve"))
	p.probation.previous.Artifact = filepath.Join(k.site.root, "gone")
	inst = p.current
	p.ask(t, t.Context(), "/crash")
	p.until(t, "release three again", func() bool { return p.current != nil && p.current != inst && p.candidate == nil })
	if p.current.release.ID != "three" {
		t.Errorf("serving is %s", p.current.release.ID)
	}
}

// A newer release that is being started goes live, whatever happens to the one that it replaces.
func TestNewerReleaseComesFirst(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.KeepWarm = 0 })
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "serve"))
	p.releaseBuilt(builtAs(testRelease(t, "three", "serve")), nil)
	crashed := p.current
	crashed.worker.Kill()
	p.exited(crashed)
	if p.candidate == nil || p.candidate.release.ID != "three" {
		t.Fatalf("being started is %+v", p.candidate)
	}
	p.until(t, "the newest release", func() bool { // the one before the failed one may serve for a moment
		return p.current != nil && p.current.release.ID != "one" && len(p.starts()) == 0
	})
	if p.current.release.ID != "three" || k.good.undone("a", "two") == "" || p.probation == nil || p.probation.previous.ID != "one" {
		t.Errorf("serving is %s, probation %+v", p.current.release.ID, p.probation)
	}
}

// What was being started of the release that failed does not take the place of the one that came back.
func TestNothingOfWhatFailedIsStarted(t *testing.T) {
	for name, keep := range map[string]time.Duration{"warm": time.Hour, "cold": 0} {
		t.Run(name, func(t *testing.T) {
			k := testKernel(t, func(c *config.Config) { c.Workers.KeepWarm = keep })
			p := testPage(t, k, "a")
			p.serveRelease(t, testRelease(t, "one", "serve"))
			p.serveRelease(t, testRelease(t, "two", "serve"))
			p.spent(p.current) // another worker of it is being started
			crashed := p.current
			crashed.worker.Kill()
			p.exited(crashed)
			p.until(t, "the first release", func() bool { return p.current != nil && p.candidate == nil && len(k.ports.Leases()) == 1 })
			if pin := k.good.pinned("a"); p.current.release.ID != "one" || pin == nil || k.good.undone("a", "two") == "" {
				t.Errorf("serving is %s, pinned %+v", p.current.release.ID, pin)
			}
		})
	}
}

// A rollback that is under way is not undone by what the server would do.
func TestRollbackComesBeforeProbation(t *testing.T) {
	k := coldKernel(t)
	p := testPage(t, k, "a")
	for _, id := range []string{"one", "two", "three"} {
		p.serveRelease(t, testRelease(t, id, "serve"))
	}
	var out control.RolledBack
	ended := errors.New("not yet")
	p.rollback("one", &out, func(err error) { ended = err })
	crashed := p.current
	crashed.worker.Kill()
	p.exited(crashed)
	p.until(t, "the rollback to end", func() bool { return ended == nil })
	if pin := k.good.pinned("a"); p.current.release.ID != "one" || pin == nil || pin.Reason != "" || k.good.undone("a", "three") == "" {
		t.Errorf("serving is %s, pinned %+v", p.current.release.ID, pin)
	}
}

// A worker that ends with the server, because whoever ends it ends all of its processes, says nothing of its release.
func TestStopIsNoFailure(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "serve"))
	k.stop()
	crashed := p.current
	crashed.worker.Kill()
	p.exited(crashed)
	if why, pin := k.good.undone("a", "two"), k.good.pinned("a"); why != "" || pin != nil || k.good.get("a").ID != "two" {
		t.Errorf("undone because of %q, pinned %+v, the good release is %s", why, pin, k.good.get("a").ID)
	}
}

// What a warm worker has answered before it came back says nothing of how it does now.
func TestProbationCountsFromTheSwap(t *testing.T) {
	p := testPage(t, testKernel(t), "a")
	one := testRelease(t, "one", "broken")
	p.serveRelease(t, one)
	ask := func() {
		for range fewRequests {
			if code := p.ask(t, t.Context(), "/"); code != 500 {
				t.Fatalf("the broken release answers %d", code)
			}
		}
	}
	ask()
	p.serveRelease(t, testRelease(t, "two", "serve"))
	p.isWarm(t)
	p.serveRelease(t, one)
	ctx, cancel := context.WithTimeout(t.Context(), 3*judgeEvery)
	defer cancel()
	if text := p.probation.watch(ctx, false); text != "" {
		t.Errorf("without a request it has failed: %s", text)
	}
	ask()
	p.until(t, "the other release", func() bool { return p.current.release.ID == "two" })
}

// Workers that are recycled during the probation take nothing of what they have failed with them.
func TestErrorsOfRecycledWorkersCount(t *testing.T) {
	p := testPage(t, testKernel(t), "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.serveRelease(t, testRelease(t, "two", "broken"))
	for range 2 {
		out := p.current
		for range fewRequests / 2 {
			p.ask(t, t.Context(), "/")
		}
		p.spent(out)
		p.until(t, "another worker", func() bool { return p.current != out })
	}
	p.until(t, "the first release", func() bool { return p.current.release.ID == "one" })
}
