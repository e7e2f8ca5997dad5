package kernel

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tqserver/tqserver/kernel/dev"
	"github.com/tqserver/tqserver/kernel/proxy"
)

// Who needs it most is next, as of the moment when a slot is free; who needs it as much as another comes by arrival.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: 1}
		leave, err := q.enter(t.Context(), func() need { return need{} })
		if err != nil {
			t.Fatal(err)
		}
		needs := map[string]need{"b": {traffic: 5}, "c": {awaited: true}, "d": {traffic: 9}, "f": {awaited: true, traffic: 1}}
		var order []string
		var builds sync.WaitGroup
		for _, page := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			builds.Go(func() {
				leave, err := q.enter(t.Context(), func() need { return needs[page] })
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, page)
				leave()
				leave() // is not counted twice
			})
			synctest.Wait()
		}
		needs["g"] = need{awaited: true, traffic: 7} // has come to need it while it waited
		leave()
		builds.Wait()
		if want := []string{"g", "f", "c", "d", "b", "a", "e"}; !slices.Equal(order, want) {
			t.Errorf("built in the order %v, want %v", order, want)
		}
		if q.running != 0 || len(q.waiting) != 0 {
			t.Errorf("%d run, %d wait", q.running, len(q.waiting))
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: 3}
		var mu sync.Mutex
		var builds sync.WaitGroup
		running, most := 0, 0
		for range 20 {
			builds.Go(func() {
				leave, err := q.enter(t.Context(), func() need { return need{} })
				if err != nil {
					t.Error(err)
					return
				}
				defer leave()
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				running--
				mu.Unlock()
			})
		}
		builds.Wait()
		if most != 3 {
			t.Errorf("%d builds at once, want 3", most)
		}
	})
}

// A build that is cancelled leaves the queue at once, and costs no slot even if it got one at that moment.
func TestCancelledBuildLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: 1}
		leave, err := q.enter(t.Context(), func() need { return need{} })
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var builds sync.WaitGroup
		for range 3 {
			builds.Go(func() {
				if _, err := q.enter(ctx, func() need { return need{awaited: true} }); err == nil {
					t.Error("a cancelled build began")
				}
			})
		}
		synctest.Wait()
		cancel()
		builds.Wait()
		if len(q.waiting) != 0 {
			t.Errorf("%d builds wait", len(q.waiting))
		}
		given := &turn{begin: make(chan struct{})} // it got the slot, and its context ended
		leave()
		q.running++
		q.giveUp(given)
		if leave, err = q.enter(t.Context(), func() need { return need{} }); err != nil {
			t.Fatal(err)
		}
		leave()
		if q.running != 0 {
			t.Errorf("%d slots are lost", q.running)
		}
	})
}

// fakeCounter is a worker that has had so many requests.
type fakeCounter struct{ n uint64 }

func (c *fakeCounter) Requests() uint64 { return c.n }

func TestTrafficIsRecent(t *testing.T) {
	var tr traffic
	old, now := &fakeCounter{n: 100}, time.Unix(1000, 0)
	if got := tr.sample([]counter{old}, now); got != 100 {
		t.Errorf("after 100 requests: %v", got)
	}
	if got := tr.sample([]counter{old}, now); got != 100 {
		t.Errorf("counted twice: %v", got)
	}
	old.n = 110
	next := &fakeCounter{n: 5}
	if got := tr.sample([]counter{next}, now); got != 115 {
		t.Errorf("the last requests of the old worker and the first of the new: %v", got)
	}
	later := tr.sample([]counter{next}, now.Add(trafficMemory))
	if later < 115*0.36 || later > 115*0.38 {
		t.Errorf("a minute later: %v", later)
	}
	if got := tr.sample(nil, now.Add(trafficMemory)); got != later {
		t.Errorf("without a worker: %v, want %v", got, later)
	}
	if got := tr.sample([]counter{next}, now.Add(time.Hour)); got > 6 || got < 5 {
		t.Errorf("a worker that is new again counts from 0: %v", got)
	}
}

// A page that somebody waits for comes before one that had traffic: a document in dev mode, or a held request.
func TestNeedOfAPage(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "a")
	if k.need("a").awaited {
		t.Error("somebody waits for a page that nobody asks for")
	}
	k.dev = dev.New(dev.Options{Page: func(string, string) string { return "a" }, Wait: func() time.Duration { return time.Minute }})
	k.dev.Set(dev.State{Name: "a", Building: true})
	ask := httptest.NewRequest("GET", "http://localhost/a", nil)
	ask.Header.Set("Accept", "text/html")
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		k.dev.Handler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), ask)
	}()
	eventually(t, "the document to be awaited", func() bool { return k.need("a").awaited })
	k.dev.Set(dev.State{Name: "a"})
	<-opened
	if k.need("a").awaited {
		t.Error("the document has come, and no browser is there")
	}
	if err := k.proxy.SetRoutes([]proxy.Route{{Path: "/", Backend: p.backend}}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		k.proxy.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://localhost/a", nil))
	}()
	eventually(t, "the request to be held", func() bool { return k.need("a").awaited })
	p.backend.Fail(errors.New("no worker"))
	<-answered
	if (need{awaited: true}).compare(need{traffic: 1e9}) <= 0 || k.need("gone") != (need{}) {
		t.Error("wrong order")
	}
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}
