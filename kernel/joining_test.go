package kernel

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/sdk"
)

// shut has no worker of a gated release start, trap has the next one be never ready.
func (k *Kernel) shut(t *testing.T) { k.leave(t, "shut") }
func (k *Kernel) trap(t *testing.T) { k.leave(t, "trap") }

func (k *Kernel) leave(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(k.site.abs(file), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// unshut undoes shut.
func (k *Kernel) unshut(t *testing.T) {
	t.Helper()
	if err := os.Remove(k.site.abs("shut")); err != nil {
		t.Fatal(err)
	}
}

// patient lets starts take as long as they like.
func patient(c *config.Config) { c.Workers.ReadyTimeout = time.Hour }

// joinsInVain has a worker that is to join others fail until the next try is far away.
func (p *page) joinsInVain(t *testing.T) {
	t.Helper()
	p.until(t, "a start that fails", func() bool { return p.joining != nil && p.joining.tries > 0 })
	p.joining.tries, p.failures = 20, 20
	p.repeat(p.joining, 0)
	p.until(t, "the wait for another try", func() bool { return p.joining.tries > 20 && time.Until(p.joining.begins) > 10*time.Second })
}

// One worker that does not start, and will not for long, keeps no other from being replaced, as often as is needed.
func TestFailingStartHoldsUpNoReplacement(t *testing.T) {
	k := testKernel(t, several(3))
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "gated"))
	set := p.settles(t, "one", 3)
	k.shut(t)
	set[0].worker.Kill()
	p.joinsInVain(t)
	k.unshut(t)
	waits := p.joining
	for i, harm := range []func(inst *instance){
		func(inst *instance) { p.checked(sdk.Health{Target: inst.id, Failures: 3}) },
		p.spent,
	} {
		out := set[i+1]
		harm(out)
		p.until(t, "another worker", func() bool { return !p.serves(out) && p.candidate == nil })
		if len(p.set()) != 2 || p.joining != waits {
			t.Errorf("%d serve, waiting is %+v, before %+v", len(p.set()), p.joining, waits)
		}
		if !strings.Contains(p.trouble(), "exited with status 8") {
			t.Errorf("the status does not say why there are too few: %q", p.trouble())
		}
	}
	p.repeat(p.joining, 0)
	p.settles(t, "one", 3)
	p.portsIn(t, 3)
}

// Starts that fail are not repeated sooner because somebody asks for more of them, and cost no worker that serves.
func TestFailingStartsAreNoStorm(t *testing.T) {
	k := testKernel(t, several(3))
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "gated"))
	set := p.settles(t, "one", 3)
	k.shut(t)
	set[0].worker.Kill()
	p.joinsInVain(t)
	started := p.started
	for range 100 {
		p.checked(sdk.Health{Target: set[1].id, Failures: 3})
		p.spent(set[2])
		p.renew()
	}
	p.until(t, "a start that fails", func() bool { return p.candidate != nil && p.candidate.tries > 0 })
	p.candidate.tries = 20
	p.repeat(p.candidate, 0)
	p.until(t, "the wait for another try", func() bool { return p.candidate.tries > 20 && time.Until(p.candidate.begins) > 10*time.Second })
	for range 100 {
		p.checked(sdk.Health{Target: set[1].id, Failures: 3})
		p.renew()
	}
	if n := p.started - started; n > 4 { // a try, the one that the test makes, and the one for which both wait
		t.Errorf("%d workers were started", n)
	}
	if stay(set, p.set()) != 2 {
		t.Errorf("%d of the workers serve", len(p.set()))
	}
	k.unshut(t)
	p.repeat(p.candidate, 0)
	p.repeat(p.joining, 0)
	p.until(t, "three other workers", func() bool { return len(p.set()) == 3 && stay(set, p.set()) == 0 && len(p.starts()) == 0 })
}

// The number that follows the load does so while a further worker fails to start.
func TestFailingStartHoldsUpNoScaling(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.Default.Instances = config.Instances{Min: 1, Max: 4} })
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "gated"))
	p.rescale(1, 2)
	set := p.settles(t, "one", 2)
	k.shut(t)
	p.rescale(2, 3)
	p.joinsInVain(t)
	p.publish()
	p.idle(t)
	p.until(t, "one worker", func() bool { return len(p.set()) == 1 })
	if stay(set, p.set()) != 1 || len(p.starts()) != 0 || p.wanted() != 1 || p.trouble() != "" {
		t.Errorf("%d wanted, being started %+v, trouble %q", p.wanted(), p.starts(), p.trouble())
	}
	p.portsIn(t, 1)
}

