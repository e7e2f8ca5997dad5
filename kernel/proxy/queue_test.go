package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func limited(n int) *Endpoint { return NewEndpoint(EndpointOptions{MaxInFlight: n}) }

// queue lets none be held, so that all waits are for room.
func queue(d time.Duration, max int) BackendOptions {
	o := hold(0, 0)
	o.Queue = func() (time.Duration, int) { return d, max }
	return o
}

func kind(err error) string {
	if f := asFault(err); f != nil {
		return f.kind
	}
	return fmt.Sprint(err)
}

func TestPlaceGoesToTheFirstInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(time.Minute, 10))
		b.Set(limited(1), limited(1))
		l := newLine(t, b)
		for range 6 {
			l.arrive()
		}
		if b.Queued() != 4 || b.InFlight() != 2 || b.Held() != 0 {
			t.Fatalf("%d queued, %d in flight, %d held", b.Queued(), b.InFlight(), b.Held())
		}
		for _, n := range []int{1, 0, 3, 2} {
			l.leave(n)
			if b.InFlight() != 2 || len(l.serving) != 2 {
				t.Errorf("%d in flight, %d of them know", b.InFlight(), len(l.serving))
			}
		}
		if fmt.Sprint(l.order) != "[0 1 2 3 4 5]" {
			t.Errorf("served in the order %v", l.order)
		}
		l.leaveAll()
	})
}

func TestQueueIsBoundedInTimeAndNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(3*time.Second, 2))
		b.Set(limited(1))
		l := newLine(t, b)
		begin := time.Now()
		busy, first, second, third := l.arrive(), l.arrive(), l.arrive(), l.arrive()
		if kind(l.failed[third]) != "queue_full" || b.Queued() != 2 {
			t.Errorf("the third got %v; %d queued", l.failed[third], b.Queued())
		}
		l.sleep(3 * time.Second)
		if time.Since(begin) != 3*time.Second || kind(l.failed[first]) != "queue_timeout" || kind(l.failed[second]) != "queue_timeout" || b.Queued() != 0 {
			t.Errorf("%v, %v; %d queued", l.failed[first], l.failed[second], b.Queued())
		}
		l.leave(busy)
		s := b.Stats()
		if b.InFlight() != 0 || s.QueueTimeouts != 2 || s.QueueFull != 1 || s.Requests != 4 || s.HoldFull+s.HoldTimeouts != 0 {
			t.Errorf("%d in flight; %+v", b.InFlight(), s)
		}
	})
}

// TestNoQueueStillServesWhoFindsRoom: nobody waits, so nobody is in the way.
func TestNoQueueStillServesWhoFindsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(0, 5))
		b.Set(limited(1))
		l := newLine(t, b)
		for i := range 3 {
			if n := l.arrive(); l.serving[n] == nil {
				t.Fatalf("request %d: %v", i, l.failed[n])
			}
			if n := l.arrive(); kind(l.failed[n]) != "queue_full" {
				t.Errorf("got %v", l.failed[n])
			}
			l.leaveAll()
		}
	})
}

// TestHeldRequestsQueueForTheNewSet: more were held than there is room for.
func TestHeldRequestsQueueForTheNewSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := hold(time.Minute, 10)
		o.Queue = func() (time.Duration, int) { return time.Second, 1 } // who was let in stays in
		b := NewBackend("p", o)
		l := newLine(t, b)
		for range 6 {
			l.arrive()
		}
		b.Set(limited(2), limited(2))
		if b.Held() != 0 || b.Queued() != 2 || b.InFlight() != 4 { // before any of them has run
			t.Errorf("%d held, %d queued, %d in flight", b.Held(), b.Queued(), b.InFlight())
		}
		l.sleep(0)
		if late := l.arrive(); kind(l.failed[late]) != "queue_full" {
			t.Errorf("the one that came later got %v", l.failed[late])
		}
		l.leave(3)
		l.leave(1)
		if slices.Sort(l.order[:4]); fmt.Sprint(l.order) != "[0 1 2 3 4 5]" {
			t.Errorf("served in the order %v", l.order)
		}
		l.leaveAll()
	})
}

