package kernel

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/sdk"
)

// several has every page have n workers.
func several(n int) func(*config.Config) {
	return func(c *config.Config) { c.Workers.Default.Instances = config.Instances{Min: n, Max: n} }
}

// settles waits until so many workers of a release serve and nothing is being started.
func (p *page) settles(t *testing.T, id string, n int) []*instance {
	t.Helper()
	p.until(t, "workers of release "+id, func() bool {
		return len(p.set()) == n && p.current.release.ID == id && len(p.starts()) == 0
	})
	return p.set()
}

// stay counts the workers that are in both.
func stay(a, b []*instance) (n int) {
	for _, inst := range a {
		if slices.Contains(b, inst) {
			n++
		}
	}
	return n
}

// portsIn waits until so many ports are leased.
func (p *page) portsIn(t *testing.T, n int) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for len(p.k.ports.Leases()) != n && time.Now().Before(deadline) {
		p.post(func() {})
		p.handle()
		time.Sleep(time.Millisecond) // between two looks at what other goroutines close
	}
	if got := len(p.k.ports.Leases()); got != n {
		t.Errorf("%d ports are leased, want %d: %+v", got, n, p.k.ports.Leases())
	}
}

// A release takes the place of another as a whole; there and back the workers are those that were kept.
func TestReleaseOfSeveralWorkers(t *testing.T) {
	k := testKernel(t, several(3), func(c *config.Config) { c.Workers.KeepWarm = time.Hour })
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	first := p.settles(t, "one", 3)
	p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
	p.until(t, "the second release", func() bool { return p.current.release.ID == "two" })
	second := p.set()
	if len(second) != 3 || p.candidate != nil {
		t.Errorf("%d workers are swapped in, not three", len(second))
	}
	p.isWarm(t)
	p.releaseBuilt(builtAs(testRelease(t, "one", "serve")), nil)
	if stay(first, p.set()) != 3 || p.started != 6 || p.candidate != nil {
		t.Errorf("%d of the old workers serve, %d were started", stay(first, p.set()), p.started)
	}
	if p.ask(t, t.Context(), "/") != 200 {
		t.Error("no answer")
	}
	p.isWarm(t)
	p.warm.set[1].worker.Kill()
	p.until(t, "the end of a warm worker", func() bool { return len(p.warm.set) == 2 })
	p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
	if stay(second, p.set()) != 2 {
		t.Errorf("%d of the warm workers serve", stay(second, p.set()))
	}
	p.settles(t, "two", 3)
	p.portsIn(t, 6)
}

// What is wrong with one worker concerns no other.
func TestOneOfSeveral(t *testing.T) {
	for name, harm := range map[string]func(p *page, inst *instance){
		"ends":          func(p *page, inst *instance) { inst.worker.Kill() },
		"unhealthy":     func(p *page, inst *instance) { p.checked(sdk.Health{Target: inst.id, Failures: 3}) },
		"max_requests":  func(p *page, inst *instance) { p.spent(inst) },
		"no connection": func(p *page, inst *instance) { p.unreachable(inst, errors.New("refused")) },
	} {
		for _, which := range []int{0, 2} {
			t.Run(name, func(t *testing.T) {
				p := testPage(t, testKernel(t, several(3)), "a")
				p.serveRelease(t, testRelease(t, "one", "serve"))
				set := p.settles(t, "one", 3)
				out, least := set[which], 3
				harm(p, out)
				p.until(t, "another worker", func() bool {
					least = min(least, len(p.set()))
					return !p.serves(out) && len(p.set()) == 3 && p.candidate == nil
				})
				if stay(set, p.set()) != 2 || p.started != 4 {
					t.Errorf("%d of the others serve, %d were started", stay(set, p.set()), p.started)
				}
				if dead := name == "ends"; least < 2 || !dead && least < 3 || (p.crashes == 1) != dead {
					t.Errorf("%d served at times, %d crashes", least, p.crashes)
				}
				if p.trouble() != "" || p.state() != serving {
					t.Errorf("state %s, trouble %q", p.state(), p.trouble())
				}
				p.portsIn(t, 3)
			})
		}
	}
}