// One that is unwell goes first when there are to be fewer, and with it what was to replace it.
func TestFailingReplacementHoldsUpNoScaling(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.Default.Instances = config.Instances{Min: 1, Max: 4} })
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "gated"))
	p.rescale(1, 2)
	set := p.settles(t, "one", 2)
	k.shut(t)
	p.checked(sdk.Health{Target: set[0].id, Failures: 3})
	p.until(t, "a start that fails", func() bool { return p.candidate.tries > 0 })
	p.publish()
	p.idle(t)
	p.until(t, "one worker", func() bool { return len(p.set()) == 1 })
	if p.current != set[1] || len(p.starts()) != 0 {
		t.Errorf("worker %s serves, being started %+v", p.current.id, p.starts())
	}
	p.portsIn(t, 1)
}

// idle lets the time pass in which a page that has nothing to do is taken a worker.
func (p *page) idle(t *testing.T) {
	t.Helper()
	now := time.Now()
	for end := now.Add(shrinkAfter + time.Second); now.Before(end); now = now.Add(scaleEvery) {
		p.weigh(now)
	}
}

// Of several that are started at the same time each serves as soon as it is ready, and one that never is holds up
// nothing: not what is unwell, nor what ends.
func TestStartThatHangsHoldsUpNothing(t *testing.T) {
	k := testKernel(t, patient)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "gated"))
	k.trap(t)
	k.testReload(t, p, several(3))
	p.until(t, "one of two", func() bool { return len(p.set()) == 2 })
	hangs := p.joining
	if hangs == nil {
		t.Fatal("nothing hangs")
	}
	sick := p.set()[1]
	p.checked(sdk.Health{Target: sick.id, Failures: 3})
	p.until(t, "another worker", func() bool { return !p.serves(sick) && p.candidate == nil })
	if len(p.set()) != 2 || p.joining != hangs {
		t.Errorf("%d serve, joining is %+v", len(p.set()), p.joining)
	}
	p.serveRelease(t, testRelease(t, "two", "serve"))
	p.settles(t, "two", 3)
}

// While a release hangs in its start the last good one is there again as soon as its last worker has ended; the new one
// takes its place if it comes after all.
func TestStartThatHangsHoldsUpNoRestart(t *testing.T) {
	for _, n := range []int{1, 3} {
		k := testKernel(t, patient, several(n), func(c *config.Config) { c.Workers.KeepWarm = 0 })
		p := testPage(t, k, "a")
		p.serveRelease(t, testRelease(t, "one", "serve"))
		for _, inst := range p.settles(t, "one", n) {
			p.releaseBuilt(builtAs(testRelease(t, "two", "mute")), nil)
			inst.worker.Kill()
			p.until(t, "the end", func() bool { return !p.serves(inst) })
		}
		hangs := p.candidate
		p.until(t, "the last good release", func() bool { return p.current != nil && p.current.release.ID == "one" && p.joining == nil })
		if p.candidate != hangs || hangs == nil || p.ask(t, t.Context(), "/") != 200 {
			t.Errorf("being started is %+v, and no answer", p.candidate)
		}
		p.current.worker.Kill() // again
		last := p.current
		p.until(t, "the last good release", func() bool { return p.current != nil && p.current != last })
		p.serveRelease(t, testRelease(t, "three", "serve"))
		p.settles(t, "three", n)
		p.portsIn(t, n)
	}
}

// A restart that hangs does not keep a new release from serving, nor does a new release that fails end the restart.
func TestRestartAndReleaseAtOnce(t *testing.T) {
	k := testKernel(t, patient, func(c *config.Config) { c.Workers.KeepWarm = 0 })
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "gated"))
	k.trap(t)
	p.current.worker.Kill()
	p.until(t, "the end", func() bool { return p.current == nil })
	restarts := p.joining
	p.releaseBuilt(builtAs(testRelease(t, "bad", "fail")), nil)
	p.until(t, "the release to fail", func() bool { return p.candidate == nil })
	if p.joining != restarts || restarts == nil || p.stale == "" || p.state() != "starting" {
		t.Errorf("being started is %+v, state %s, %q", p.starts(), p.state(), p.stale)
	}
	p.serveRelease(t, testRelease(t, "two", "serve"))
	if p.joining != nil {
		t.Error("the old release is still being started")
	}
	if !slices.Equal(p.backend.Endpoints(), []*proxy.Endpoint{p.current.endpoint}) || p.trouble() != "" {
		t.Errorf("trouble %q", p.trouble())
	}
	p.portsIn(t, 1)
}