// TestQueueIsHeldWhenTheSetIsEmptied and knows it: by the limits, and by Fail.
func TestQueueIsHeldWhenTheSetIsEmptied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := hold(time.Minute, 10)
		o.Queue = func() (time.Duration, int) { return time.Second, 10 }
		b := NewBackend("p", o)
		b.Set(limited(1))
		l := newLine(t, b)
		l.arrive()
		first, second := l.arrive(), l.arrive()
		b.Fail(errors.New("next build failed"))
		if l.sleep(0); len(l.failed) != 0 || b.Queued() != 2 {
			t.Errorf("Fail with a ready worker: %v", l.failed)
		}
		l.cancel[second]()
		l.sleep(0)
		b.Set()
		third := l.arrive()
		if b.Held() != 2 || b.Queued() != 0 {
			t.Errorf("%d held, %d queued", b.Held(), b.Queued())
		}
		l.sleep(time.Second)
		if kind(l.failed[first]) != "hold_timeout" {
			t.Errorf("first got %v", l.failed[first])
		}
		b.Fail(errors.New("it is over"))
		l.sleep(0)
		if kind(l.failed[third]) != "no_worker" {
			t.Errorf("third got %v", l.failed[third])
		}
		l.leaveAll()
	})
}

// TestWhoAvoidsAWorkerQueuesForTheOthers and lets others have it.
func TestWhoAvoidsAWorkerQueuesForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(time.Minute, 10))
		deaf, busy := limited(1), limited(1)
		b.Set(busy)
		l := newLine(t, b)
		l.arrive()
		b.Set(deaf, busy)
		deaf.occupy()
		first, second := l.arriveAvoiding(deaf), l.arrive()
		if b.Queued() != 2 {
			t.Fatalf("%d queued", b.Queued())
		}
		deaf.leave()
		l.sleep(0)
		if l.serving[second] != deaf || b.Queued() != 1 {
			t.Errorf("the second has got %v; %d queued", l.serving[second], b.Queued())
		}
		l.leave(0)
		if l.serving[first] != busy || b.Queued() != 0 {
			t.Errorf("the first has got %v; %d queued", l.serving[first], b.Queued())
		}
		third := l.arriveAvoiding(deaf)
		l.leave(second)
		b.Set(deaf) // it may be well by now
		l.sleep(0)
		if l.serving[third] != deaf {
			t.Errorf("after a swap the third has got %v", l.serving[third])
		}
		l.leaveAll()
	})
}

// TestPlaceFreedBetweenChoosingAndWaiting: nobody else leaves after it.
func TestPlaceFreedBetweenChoosingAndWaiting(t *testing.T) {
	b := NewBackend("p", queue(time.Minute, 0))
	e := limited(1)
	b.Set(e)
	e.enter()
	turn := turn{backend: b}
	if turn.pick() != nil {
		t.Fatal("picked what is full")
	}
	e.leave()
	w, _, err := turn.join()
	if err != nil || w.place != nil || len(w.ready) != 1 || b.Queued() != 0 {
		t.Fatalf("waits, or %v", err)
	}
	if h := <-w.ready; h.endpoint != e {
		t.Error("got another one")
	}
	e.leave()
}

// TestNobodyJumpsTheLine between a place's being left and handed on.
func TestNobodyJumpsTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(time.Minute, 10))
		e := limited(1)
		b.Set(e)
		l := newLine(t, b)
		l.arrive()
		first := l.arrive()
		e.inFlight.Add(-1) // half of leave
		turn := turn{backend: b}
		if turn.pick() != nil {
			t.Fatal("was served before who came first")
		}
		second := l.arrive() // sees what there is, and sees to it
		if l.serving[first] != e || l.serving[second] != nil {
			t.Errorf("the first has got %v, the second %v", l.serving[first], l.serving[second])
		}
		delete(l.serving, 0)
		b.went()
		l.leaveAll()
		if b.load.Load() != 0 {
			t.Errorf("load %d", b.load.Load())
		}
	})
}

func TestRaisedLimitLetsTheLineIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(time.Minute, 10))
		e := limited(1)
		b.Set(e)
		l := newLine(t, b)
		for range 5 {
			l.arrive()
		}
		e.SetMaxInFlight(3)
		l.sleep(0)
		if len(l.serving) != 3 || b.Queued() != 2 || e.MaxInFlight() != 3 {
			t.Errorf("%d served, %d queued", len(l.serving), b.Queued())
		}
		e.SetMaxInFlight(0)
		l.sleep(0)
		if len(l.serving) != 5 || b.Queued() != 0 {
			t.Errorf("%d served, %d queued", len(l.serving), b.Queued())
		}
		l.leaveAll()
	})
}

