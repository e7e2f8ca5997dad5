package proxy

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLoadIsTheHighestSinceTheLastLook of what is served or waits.
func TestLoadIsTheHighestSinceTheLastLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(time.Minute, 10))
		b.Set(limited(1), limited(1))
		l := newLine(t, b)
		for range 5 {
			l.arrive()
		}
		if got := b.Load(); got != 5 {
			t.Errorf("2 in flight and 3 in line: %d", got)
		}
		l.leave(l.order[0]) // hands its place on
		if got := b.Load(); got != 5 {
			t.Errorf("4 now, 5 a moment ago: %d", got)
		}
		if got := b.Load(); got != 4 {
			t.Errorf("4 since the last look: %d", got)
		}
		l.leaveAll()
		b.Load()
		for range 3 {
			l.leave(l.arrive())
		}
		if got := b.Load(); got != 1 {
			t.Errorf("one after the other: %d", got)
		}
		if got := b.Load(); got != 0 {
			t.Errorf("quiet: %d", got)
		}
	})
}

// TestLoadLeavesOldWorkersOut: what they still serve is nothing that more new
// ones would help with.
func TestLoadLeavesOldWorkersOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(time.Minute, 10))
		b.Set(limited(0))
		l := newLine(t, b)
		for range 4 {
			l.arrive()
		}
		b.Set(limited(0))
		b.Load()
		l.arrive()
		if got := b.Load(); got != 1 {
			t.Errorf("1 new and 4 old: %d", got)
		}
		b.Set()
		b.Load()
		if got := b.Load(); got != 0 {
			t.Errorf("5 old: %d", got)
		}
		l.leaveAll()
	})
}

// TestNoPlaceIsLost: one leaves just when another joins the line, and nobody
// else comes who would set it right.
func TestNoPlaceIsLost(t *testing.T) {
	const rounds, clients = 3_000, 3
	b := NewBackend("p", queue(20*time.Second, clients))
	b.Set(limited(1))
	for range rounds {
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				turn := turn{backend: b}
				e, err := turn.next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				e.leave()
			})
		}
		all.Wait()
		if t.Failed() || b.Queued() != 0 || b.InFlight() != 0 {
			t.Fatalf("%d queued, %d in flight", b.Queued(), b.InFlight())
		}
	}
}

// TestChaosOfSeveralWorkers is TestChaos with limits, a line, ejections and
// retries: no client gets another's answer, and no POST is executed twice.
func TestChaosOfSeveralWorkers(t *testing.T) {
	const limit = 2
	s := newSite(t, Options{}, BackendOptions{
		Eject: func() (int, time.Duration) { return 2, 5 * time.Millisecond },
	})
	w := &chaoticWorker{t: t, executed: make(map[string]int)}
	var set []*Endpoint
	for range 3 {
		set = append(set, s.raw(EndpointOptions{MaxInFlight: limit}, w.serve))
	}
	w.meet(s, 12, 40, func(stop <-chan struct{}) { swapOneOf(s, set, stop) })
	eventually(t, "everything ends", func() bool { return s.backend.load.Load() == 0 })
	st := s.backend.Stats()
	t.Logf("%+v", st)
	if st.Held != 0 || st.Queued != 0 {
		t.Errorf("%+v", st)
	}
}

// swapOneOf replaces one worker of the set after the other, and cuts the old
// one off.
func swapOneOf(s *site, set []*Endpoint, stop <-chan struct{}) {
	s.backend.Set(set...)
	tick := time.NewTicker(20 * time.Millisecond) // some time under load is the input
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			for _, e := range set {
				e.Close()
			}
			return
		case <-tick.C:
		}
		old := set[n%len(set)]
		set[n%len(set)] = NewEndpoint(old.o)
		s.backend.Set(set...)
		old.Close()
	}
}

// TestLimitIsTheWorkers: they count themselves what they get at a time, and the
// first wait until they have all they may get.
func TestLimitIsTheWorkers(t *testing.T) {
	const limit, workers, clients, requests = 3, 2, 16, 50
	s := newSite(t, Options{}, BackendOptions{})
	s.client.Transport.(*http.Transport).MaxIdleConnsPerHost = clients
	var first sync.WaitGroup
	var came atomic.Int32
	first.Add(limit * workers)
	set := make([]*Endpoint, workers)
	for i := range set {
		var busy atomic.Int32
		set[i], _ = s.worker(func(w http.ResponseWriter, r *http.Request) {
			defer busy.Add(-1)
			if n := busy.Add(1); n > limit {
				t.Errorf("worker %d has %d requests at a time", i, n)
			}
			if came.Add(1) <= limit*workers {
				first.Done()
				first.Wait()
			}
		}, EndpointOptions{MaxInFlight: limit})
	}
	s.backend.Set(set...)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range requests {
				res, err := s.client.Get("http://" + s.addr)
				if err != nil || res.StatusCode != 200 {
					t.Error(res, err)
					return
				}
				res.Body.Close()
			}
		})
	}
	all.Wait()
	if got := set[0].Requests() + set[1].Requests(); got != clients*requests {
		t.Errorf("%d requests", got)
	}
}