// All of them have had enough at the same time: they go one by one.
func TestSeveralAreRecycledOneByOne(t *testing.T) {
	p := testPage(t, testKernel(t, several(3)), "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	set := p.settles(t, "one", 3)
	for _, inst := range set {
		p.spent(inst)
	}
	least := 3
	p.until(t, "three others", func() bool {
		least = min(least, len(p.set()))
		return stay(set, p.set()) == 0 && p.candidate == nil
	})
	if least < 3 || len(p.set()) != 3 {
		t.Errorf("%d served at times, %d in the end", least, len(p.set()))
	}
}

// When all end at once one is started first, and the others follow.
func TestAllOfSeveralEnd(t *testing.T) {
	p := testPage(t, testKernel(t, several(3)), "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	set := p.settles(t, "one", 3)
	for _, inst := range set {
		inst.worker.Kill()
	}
	p.until(t, "the ends", func() bool { return stay(set, p.set()) == 0 })
	p.settles(t, "one", 3)
	if p.crashes != 3 {
		t.Errorf("%d crashes", p.crashes)
	}
	p.portsIn(t, 3)
}

// A crash of one on probation puts the release before back, with as many workers.
func TestOneOfSeveralCrashesOnProbation(t *testing.T) {
	for name, keep := range map[string]time.Duration{"warm": time.Hour, "cold": 0} {
		t.Run(name, func(t *testing.T) {
			k := testKernel(t, several(3), func(c *config.Config) { c.Workers.KeepWarm = keep })
			p := testPage(t, k, "a")
			p.serveRelease(t, testRelease(t, "one", "serve"))
			p.settles(t, "one", 3)
			p.serveRelease(t, testRelease(t, "two", "serve"))
			p.settles(t, "two", 3)
			p.ask(t, t.Context(), "/crash")
			p.settles(t, "one", 3)
			if k.good.undone("a", "two") == "" || k.good.pinned("a") == nil {
				t.Error("the release is not put back")
			}
		})
	}
}

// The errors of all workers count, also of those that others have replaced in part.
func TestErrorsOfSeveralOnProbation(t *testing.T) {
	p := testPage(t, testKernel(t, several(3)), "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.settles(t, "one", 3)
	p.serveRelease(t, testRelease(t, "two", "broken"))
	p.settles(t, "two", 3)
	for range fewRequests {
		p.ask(t, t.Context(), "/")
	}
	p.until(t, "the first release", func() bool { return p.current.release.ID == "one" })
	if !strings.Contains(p.trouble(), "20 of its first 20 requests failed (5xx)") {
		t.Errorf("trouble %q", p.trouble())
	}
}

// A release of which not all start is discarded, and leaves nothing.
func TestReleaseThatStartsInPart(t *testing.T) {
	p := testPage(t, testKernel(t, several(3)), "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	set := p.settles(t, "one", 3)
	p.releaseBuilt(builtAs(testRelease(t, "two", "lone")), nil)
	p.until(t, "the failure", func() bool { return p.candidate == nil })
	if stay(set, p.set()) != 3 || !strings.Contains(p.stale, "release two does not start") || !strings.Contains(p.stale, "exited with status 7") {
		t.Errorf("%d of the old workers serve, status %q", stay(set, p.set()), p.stale)
	}
	p.portsIn(t, 3)
}

// Where nothing serves yet the first worker does, and a page that bears no second one says so.
func TestFurtherWorkerDoesNotStart(t *testing.T) {
	k := testKernel(t, several(2))
	p := testPage(t, k, "a")
	p.releaseBuilt(builtAs(testRelease(t, "one", "lone")), nil)
	p.until(t, "the failure", func() bool { return p.problem != "" })
	if len(p.set()) != 1 || p.state() != serving || p.stale != "" {
		t.Fatalf("%d serve, state %s, %q", len(p.set()), p.state(), p.stale)
	}
	p.until(t, "another try", func() bool { return p.joining != nil && p.joining.tries > 1 })
	k.testReload(t, p, several(1))
	if len(p.starts()) > 0 || p.wanted() != 1 {
		t.Errorf("a worker is started that nobody wants: %+v", p.starts())
	}
}

// Ports for some of the workers are enough for a swap: the old ones give theirs to the others.
func TestSeveralWorkersAndFewPorts(t *testing.T) {
	k := testKernel(t, several(3), func(c *config.Config) {
		c.Workers.PortRangeEnd = c.Workers.PortRangeStart + 3
		c.Workers.KeepWarm = 0
	})
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.settles(t, "one", 3)
	p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
	p.until(t, "the second release", func() bool { return p.current.release.ID == "two" })
	if n := len(p.set()); n != 1 {
		t.Errorf("%d workers at first, and there was one port", n)
	}
	p.settles(t, "two", 3)
	if p.trouble() != "" {
		t.Errorf("trouble %q", p.trouble())
	}
	k.testReload(t, p, several(9))
	p.until(t, "all ports to be in use", func() bool { return len(p.set()) == 4 && p.short })
	if p.trouble() != "" || p.state() != serving || p.candidate != nil {
		t.Errorf("state %s, trouble %q", p.state(), p.trouble())
	}
	p.portsIn(t, 4)
}

// A reload changes how many there are, and what a worker is given, and replaces none.
func TestReloadOfSeveral(t *testing.T) {
	k := testKernel(t, several(3))
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	set := p.settles(t, "one", 3)
	k.testReload(t, p, several(1))
	if len(p.set()) != 1 || stay(set, p.set()) != 1 {
		t.Fatalf("%d serve", len(p.set()))
	}
	k.testReload(t, p, several(2))
	two := p.settles(t, "one", 2)
	k.testReload(t, p, func(c *config.Config) {
		w := &c.Workers.Default
		w.MaxInFlight, w.QueueRequests, w.QueueTimeout, w.SlowStart = 1, 2, time.Second, time.Minute
	})
	if stay(set, two) != 1 || stay(two, p.set()) != 2 || p.candidate != nil {
		t.Errorf("workers were replaced: %+v, then %+v", two, p.set())
	}
	k.testReload(t, p, func(c *config.Config) { c.Workers.Default.GoMaxProcs = 7 })
	p.until(t, "the new settings", func() bool { return p.current.settings.GoMaxProcs == 7 })
	if len(p.set()) != 2 || stay(two, p.set()) != 0 {
		t.Errorf("%d serve with the new settings", len(p.set()))
	}
	for _, inst := range p.set() {
		if !inst.fits(p) {
			t.Errorf("worker %s has the old settings", inst.id)
		}
	}
}

// A developer has one worker.
func TestOneWorkerInDevMode(t *testing.T) {
	k := testKernel(t, several(3))
	k.opts.Dev = true
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	if len(p.set()) != 1 || p.candidate != nil || p.wanted() != 1 {
		t.Errorf("%d workers, %d are wanted", len(p.set()), p.wanted())
	}
}

// Who restarts a worker that has ended has its port: there need not be another one.
func TestRestartInTheSamePort(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.PortRangeEnd = c.Workers.PortRangeStart })
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	for range 20 {
		old := p.current
		p.failures = 0 // else it waits before the start
		old.worker.Kill()
		p.until(t, "another worker", func() bool {
			if strings.Contains(p.trouble(), "range is used up") {
				t.Fatalf("trouble %q", p.trouble())
			}
			return p.current != nil && p.current != old
		})
	}
}

// A save does not cost a page the workers that its load has brought: they follow when the old ones have given their ports.
func TestScaledWorkersAndFewPorts(t *testing.T) {
	k := testKernel(t, func(c *config.Config) {
		c.Workers.Default.Instances = config.Instances{Min: 1, Max: 3}
		c.Workers.PortRangeEnd = c.Workers.PortRangeStart + 3
		c.Workers.KeepWarm = 0
	})
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	p.rescale(1, 3)
	p.settles(t, "one", 3)
	p.releaseBuilt(builtAs(testRelease(t, "two", "serve")), nil)
	p.settles(t, "two", 3)
	for {
		if _, err := k.ports.Lease("other"); err != nil {
			break
		}
	}
	k.testReload(t, p, func(c *config.Config) { c.Workers.Default.Instances.Max = 5 })
	p.rescale(3, 5)
	p.until(t, "it to be known that there is no port", func() bool { return p.short })
	if len(p.set()) != 3 || p.wanted() != 3 {
		t.Errorf("%d serve, %d are wanted", len(p.set()), p.wanted())
	}
}
