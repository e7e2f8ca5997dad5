package kernel

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tqserver/tqserver/kernel/port"
	"github.com/tqserver/tqserver/sdk"
)

func TestReservedPortIsUsed(t *testing.T) {
	start, end := freePorts(t)
	p := newPorts(start, end)
	p.Reserve("a")
	p.Reserve("a")
	reserved := p.Leases()
	if len(reserved) != 1 {
		t.Fatalf("%d ports are reserved", len(reserved))
	}
	b, err := p.Lease("b")
	if err != nil || b.Port() == reserved[0].Port {
		t.Errorf("another page got %v, %v", b, err)
	}
	a, err := p.Lease("a")
	if err != nil || a.Port() != reserved[0].Port {
		t.Errorf("the page got %v, %v, want port %d", a, err, reserved[0].Port)
	}
	p.Unreserve("a") // is leased now
	a.Release()
	b.Release()
	p.Reserve("a")
	p.Unreserve("a")
	if n := len(p.Leases()); n != 0 {
		t.Errorf("%d ports are leased", n)
	}
}

// What is only reserved goes to who needs it, when the range is used up.
func TestReservedPortsGoFirst(t *testing.T) {
	start, end := freePorts(t)
	p := newPorts(start, end)
	p.Reserve("a")
	p.Reserve("b")
	var leases []*port.Lease
	for {
		l, err := p.Lease("c")
		if err != nil {
			if !errors.Is(err, port.ErrExhausted) {
				t.Error(err)
			}
			break
		}
		leases = append(leases, l)
	}
	all := p.Leases()
	if len(all) != len(leases) || len(p.reserved) != 0 {
		t.Errorf("%d of %d ports went to the page, %d are reserved", len(leases), len(all), len(p.reserved))
	}
	p.Reserve("a") // there is none: that is no error
	if _, err := p.Lease("a"); !errors.Is(err, port.ErrExhausted) {
		t.Errorf("lease: %v", err)
	}
	p.Resize(start, end)
}

// A port that was looked at long ago is looked at again; a new range takes what was reserved of the old one.
func TestReservationsAge(t *testing.T) {
	start, end := freePorts(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPorts(start, end)
		p.Reserve("a")
		first := p.Leases()[0].Port
		time.Sleep(reserveAge)
		l, err := p.Lease("a")
		if err != nil || l.Port() == first || len(p.Leases()) != 1 {
			t.Errorf("leased %v, %v, after %d was reserved; all: %+v", l, err, first, p.Leases())
		}
		l.Release()
		p.Reserve("a")
		p.Resize(start+1, end)
		if n := len(p.Leases()); n != 0 {
			t.Errorf("%d ports are leased after a change of the range", n)
		}
	})
}

// A build reserves a port, whatever comes of it.
func TestBuildReservesAPort(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, p *page){
		"good": func(t *testing.T, p *page) { p.serveRelease(t, testRelease(t, "one", "serve")) },
		"bad":  func(t *testing.T, p *page) { p.releaseBuilt(&buildReport{at: time.Now()}, nil) },
		"same": func(t *testing.T, p *page) {
			p.serveRelease(t, testRelease(t, "one", "serve"))
			p.building = &build{cancel: func() {}}
			p.k.ports.Reserve(p.name)
			p.releaseBuilt(builtAs(testRelease(t, "one", "serve")), nil)
		},
		"does not start": func(t *testing.T, p *page) {
			p.serveRelease(t, testRelease(t, "one", "serve"))
			p.k.ports.Reserve(p.name)
			p.releaseBuilt(builtAs(testRelease(t, "two", "fail")), nil)
			p.until(t, "the failure", func() bool { return p.candidate == nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := testKernel(t)
			p := testPage(t, k, "a")
			p.building = &build{cancel: func() {}}
			k.ports.Reserve(p.name)
			p.post(func() {})
			p.handle()
			if len(k.ports.reserved) != 1 {
				t.Fatal("the reservation does not last as long as the build")
			}
			end(t, p)
			p.post(func() {})
			p.handle()
			want := 0
			if p.current != nil {
				want = 1
			}
			if n := len(k.ports.Leases()); n != want || len(k.ports.reserved) != 0 {
				t.Errorf("%d ports are leased, %d of them reserved; want %d", n, len(k.ports.reserved), want)
			}
		})
	}
}

// What is built again keeps what was prepared for the build that it takes the place of.
func TestSupersededBuildLeavesItsPort(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.changed(time.Now())
	before := k.ports.Leases()
	p.changed(time.Now())
	if !p.again {
		t.Fatal("the change did not cancel the build")
	}
	p.until(t, "the second build", func() bool { return !p.again })
	if after := k.ports.Leases(); len(before) != 1 || len(after) != 1 || before[0].Port != after[0].Port {
		t.Errorf("reserved: %+v, then %+v", before, after)
	}
	p.until(t, "the end", func() bool { return p.building == nil })
	if n := len(k.ports.Leases()); n != 0 { // there is no builder
		t.Errorf("%d ports are leased", n)
	}
}

// A worker gets no request before its binary is proven, and is gone when it is not.
func TestWorkerWaitsForItsProof(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	r := testRelease(t, "one", "serve")
	r.proof = &proof{done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if inst, err := p.launch(ctx, "a#1", r, p.route, p.settings, 0); err == nil {
		inst.close(0)
		t.Error("the worker serves before its binary is proven")
	}
	if n := len(k.ports.Leases()); n != 0 {
		t.Errorf("%d ports are leased", n)
	}
}

// A binary that is not what was built counts as a failed build.
func TestSpoiledBinaryNeverServes(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	p.serveRelease(t, testRelease(t, "one", "serve"))
	report := builtAs(testRelease(t, "two", "serve"), sdk.Input{Path: "x", Digest: "1"})
	report.result.SHA256 = strings.Repeat("0", 64)
	p.releaseBuilt(report, nil)
	p.until(t, "the failure", func() bool { return p.stale != "" })
	if p.current == nil || p.current.release.ID != "one" || p.candidate != nil {
		t.Error("the old release does not serve on")
	}
	if !strings.Contains(p.stale, "build failed") || !strings.Contains(p.stale, "the builder said 000000000000…") || p.built.result.OK {
		t.Errorf("status %q", p.stale)
	}
	if n := len(k.ports.Leases()); n != 1 {
		t.Errorf("%d ports are leased", n)
	}
}
