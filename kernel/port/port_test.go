package port

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// fakePool has ports 9000 and up that are free unless in busy.
func fakePool(size int, busy ...int) *Pool {
	p := NewPool(9000, 9000+size-1)
	p.probe = func(port int) (bool, error) {
		for _, b := range busy {
			if b == port {
				return false, nil
			}
		}
		return true, nil
	}
	return p
}

func lease(t *testing.T, p *Pool, owner string) *Lease {
	t.Helper()
	l, err := p.Lease(owner)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLeaseRotates(t *testing.T) {
	p := fakePool(3)
	var got []int
	for range 7 {
		l := lease(t, p, "api")
		got = append(got, l.Port())
		l.Release()
	}
	if want := "[9000 9001 9002 9000 9001 9002 9000]"; fmt.Sprint(got) != want {
		t.Fatalf("leased %v, want %v", got, want)
	}
}

func TestLeaseTakesTheLongestRested(t *testing.T) {
	p := fakePool(3)
	a, b, c := lease(t, p, "a"), lease(t, p, "b"), lease(t, p, "c")
	c.Release()
	a.Release()
	b.Release()
	for _, want := range []int{9002, 9000, 9001} {
		if l := lease(t, p, "next"); l.Port() != want {
			t.Fatalf("leased %d, want %d", l.Port(), want)
		}
	}
}

func TestReleaseIsIdempotent(t *testing.T) {
	p := fakePool(1)
	first := lease(t, p, "first")
	first.Release()
	second := lease(t, p, "second")
	first.Release() // must not take the port from its next owner
	if _, err := p.Lease("third"); !errors.Is(err, ErrExhausted) {
		t.Fatalf("got %v, want ErrExhausted", err)
	}
	second.Release()
	second.Release()
	lease(t, p, "third")
	if _, err := p.Lease("fourth"); !errors.Is(err, ErrExhausted) {
		t.Fatalf("got %v, want ErrExhausted", err)
	}
}

func TestExhaustedSaysWhy(t *testing.T) {
	p := fakePool(3, 9001)
	lease(t, p, "api#1")
	lease(t, p, "blog#7")
	_, err := p.Lease("index#1")
	if !errors.Is(err, ErrExhausted) {
		t.Fatalf("got %v, want ErrExhausted", err)
	}
	want := "lease port for index#1: port: range is used up: of 9000-9002, 2 leased (api#1, blog#7), " +
		"1 held by other processes; widen workers.port_range_start to workers.port_range_end"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

func TestExhaustedNamesAFewOwners(t *testing.T) {
	p := fakePool(8)
	for i := range 8 {
		lease(t, p, fmt.Sprintf("page%d", i))
	}
	_, err := p.Lease("late")
	if err == nil || !strings.Contains(err.Error(), "8 leased (page0, page1, page2, page3, page4 and 3 more)") {
		t.Fatal(err)
	}
}

func TestLeaseReportsProbeError(t *testing.T) {
	p := fakePool(2)
	p.probe = func(int) (bool, error) { return false, unix.EMFILE }
	if _, err := p.Lease("api"); !errors.Is(err, unix.EMFILE) || errors.Is(err, ErrExhausted) {
		t.Fatalf("got %v, want the cause and not ErrExhausted", err)
	}
}

func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fakePool(3)
		first := lease(t, p, "a")
		lease(t, p, "b")
		lease(t, p, "c")
		first.Release()
		got := p.Leases()
		if len(got) != 2 || got[0].Port != 9001 || got[0].Owner != "b" || got[1].Port != 9002 || !got[0].Since.Equal(time.Now()) {
			t.Fatalf("leases %+v", got)
		}
	})
}

func TestResize(t *testing.T) {
	p := fakePool(2)
	low, high := lease(t, p, "low"), lease(t, p, "high")
	p.Resize(9001, 9002)
	if got := lease(t, p, "new"); got.Port() != 9002 {
		t.Fatalf("leased %d, want 9002", got.Port())
	}
	if len(p.Leases()) != 3 {
		t.Fatalf("a lease was lost: %v", p.Leases())
	}
	low.Release() // outside the range now: gone for good
	if l, err := p.Lease("none"); err == nil {
		t.Fatalf("leased %d", l.Port())
	}
	high.Release()
	if got := lease(t, p, "again"); got.Port() != 9001 {
		t.Fatalf("leased %d, want 9001", got.Port())
	}
}

func TestResizeKeepsTheOrderOfUse(t *testing.T) {
	p := fakePool(2)
	lease(t, p, "a").Release()
	p.Resize(9000, 9002)
	for _, want := range []int{9002, 9001, 9000} {
		if got := lease(t, p, "next").Port(); got != want {
			t.Fatalf("leased %d, want %d", got, want)
		}
	}
}

func TestChangedWakesWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fakePool(1)
		held := lease(t, p, "old")
		var waiters sync.WaitGroup
		for i := range 3 {
			waiters.Go(func() {
				for {
					changed := p.Changed()
					if l, err := p.Lease(fmt.Sprint("waiter ", i)); err == nil {
						l.Release()
						return
					}
					<-changed
				}
			})
		}
		synctest.Wait()
		held.Release()
		waiters.Wait()
	})
}

func TestChangedOnResize(t *testing.T) {
	p := fakePool(1)
	changed := p.Changed()
	select {
	case <-changed:
		t.Fatal("closed without a change")
	default:
	}
	p.Resize(9000, 9001)
	<-changed
}

func TestLeasesAreExclusive(t *testing.T) {
	p := fakePool(4)
	var mu sync.Mutex
	holders := map[int]int{}
	hold := func(port, n int) {
		mu.Lock()
		defer mu.Unlock()
		if holders[port] += n; holders[port] > 1 {
			t.Errorf("port %d has %d owners", port, holders[port])
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if l, err := p.Lease("x"); err == nil {
					hold(l.Port(), 1)
					hold(l.Port(), -1)
					l.Release()
				}
			}
		})
	}
	wg.Wait()
	if n := len(p.Leases()); n != 0 {
		t.Fatalf("%d leases left", n)
	}
}

// A real listener, on whatever address, keeps its port from being leased.
func TestProbe(t *testing.T) {
	for _, listen := range []struct{ network, host string }{
		{"tcp4", "127.0.0.1"}, {"tcp4", "127.0.0.2"}, {"tcp4", "0.0.0.0"}, {"tcp6", "[::1]"}, {"tcp6", "[::]"}, {"tcp", ""},
	} {
		t.Run(listen.network+" "+listen.host, func(t *testing.T) {
			foreign, err := net.Listen(listen.network, listen.host+":0")
			if err != nil {
				t.Skip(err)
			}
			port := foreign.Addr().(*net.TCPAddr).Port
			if free, err := probe(port); free || err != nil {
				t.Errorf("with a listener: %v, %v; want busy", free, err)
			}
			foreign.Close()
			if free, err := probe(port); !free || err != nil {
				t.Errorf("without: %v, %v; want free", free, err)
			}
		})
	}
}

// What is left of the last worker's connections must not make its port look taken.
func TestProbeIgnoresTimeWait(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	server.Close() // the side that closes first stays in TIME_WAIT, on the leased port
	client.Close()
	if free, err := probe(l.Addr().(*net.TCPAddr).Port); !free || err != nil {
		t.Fatalf("%v, %v; want free", free, err)
	}
}

func TestLeasePassesOverForeignListener(t *testing.T) {
	foreign, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	taken := foreign.Addr().(*net.TCPAddr).Port
	_, err = NewPool(taken, taken).Lease("api")
	if !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "1 held by other processes") {
		t.Fatalf("got %v", err)
	}
}
