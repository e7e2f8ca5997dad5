package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// forgetful is a worker that answers the first request of a connection and
// loses the second.
func (s *site) forgetful(lost *atomic.Int32) *Endpoint {
	return s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		if head(r) == nil {
			return
		}
		io.WriteString(c, ok)
		if head(r) != nil {
			lost.Add(1)
		}
	})
}

// TestLostRequestGoesToAnotherWorker if there is one, and if it can be given to
// two.
func TestLostRequestGoesToAnotherWorker(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var lost, other atomic.Int32
	forgetful := s.forgetful(&lost)
	alive := s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for head(r) != nil {
			other.Add(1)
			io.WriteString(c, ok)
		}
	})
	s.backend.Set(forgetful)
	s.get("/") // leaves a connection to use again
	s.backend.Set(forgetful, alive)
	alive.spell.Store(nil)
	alive.enter() // so that the forgetful one is the less busy
	defer alive.leave()
	if res, _ := s.get("/"); res.StatusCode != 200 || lost.Load() != 1 || other.Load() != 1 {
		t.Errorf("GET: %s; lost %d times, the other one got %d", res.Status, lost.Load(), other.Load())
	}
	if e := s.entry(1); e.Attempts != 2 || s.entry(0).Attempts != 1 {
		t.Errorf("the log says %d attempts, after %d", e.Attempts, s.entry(0).Attempts)
	}
	s.get("/")
	res, _ := s.do(s.request("POST", "/", nil))
	if res.StatusCode != 502 || lost.Load() != 2 || other.Load() != 1 {
		t.Errorf("POST: %s; lost %d times, the other one got %d", res.Status, lost.Load(), other.Load())
	}
	if st := s.backend.Stats(); st.Retries != 1 || st.RetriesDenied != 0 {
		t.Errorf("%+v", st)
	}
}

// TestLostRequestComesBackToTheOnlyOneThatWorks: the other one is dead.
func TestLostRequestComesBackToTheOnlyOneThatWorks(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var lost atomic.Int32
	forgetful := s.forgetful(&lost)
	s.backend.Set(forgetful)
	s.get("/")
	dead, w := s.worker(text(""), EndpointOptions{})
	w.Close()
	s.backend.Set(forgetful, dead)
	dead.spell.Store(nil)
	dead.enter()
	defer dead.leave()
	if res, _ := s.get("/"); res.StatusCode != 200 || lost.Load() != 1 {
		t.Errorf("%s; lost %d times", res.Status, lost.Load())
	}
	if e := s.entry(1); e.Attempts != 3 {
		t.Errorf("the log says %d attempts", e.Attempts)
	}
}

// overdraw leaves the budget without a retry for a minute and more.
func overdraw(b *Backend) {
	b.budget.spend(0, time.Now())
	b.budget.mu.Lock()
	defer b.budget.mu.Unlock()
	b.budget.tokens = -1_000
}

// TestSpentBudgetEndsARequestAtOnce with what has become of its only try.
func TestSpentBudgetEndsARequestAtOnce(t *testing.T) {
	for _, workers := range []int{1, 2} {
		s := newSite(t, Options{}, BackendOptions{})
		var lost atomic.Int32
		first := s.forgetful(&lost)
		s.backend.Set(first)
		s.get("/")
		set := []*Endpoint{first}
		if workers == 2 {
			other := s.serve(text("ok"))
			other.enter()
			defer other.leave()
			s.backend.Set(first)
			s.backend.Set(first, other)
			other.spell.Store(nil)
			set = append(set, other)
		}
		overdraw(s.backend)
		res, _ := s.get("/")
		if res.StatusCode != 502 || res.Header.Get("X-TQ-Error") != "worker_closed" || lost.Load() != 1 {
			t.Errorf("%d workers: %s %v; lost %d times", len(set), res.Status, res.Header, lost.Load())
		}
		if e := s.entry(1); e.Attempts != 1 || workers == 2 && !strings.Contains(e.Error, "not tried again") {
			t.Errorf("the log says %d attempts, %s", e.Attempts, e.Error)
		}
		if st := s.backend.Stats(); st.Retries != 0 || st.RetriesDenied != 1 {
			t.Errorf("%+v", st)
		}
	}
}

// TestBudgetEndsRetries at once, with what the worker's failure was.
func TestBudgetEndsRetries(t *testing.T) {
	b := NewBackend("p", BackendOptions{Eject: func() (int, time.Duration) { return 0, 0 }})
	b.Set(endpoints(2)...)
	denied := 0
	for range 1_000 {
		turn := turn{backend: b}
		first, err := turn.next(t.Context())
		must(t, err)
		first.leave()
		turn.unreachable(first, &dialError{syscall.ECONNREFUSED})
		second, err := turn.next(t.Context())
		if err == nil {
			second.leave()
			if second == first {
				t.Fatal("the same again")
			}
			continue
		}
		denied++
		if f := diagnoseWorker(err); f.kind != kindDial || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("got %s", f)
		}
	}
	if s := b.Stats(); s.RetriesDenied != uint64(denied) || s.Retries < 250 || s.Retries+s.RetriesDenied != 1_000 {
		t.Errorf("%+v", s)
	}
}

// TestWaitForAnotherSetIsNoRetry: no worker gets more for it.
func TestWaitForAnotherSetIsNoRetry(t *testing.T) {
	b := NewBackend("p", BackendOptions{})
	overdraw(b)
	dead, next := NewEndpoint(EndpointOptions{}), NewEndpoint(EndpointOptions{})
	b.Set(dead)
	turn := turn{backend: b}
	e, err := turn.next(t.Context())
	must(t, err)
	e.leave()
	turn.unreachable(e, &dialError{syscall.ECONNREFUSED})
	got := make(chan *Endpoint)
	go func() {
		e, err := turn.next(t.Context())
		if err != nil {
			t.Error(err)
		}
		got <- e
	}()
	eventually(t, "request is held", func() bool { return b.Held() == 1 })
	b.Set(next)
	if e := <-got; e != next {
		t.Error("got another one")
	}
	next.leave()
}

// TestRequestThatKillsWorkersGetsTwo at most, though each was used before and
// is replaced by another.
func TestRequestThatKillsWorkersGetsTwo(t *testing.T) {
	const workers = 4
	s := newSite(t, Options{}, BackendOptions{})
	var killed atomic.Int32
	var set []*Endpoint
	for range workers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		e := s.rawOn(l, EndpointOptions{Addr: l.Addr().String()}, func(c net.Conn, r *bufio.Reader) {
			for h := head(r); h != nil; h = head(r) {
				if strings.HasPrefix(h[0], "GET /poison") {
					killed.Add(1)
					l.Close()
					return
				}
				io.WriteString(c, ok)
			}
		})
		s.get("/") // leaves a connection to use again
		set = append(set, e)
	}
	s.backend.Set(set[0])
	status := make(chan int, 1)
	go func() {
		res, err := s.client.Get("http://" + s.addr + "/poison")
		if err != nil {
			status <- 0
			return
		}
		res.Body.Close()
		status <- res.StatusCode
	}()
	for _, next := range set[1:] {
		eventually(t, "request is held or answered", func() bool { return s.backend.Held() == 1 || len(status) == 1 })
		s.backend.Set(next)
	}
	s.backend.Fail(errors.New("there is none left"))
	if got := <-status; got != 502 || killed.Load() != 2 {
		t.Errorf("got %d, and killed %d workers", got, killed.Load())
	}
}