// A release that fails has the last good one tried at once, however long that was to wait.
func TestFallBackDoesNotWait(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "gated"))
	k.shut(t)
	p.current.worker.Kill()
	p.until(t, "the end", func() bool { return p.current == nil })
	p.joinsInVain(t)
	k.unshut(t)
	p.releaseBuilt(builtAs(testRelease(t, "bad", "fail")), nil)
	p.until(t, "the last good release", func() bool { return p.current != nil && p.current.release.ID == "one" })
}

// The same release again, while the one that has ended waits to be tried again, is one start and not two.
func TestReleaseThatWaitsIsStartedOnce(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.KeepWarm = 0 })
	p := testPage(t, k, "a")
	one := testRelease(t, "one", "gated")
	p.serveRelease(t, one)
	k.shut(t)
	p.current.worker.Kill()
	p.until(t, "the end", func() bool { return p.current == nil })
	p.joinsInVain(t)
	p.releaseBuilt(builtAs(one), nil)
	if len(p.starts()) != 1 || time.Until(p.starts()[0].begins) > 0 {
		t.Errorf("being started are %+v", p.starts())
	}
	p.until(t, "another try", func() bool { return p.candidate != nil && p.candidate.tries > 0 })
	k.unshut(t)
	p.settles(t, "one", 1)
	p.portsIn(t, 1)
}

// Requests wait for a new release that is being started, however often the last good one fails beside it.
func TestFailingRestartEndsNoWait(t *testing.T) {
	k := testKernel(t, patient)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "gated"))
	k.shut(t)
	p.current.worker.Kill()
	p.until(t, "the end", func() bool { return p.current == nil })
	p.releaseBuilt(builtAs(testRelease(t, "two", "mute")), nil)
	hangs := p.candidate
	p.joinsInVain(t)
	if p.candidate != hangs || p.state() != "starting" {
		t.Fatalf("state %s, being started is %+v", p.state(), p.candidate)
	}
	answer := make(chan int, 1)
	go func() { answer <- p.ask(t, t.Context(), "/") }()
	for late := time.Now().Add(15 * time.Second); p.backend.Held() == 0; time.Sleep(time.Millisecond) {
		if len(answer) > 0 || time.Now().After(late) {
			t.Fatal("the request does not wait")
		}
	}
	p.serveRelease(t, testRelease(t, "three", "serve"))
	if code := <-answer; code != 200 {
		t.Errorf("the request got %d", code)
	}
}

// The status says what is still wrong, and nothing else.
func TestStatusOfTwoStarts(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.Default.Instances = config.Instances{Min: 1, Max: 4} })
	p := testPage(t, k, "a")
	one := testRelease(t, "one", "gated")
	p.serveRelease(t, one)
	p.rescale(1, 2)
	sick := p.settles(t, "one", 2)[0]
	k.shut(t)
	p.checked(sdk.Health{Target: sick.id, Failures: 3})
	p.until(t, "a start that fails", func() bool { return p.candidate.tries > 0 })
	p.candidate.tries = 20
	p.repeat(p.candidate, 0)
	p.until(t, "the wait for another try", func() bool { return p.candidate.tries > 20 })
	k.unshut(t)
	p.rescale(2, 3)
	p.until(t, "a further worker", func() bool { return len(p.set()) == 3 })
	for range 2 {
		if !strings.Contains(p.trouble(), "exited with status 8") {
			t.Errorf("the status does not say what fails: %q", p.trouble())
		}
		p.releaseBuilt(builtAs(one), nil) // which serves
	}
	p.rescale(3, 2)
	if p.serves(sick) || len(p.starts()) != 0 || p.trouble() != "" {
		t.Errorf("being started are %+v, trouble %q", p.starts(), p.trouble())
	}
	sick = p.set()[0]
	k.trap(t)
	p.checked(sdk.Health{Target: sick.id, Failures: 3})
	p.scaled = 1
	p.renew()
	if p.serves(sick) || len(p.starts()) != 0 || p.trouble() != "" {
		t.Errorf("being started are %+v, trouble %q", p.starts(), p.trouble())
	}
}
