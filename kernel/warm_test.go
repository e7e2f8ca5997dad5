package kernel

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/proxy"
)

// ask sends a request to a page and gives the status of the answer.
func (p *page) ask(t *testing.T, ctx context.Context, path string) int {
	t.Helper()
	front := proxy.New(proxy.Options{})
	if err := front.SetRoutes([]proxy.Route{{Path: "/", Backend: p.backend}}); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	func() {
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				panic(v)
			}
		}()
		front.ServeHTTP(rec, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	}()
	return rec.Code
}

// isWarm waits until the worker that is kept warm has no requests.
func (p *page) isWarm(t *testing.T) {
	t.Helper()
	p.until(t, "the old worker to be warm", func() bool {
		return p.warm != nil && !slices.ContainsFunc(p.warm.set, func(inst *instance) bool { return inst.status().State != warm })
	})
}

// Going back and forth between two releases starts nothing.
func TestWarmWorkerComesBack(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	one, two := testRelease(t, "one", "serve"), testRelease(t, "two", "serve")
	p.serveRelease(t, one)
	first := p.current
	p.serveRelease(t, two)
	second := p.current
	p.isWarm(t)
	p.releaseBuilt(builtAs(one), nil)
	if p.current != first || p.candidate != nil || first.state.Load() != nil || p.warm.set[0] != second {
		t.Fatalf("serving is %s, warm %+v, starting %+v", p.current.id, p.warm, p.candidate)
	}
	p.releaseBuilt(builtAs(two), nil) // while the other still drains
	if p.current != second || p.ask(t, t.Context(), "/") != 200 {
		t.Errorf("serving is %s", p.current.id)
	}
	if p.started != 2 {
		t.Errorf("%d workers were started", p.started)
	}
	p.serveRelease(t, testRelease(t, "three", "serve")) // one is kept at most
	p.until(t, "the oldest worker to end", func() bool { return len(p.leaving) == 0 })
	if p.warm.set[0] != second || len(k.ports.Leases()) != 2 {
		t.Errorf("warm is %s, %d ports are leased", p.warm.set[0].id, len(k.ports.Leases()))
	}
}

// What ends the wait of a warm worker gives its port back, and nothing is left.
func TestWarmWorkerIsLetGo(t *testing.T) {
	for _, c := range []struct {
		name string
		keep time.Duration
		do   func(t *testing.T, k *Kernel, p *page)
	}{
		{"its time is over", 20 * time.Millisecond, func(*testing.T, *Kernel, *page) {}},
		{"it dies", time.Hour, func(t *testing.T, k *Kernel, p *page) { p.isWarm(t); p.warm.set[0].worker.Kill() }},
		{"its settings change", time.Hour, func(t *testing.T, k *Kernel, p *page) {
			k.testReload(t, p, func(c *config.Config) { c.Workers.Default.GoMaxProcs = 7 })
			p.until(t, "the new settings", func() bool { return p.current.settings.GoMaxProcs == 7 })
		}},
		{"it is switched off", time.Hour, func(t *testing.T, k *Kernel, p *page) {
			k.testReload(t, p, func(c *config.Config) { c.Workers.KeepWarm = 0 })
		}},
		{"the server stops", time.Hour, func(t *testing.T, k *Kernel, p *page) { p.endStreams() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := testKernel(t, func(cfg *config.Config) { cfg.Workers.KeepWarm = c.keep })
			p := testPage(t, k, "a")
			p.serveRelease(t, testRelease(t, "one", "serve"))
			p.serveRelease(t, testRelease(t, "two", "serve"))
			c.do(t, k, p)
			p.until(t, "the port to be free", func() bool { return p.warm == nil && len(p.leaving) == 0 })
			deadline := time.Now().Add(10 * time.Second)
			for len(k.ports.Leases()) != 1 && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond) // between two looks: a worker that has died is closed on a goroutine of its own
			}
			if n := len(k.ports.Leases()); n != 1 || p.current == nil || p.current.release.ID != "two" {
				t.Errorf("%d ports are leased, serving is %+v", n, p.current)
			}
		})
	}
}

// A stream does not end before its worker is told that it gets no further requests, and then the worker is of no use.
func TestWorkerWithAStreamIsNotKept(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	old := p.current
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() { ended <- p.ask(t, ctx, "/slow") }()
	p.until(t, "the stream", func() bool {
		if old.endpoint.InFlight() == 0 {
			p.mail.put(func() {}) // look again
		}
		return old.endpoint.InFlight() == 1
	})
	p.serveRelease(t, testRelease(t, "two", "serve"))
	p.until(t, "the old worker to be let go", func() bool { return p.leaving[old] })
	if p.warm != nil {
		t.Error("it is kept warm as well")
	}
	leave()
	<-ended
	p.until(t, "the old worker to end", func() bool { return len(p.leaving) == 0 })
}

// Only what one may want to go back to is kept: another worker of the same release is not.
func TestReplacedWorkersAreNotKept(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(p *page, inst *instance)
	}{
		{"max_requests", func(p *page, inst *instance) { p.spent(inst) }},
		{"unhealthy", func(p *page, inst *instance) { inst.healthy.Store(ptr(false)); p.renew() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testPage(t, testKernel(t), "a")
			p.serveRelease(t, testRelease(t, "one", "serve"))
			inst := p.current
			c.do(p, inst)
			p.until(t, "another worker", func() bool { return p.current != inst })
			if p.warm != nil || p.probation != nil {
				t.Errorf("warm is %+v, on probation %+v", p.warm, p.probation)
			}
			inst = p.current
			c.do(p, inst)
			p.serveRelease(t, testRelease(t, "two", "serve")) // also when a release replaces it
			if p.warm != nil && p.warm.set[0] == inst {
				t.Error("a worker that was to be replaced is kept warm")
			}
		})
	}
}

// When ports run short, the worker that has been warm for the longest time gives its own back.
func TestWarmWorkerGivesItsPortBack(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.KeepWarm = time.Hour })
	warmed, starting := testPage(t, k, "a"), testPage(t, k, "b")
	warmed.serveRelease(t, testRelease(t, "one", "serve"))
	warmed.serveRelease(t, testRelease(t, "two", "serve"))
	warmed.isWarm(t)
	warmed.publish()
	for {
		if _, err := k.ports.Lease("other"); err != nil {
			break
		}
	}
	starting.releaseBuilt(builtAs(testRelease(t, "other", "serve")), nil)
	warmed.until(t, "the warm worker to be let go", func() bool { return warmed.warm == nil && len(warmed.leaving) == 0 })
	starting.until(t, "the other page to serve", func() bool { return starting.current != nil })
	if warmed.current == nil || warmed.current.release.ID != "two" {
		t.Errorf("serving is %+v", warmed.current)
	}
}
