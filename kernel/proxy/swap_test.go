package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestSwapsUnderLoadLoseNothing is the promise of the product: workers come
// and go, each stopped for good as soon as it is drained, and no client sees it.
func TestSwapsUnderLoadLoseNothing(t *testing.T) {
	const swaps, clients = 200, 32
	s := newSite(t, Options{}, BackendOptions{})
	s.client.Transport.(*http.Transport).MaxIdleConnsPerHost = clients
	payload := strings.Repeat("x", 4_000)
	start := func(n int) (*Endpoint, *httptest.Server) {
		w := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprintf(w, "%d %d %s", n, len(body), payload)
		}))
		return NewEndpoint(EndpointOptions{Addr: w.Listener.Addr().String()}), w
	}
	e, w := start(0)
	s.backend.Set(e)

	var stop atomic.Bool
	var served, newest atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				least := newest.Load()
				got, err := s.roundTrip(i + n)
				if err != nil {
					t.Error(err)
					return
				}
				if got < least {
					t.Errorf("release %d answered after %d was live", got, least)
				}
				served.Add(1)
			}
		})
	}
	for n := 1; n <= swaps && !t.Failed(); n++ {
		next, server := start(n)
		s.backend.Set(next)
		newest.Store(int64(n))
		must(t, e.Drain(t.Context()))
		w.CloseClientConnections() // what a late request would run into
		w.Close()
		before := served.Load()
		eventually(t, "load goes on", func() bool { return served.Load() > before || t.Failed() })
		e, w = next, server
	}
	stop.Store(true)
	wg.Wait()
	s.backend.Set()
	must(t, e.Drain(t.Context()))
	w.Close()
	if n := e.InFlight(); n != 0 {
		t.Errorf("%d in flight at the end", n)
	}
	t.Logf("%d requests over %d swaps", served.Load(), swaps)
}

var upload = strings.Repeat("p", 20_000)

// roundTrip sends one of four kinds of requests and returns which release
// answered.
func (s *site) roundTrip(kind int) (int64, error) {
	var body io.Reader
	method, size := "GET", 0
	switch kind % 4 {
	case 1:
		method, size = "POST", 10
		body = strings.NewReader(upload[:size])
	case 2:
		method, size = "POST", len(upload)
		body = io.MultiReader(strings.NewReader(upload)) // chunked
	}
	r, err := http.NewRequest(method, "http://"+s.addr+"/", body)
	if err != nil {
		return 0, err
	}
	r.Close = kind%4 == 3
	res, err := s.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", method, err)
	}
	var release, got int64
	if _, err := fmt.Sscanf(string(b[:min(len(b), 40)]), "%d %d", &release, &got); err != nil || got != int64(size) || len(b) < 4_000 {
		return 0, fmt.Errorf("%s %d: %d %.60q", method, size, res.StatusCode, b)
	}
	return release, nil
}

// TestSwapBetweenChoosingAndEntering: the request was a moment too late.
func TestSwapBetweenChoosingAndEntering(t *testing.T) {
	b := NewBackend("p", BackendOptions{})
	old, next := NewEndpoint(EndpointOptions{}), NewEndpoint(EndpointOptions{})
	b.Set(old)
	turn := turn{backend: b}
	chosen := turn.choose()
	b.Set(next)
	if chosen != old || turn.enter(chosen) || old.InFlight() != 0 {
		t.Errorf("entered the old endpoint; %d in flight", old.InFlight())
	}
	if turn.pick() != next {
		t.Error("did not find the new endpoint")
	}
}

// TestSwapBetweenChoosingAndWaiting: the worker got ready before the request
// was in the queue; it must not wait for the next one.
func TestSwapBetweenChoosingAndWaiting(t *testing.T) {
	b := NewBackend("p", BackendOptions{})
	turn := turn{backend: b}
	if turn.choose() != nil {
		t.Fatal("chose from nothing")
	}
	b.Set(NewEndpoint(EndpointOptions{}))
	if w, _, err := turn.join(); w != nil || err != nil {
		t.Errorf("queued %v, %v", w, err)
	}
}

// TestNoRequestLandsOnAnEndpointAfterSet swaps as fast as it can, without HTTP
// in the way.
func TestNoRequestLandsOnAnEndpointAfterSet(t *testing.T) {
	const swaps = 150
	b := NewBackend("p", BackendOptions{})
	var retired sync.Map
	three := func() []*Endpoint {
		return []*Endpoint{NewEndpoint(EndpointOptions{}), NewEndpoint(EndpointOptions{}), NewEndpoint(EndpointOptions{})}
	}
	old := three()
	b.Set(old...)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() && !t.Failed() {
				turn := turn{backend: b}
				e, err := turn.next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if _, gone := retired.Load(e); gone {
					t.Error("got a drained endpoint")
				}
				e.leave()
			}
		})
	}
	for i := range swaps {
		next := three()
		if i%7 == 0 {
			b.Set()
		}
		b.Set(next...)
		for _, e := range old {
			must(t, e.Drain(t.Context()))
			retired.Store(e, true)
		}
		old = next
	}
	stop.Store(true)
	wg.Wait()
}

func TestHeldRequestsAreReleasedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", hold(time.Minute, 10))
		got := make([]string, 4)
		for i := range got {
			go func() {
				turn := turn{backend: b}
				_, err := turn.next(t.Context())
				got[i] = fmt.Sprint(err)
			}()
			synctest.Wait()
		}
		if b.Held() != 4 {
			t.Fatalf("%d held", b.Held())
		}
		b.mu.Lock()
		for n := range got {
			b.hand(b.waiting.Front().Value.(*waiter), handover{err: fmt.Errorf("%d", n+1)})
		}
		b.mu.Unlock()
		synctest.Wait()
		if fmt.Sprint(got) != "[1 2 3 4]" {
			t.Errorf("released in the order %v", got)
		}
	})
}

func TestSetHandsItselfToAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", hold(time.Minute, 10))
		e := NewEndpoint(EndpointOptions{})
		for range 4 {
			go func() {
				turn := turn{backend: b}
				if got, err := turn.next(t.Context()); got != e || err != nil {
					t.Errorf("got %v, %v", got, err)
				}
			}()
		}
		synctest.Wait()
		b.Set(e)
		if b.Held() != 0 || e.InFlight() != 4 { // before any of them has run
			t.Errorf("%d held, %d in flight", b.Held(), e.InFlight())
		}
		synctest.Wait()
	})
}

func TestHoldIsBoundedInTimeAndNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", hold(3*time.Second, 2))
		begin := time.Now()
		kinds := make(chan string, 3)
		for range 3 {
			go func() {
				turn := turn{backend: b}
				_, err := turn.next(t.Context())
				kinds <- fmt.Sprint(asFault(err).kind, " ", time.Since(begin))
			}()
		}
		if got := <-kinds; got != "hold_full 0s" {
			t.Error(got)
		}
		for range 2 {
			if got := <-kinds; got != "hold_timeout 3s" {
				t.Error(got)
			}
		}
		if b.Held() != 0 {
			t.Errorf("%d still held", b.Held())
		}
	})
}

// TestHoldEndsOnce: the endpoint that was handed over just when the time was
// up takes no connections, so that the request waits again.
func TestHoldEndsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := turn{backend: NewBackend("p", hold(3*time.Second, 2))}
		begin := time.Now()
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if _, err := turn.next(ctx); !errors.Is(err, errHoldTimeout) || time.Since(begin) != 3*time.Second {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
			cancel()
		}
	})
}

func TestHeldClientThatLeavesIsForgotten(t *testing.T) {
	s := newSite(t, Options{}, hold(time.Minute, 10))
	c, _ := s.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	eventually(t, "request is held", func() bool { return s.backend.Held() == 1 })
	c.Close()
	eventually(t, "request is forgotten", func() bool { return s.backend.Held() == 0 })
	if e := s.entry(0); e.Status != 499 || !strings.HasPrefix(e.Error, "client_closed") {
		t.Errorf("logged %+v", e)
	}
}

func TestFailAnswersHeldRequestsAndSetClearsIt(t *testing.T) {
	s := newSite(t, Options{}, hold(time.Minute, 10))
	status := make(chan int)
	go func() {
		res, _ := s.get("/")
		status <- res.StatusCode
	}()
	eventually(t, "request is held", func() bool { return s.backend.Held() == 1 })
	s.backend.Fail(errors.New("does not compile"))
	if got := <-status; got != 503 {
		t.Errorf("held: %d", got)
	}
	if res, _ := s.get("/"); res.StatusCode != 503 {
		t.Errorf("new: %d", res.StatusCode)
	}
	s.serve(text("ok"))
	if res, _ := s.get("/"); res.StatusCode != 200 {
		t.Errorf("after Set: %d", res.StatusCode)
	}
	s.backend.Fail(errors.New("next build failed"))
	if res, _ := s.get("/"); res.StatusCode != 200 {
		t.Errorf("Fail with a ready worker: %d", res.StatusCode)
	}
	s.serve(text("ok"))
	s.backend.Set()
	go func() {
		res, _ := s.get("/")
		status <- res.StatusCode
	}()
	eventually(t, "request is held, since Set cleared the failure", func() bool { return s.backend.Held() == 1 })
	s.backend.Close()
	if got := <-status; got != 404 {
		t.Errorf("held: %d", got)
	}
}