// TestNothingIsHandedOverTwice has everything happen at the same time.
func TestNothingIsHandedOverTwice(t *testing.T) {
	const clients, requests = 16, 300
	o := BackendOptions{Queue: func() (time.Duration, int) { return 2 * time.Millisecond, clients }}
	b := NewBackend("p", o)
	var all, swaps sync.WaitGroup
	var served, left atomic.Int64
	stop := make(chan struct{})
	swaps.Go(func() { swapLimited(t, b, stop) })
	for range clients {
		all.Go(func() {
			for range requests {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(3_000))*time.Microsecond)
				turn := turn{backend: b}
				e, err := turn.next(ctx)
				if err == nil {
					if n := e.InFlight(); n > int64(e.MaxInFlight()) || n < 1 {
						t.Errorf("%d in flight of %d", n, e.MaxInFlight())
					}
					time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond) // the work
					e.leave()
					served.Add(1)
				} else {
					left.Add(1)
				}
				cancel()
			}
		})
	}
	all.Wait()
	close(stop)
	swaps.Wait()
	if b.load.Load() != 0 || b.Queued() != 0 || b.Held() != 0 || b.InFlight() != 0 || served.Load() == 0 {
		t.Errorf("load %d, %d queued, %d held, %d in flight; %d served", b.load.Load(), b.Queued(), b.Held(), b.InFlight(), served.Load())
	}
	t.Logf("%d served, %d gave up", served.Load(), left.Load())
}

// swapLimited replaces workers until stop, and drains the old ones.
func swapLimited(t *testing.T, b *Backend, stop <-chan struct{}) {
	var old []*Endpoint
	for {
		next := []*Endpoint{limited(1), limited(2)}
		b.Set(next...)
		for _, e := range old {
			if err := drain(t, e); err != nil || e.InFlight() != 0 {
				t.Errorf("%d in flight, %v", e.InFlight(), err)
				return
			}
		}
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond): // some load is the input
		}
		old = next
	}
}

func drain(t *testing.T, e *Endpoint) error {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return e.Drain(ctx)
}

// TestOverloadIsAnswered through all of the proxy.
func TestOverloadIsAnswered(t *testing.T) {
	s := newSite(t, Options{}, queue(time.Minute, 1))
	release := make(chan struct{})
	e, _ := s.worker(func(w http.ResponseWriter, r *http.Request) { <-release }, EndpointOptions{MaxInFlight: 1})
	s.backend.Set(e)
	status := make(chan int, 2)
	for n := range 2 {
		go func() {
			res, err := s.client.Get("http://" + s.addr)
			if err != nil {
				status <- 0
				return
			}
			res.Body.Close()
			status <- res.StatusCode
		}()
		eventually(t, "request is there", func() bool { return s.backend.Queued()+int(e.InFlight()) == n+1 })
	}
	res, _ := s.get("/")
	if res.StatusCode != 503 || res.Header.Get("X-TQ-Error") != "queue_full" || res.Header.Get("Retry-After") == "" {
		t.Errorf("got %s %v", res.Status, res.Header)
	}
	close(release)
	if a, b := <-status, <-status; a != 200 || b != 200 {
		t.Errorf("got %d and %d", a, b)
	}
	eventually(t, "all have left", func() bool { return e.InFlight() == 0 })
	if e.Requests() != 2 {
		t.Errorf("the worker got %d requests", e.Requests())
	}
}

// TestUpgradedConnectionTakesAPlace as long as it lasts.
func TestUpgradedConnectionTakesAPlace(t *testing.T) {
	s := newSite(t, Options{}, queue(0, 0))
	e, _ := s.worker(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, rw)
	}, EndpointOptions{MaxInFlight: 1})
	s.backend.Set(e)
	c, r := s.dial("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	if res.StatusCode != 101 {
		t.Fatal(res.Status)
	}
	if res, _ := s.get("/"); res.StatusCode != 503 || res.Header.Get("X-TQ-Error") != "queue_full" {
		t.Errorf("got %s %v", res.Status, res.Header)
	}
	c.Close()
	eventually(t, "the place is free", func() bool { return e.InFlight() == 0 })
	if res, _ := s.get("/"); res.StatusCode != 200 {
		t.Errorf("got %s", res.Status)
	}
}