func TestCloseAnswersHeldRequests(t *testing.T) {
	s := newSite(t, Options{}, hold(time.Minute, 10))
	status := make(chan int)
	go func() {
		res, _ := s.get("/")
		status <- res.StatusCode
	}()
	eventually(t, "request is held", func() bool { return s.backend.Held() == 1 })
	s.backend.Close()
	s.backend.Set(NewEndpoint(EndpointOptions{}))
	if got := <-status; got != 404 {
		t.Errorf("held: %d", got)
	}
	if res, _ := s.get("/"); res.StatusCode != 404 {
		t.Errorf("new: %d", res.StatusCode)
	}
}

// TestRequestToACrashedWorkerWaitsForTheNext: the worker is gone, nobody has
// told the backend yet, and POSTs with bodies come in.
func TestRequestToACrashedWorkerWaitsForTheNext(t *testing.T) {
	s := newSite(t, Options{}, hold(10*time.Second, 100))
	unreachable := make(chan error, 100)
	dead, w := s.worker(text(""), EndpointOptions{OnUnreachable: func(err error) { unreachable <- err }})
	w.Close()
	s.backend.Set(dead)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			res, body := s.do(s.request("POST", "/", strings.NewReader("precious")))
			if res.StatusCode != 200 || body != "precious" {
				t.Errorf("got %d %q", res.StatusCode, body)
			}
		})
	}
	eventually(t, "requests are held", func() bool { return s.backend.Held() == 20 })
	if len(unreachable) != 20 {
		t.Errorf("OnUnreachable was called %d times", len(unreachable))
	}
	s.backend.Set()
	s.serve(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	wg.Wait()
}

// TestPostIsNotReplayed kills the connection after the worker has seen the
// request.
func TestPostIsNotReplayed(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var posts atomic.Int32
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			posts.Add(1)
			panic(http.ErrAbortHandler)
		}
	})
	s.get("/") // leaves a connection to reuse
	for _, body := range []io.Reader{nil, strings.NewReader("x")} {
		posts.Store(0)
		if res, _ := s.do(s.request("POST", "/", body)); res.StatusCode != 502 || posts.Load() != 1 {
			t.Errorf("%d after %d posts", res.StatusCode, posts.Load())
		}
	}
}

// TestReusedConnectionThatDiedIsReplaced: an idempotent request is sent again
// on a new connection.
func TestReusedConnectionThatDiedIsReplaced(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var gets atomic.Int32
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if gets.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
	})
	for range 2 {
		if res, _ := s.get("/"); res.StatusCode != 200 {
			t.Error(res.Status)
		}
	}
	if gets.Load() != 3 {
		t.Errorf("%d gets", gets.Load())
	}
}

func TestTheLessLoadedOfTwoIsPicked(t *testing.T) {
	busy, free := NewEndpoint(EndpointOptions{}), NewEndpoint(EndpointOptions{})
	busy.enter()
	set := &endpointSet{endpoints: []*Endpoint{busy, free}}
	for range 100 {
		if set.choose(nil) != free {
			t.Fatal("picked the busy one")
		}
	}
	if set.choose([]*Endpoint{free}) != busy || set.choose(set.endpoints) != nil {
		t.Error("avoid is not respected")
	}
}

// failing is a forwarder that fails, and counts how often.
type failing struct {
	err   error
	calls int
}

func (f *failing) forward(*exchange, *Endpoint) error {
	f.calls++
	return f.err
}

// TestOnlyWhatReachedNoWorkerIsTriedAgain: no other worker gets a request that
// one may have seen, or that failed for want of something on our side.
func TestOnlyWhatReachedNoWorkerIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		err           error
		status, calls int
	}{
		{syscall.ECONNRESET, 502, 1},
		{os.ErrDeadlineExceeded, 504, 1},
		{&dialError{syscall.EMFILE}, 503, 1},
		{&dialError{syscall.ECONNREFUSED}, 502, 2},
	} {
		f := &failing{err: c.err}
		p := New(Options{})
		p.forward = f
		b := NewBackend("p", hold(0, 0))
		b.Set(NewEndpoint(EndpointOptions{}), NewEndpoint(EndpointOptions{}))
		must(t, p.SetRoutes([]Route{{Path: "/", Backend: b}}))
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader("body")))
		if w.Code != c.status || f.calls != c.calls || b.InFlight() != 0 {
			t.Errorf("%v: %d after %d calls, %d in flight", c.err, w.Code, f.calls, b.InFlight())
		}
	}
}
