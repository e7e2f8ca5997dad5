package checker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tqserver/tqserver/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench runs a checker against workers that are functions.
type bench struct {
	t       *testing.T
	http    *HTTP
	sets    chan sdk.TargetSet
	version uint64
	stop    func() error

	mu      sync.Mutex
	answer  func(ctx context.Context, id string) error
	probes  map[string][]time.Time
	reports []string
	refuse  error
}

func newBench(t *testing.T, change func(*rule)) *bench {
	b := &bench{t: t, http: NewHTTP(), sets: make(chan sdk.TargetSet), probes: map[string][]time.Time{},
		answer: func(context.Context, string) error { return nil }}
	if change != nil {
		r := b.http.current()
		change(&r)
		b.http.apply(r)
	}
	b.http.get = func(ctx context.Context, t sdk.Target, path string) error {
		b.mu.Lock()
		b.probes[t.ID] = append(b.probes[t.ID], time.Now())
		answer := b.answer
		b.mu.Unlock()
		return answer(ctx, t.ID)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.http.Check(ctx, b.sets, b.report) }()
	b.stop = func() error { cancel(); return <-done }
	return b
}

func (b *bench) report(h sdk.Health) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	state := map[bool]string{true: "healthy", false: "unhealthy"}[h.Healthy]
	b.reports = append(b.reports, strings.TrimSpace(fmt.Sprintf("%s %s %d v%d %s", h.Target, state, h.Failures, h.Version, h.Reason)))
	return b.refuse
}

func (b *bench) set(ids ...string) {
	b.version++
	set := sdk.TargetSet{Version: b.version}
	for _, id := range ids {
		set.Targets = append(set.Targets, sdk.Target{ID: id, Page: "page", Addr: "worker-" + id})
	}
	b.sets <- set
}

func (b *bench) answers(f func(ctx context.Context, id string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = f
}

// wait lets time pass, and compares all reports so far.
func (b *bench) wait(d time.Duration, want ...string) {
	b.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	got := slices.Clone(b.reports)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.t.Errorf("reports are %q, want %q", got, want)
	}
}

func (b *bench) count(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.probes[id])
}

func bad(context.Context, string) error  { return errors.New("bad") }
func good(context.Context, string) error { return nil }

func hang(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }

func TestReportsFirstStateAndChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.set("a")
		b.wait(firstWithin, "a healthy 0 v1")
		b.wait(10*time.Minute, "a healthy 0 v1")
		if n := b.count("a"); n != 21 {
			t.Errorf("%d probes in 10 minutes, want 21", n)
		}
		b.answers(bad)
		b.wait(60*time.Second, "a healthy 0 v1") // two failures
		b.answers(good)
		b.wait(30*time.Second, "a healthy 0 v1")
		b.answers(bad)
		b.wait(60*time.Second, "a healthy 0 v1") // they count anew
		b.wait(30*time.Second, "a healthy 0 v1", "a unhealthy 3 v1 bad")
		b.wait(10*time.Minute, "a healthy 0 v1", "a unhealthy 3 v1 bad")
		b.answers(good)
		b.wait(30*time.Second, "a healthy 0 v1", "a unhealthy 3 v1 bad", "a healthy 0 v1")
		if err := b.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Check = %v", err)
		}
	})
}

func TestFirstStateMayBeUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(r *rule) { r.successes = 2 })
		b.answers(bad)
		b.set("a")
		b.wait(59 * time.Second)
		b.wait(3*time.Second, "a unhealthy 3 v1 bad")
		b.answers(good)
		b.wait(30*time.Second, "a unhealthy 3 v1 bad")
		b.wait(30*time.Second, "a unhealthy 3 v1 bad", "a healthy 0 v1")
		_ = b.stop()
	})
}

func TestTargetThatStaysKeepsItsCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.answers(bad)
		b.set("a")
		b.wait(firstWithin + 30*time.Second) // two failures
		b.set("a", "b")
		b.wait(30*time.Second, "a unhealthy 3 v2 bad")
		b.set("b")
		b.wait(firstWithin+30*time.Second, "a unhealthy 3 v2 bad", "b unhealthy 3 v3 bad")
		n := b.count("a")
		b.wait(10*time.Minute, "a unhealthy 3 v2 bad", "b unhealthy 3 v3 bad")
		if b.count("a") != n {
			t.Error("a target that left is probed")
		}
		b.set("a", "b") // a is new
		b.wait(firstWithin+30*time.Second, "a unhealthy 3 v2 bad", "b unhealthy 3 v3 bad")
		b.wait(30*time.Second, "a unhealthy 3 v2 bad", "b unhealthy 3 v3 bad", "a unhealthy 3 v4 bad")
		_ = b.stop()
	})
}

func TestProbeOfTargetThatLeavesIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(r *rule) { r.timeout = time.Hour })
		ended := make(chan struct{})
		b.answers(func(ctx context.Context, id string) error { defer close(ended); return hang(ctx, id) })
		b.set("a")
		b.wait(firstWithin)
		b.set()
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("the probe goes on")
		}
		b.wait(time.Hour)
		_ = b.stop()
	})
}

func TestHungWorkersDelayNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.answers(func(ctx context.Context, id string) error {
			if id != "good" {
				return hang(ctx, id)
			}
			return nil
		})
		ids := []string{"good"}
		var want []string
		for i := range atOnce - 1 {
			ids = append(ids, fmt.Sprint(i))
			want = append(want, fmt.Sprint(i)+" unhealthy 3 v1 no answer to GET /health within 5s")
		}
		b.set(ids...)
		b.wait(firstWithin, "good healthy 0 v1")
		b.wait(70*time.Second, append(want, "good healthy 0 v1")...)
		if n := b.count("good"); n != 3 {
			t.Errorf("%d probes of the good one, want 3", n)
		}
		_ = b.stop()
	})
}

func TestFirstProbesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		var ids []string
		for i := range 100 {
			ids = append(ids, fmt.Sprint(i))
		}
		start := time.Now()
		b.set(ids...)
		time.Sleep(firstWithin)
		synctest.Wait()
		early, late := 0, 0
		for _, id := range ids {
			if b.count(id) != 1 {
				t.Fatalf("%d probes of %s", b.count(id), id)
			}
			if b.probes[id][0].Sub(start) < firstWithin/2 {
				early++
			} else {
				late++
			}
		}
		if early < 10 || late < 10 {
			t.Errorf("%d probes in the first second, %d in the next", early, late)
		}
		_ = b.stop()
	})
}

func TestMoreTargetsThanSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		var mu sync.Mutex
		now, most := 0, 0
		b.answers(func(ctx context.Context, id string) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			err := hang(ctx, id)
			mu.Lock()
			now--
			mu.Unlock()
			return err
		})
		var ids []string
		for i := range 3 * atOnce {
			ids = append(ids, fmt.Sprint(i))
		}
		b.set(ids...)
		time.Sleep(time.Minute)
		synctest.Wait()
		if most != atOnce {
			t.Errorf("%d probes at once, want %d", most, atOnce)
		}
		_ = b.stop()
	})
}

func TestConfigurationAppliesFromTheNextProbeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.set("a")
		b.wait(firstWithin, "a healthy 0 v1")
		if err := b.http.Configure(t.Context(), HTTPConfig{Path: "/", IntervalMS: 1000, TimeoutMS: 10, Failures: 1, Successes: 1}); err != nil {
			t.Fatal(err)
		}
		b.answers(hang)
		b.wait(30*time.Second, "a healthy 0 v1", "a unhealthy 1 v1 no answer to GET / within 10ms")
		n := b.count("a")
		b.wait(10*time.Second, "a healthy 0 v1", "a unhealthy 1 v1 no answer to GET / within 10ms")
		if got := b.count("a") - n; got != 10 {
			t.Errorf("%d probes in 10 s, want 10", got)
		}
		_ = b.stop()
	})
}

func TestCheckEndsWhenAReportIsRefusedOrSetsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.refuse = errors.New("gone")
		b.set("a", "b")
		time.Sleep(firstWithin)
		synctest.Wait()
		if err := b.stop(); err == nil || err.Error() != "gone" {
			t.Errorf("Check = %v", err)
		}
		b = newBench(t, nil)
		b.set("a")
		close(b.sets)
		synctest.Wait()
		if err := b.stop(); err != nil {
			t.Errorf("Check = %v", err)
		}
	})
}

func TestValidate(t *testing.T) {
	for path, ok := range map[string]bool{"/health": true, "/a?b=c": true, "health": false, "": false, "/a b": false, "/\r\nX: y": false} {
		if err := (HTTPConfig{Path: path}).Validate(); (err == nil) != ok {
			t.Errorf("path %q: %v", path, err)
		}
	}
}

func TestProbe(t *testing.T) {
	release := make(chan struct{})
	requests := make(chan *http.Request, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/500":
			w.WriteHeader(500)
		case "/redirect":
			http.Redirect(w, r, "/health", http.StatusFound)
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/hang":
			<-release
		case "/cut":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		}
	}))
	defer server.Close()
	defer close(release)
	target := sdk.Target{Addr: server.Listener.Addr().String()}
	for path, want := range map[string]string{"/health": "", "/204": "", "/endless": "", "/500": "GET /500 answered 500 Internal Server Error",
		"/redirect": "GET /redirect answered 302 Found", "/hang": "context deadline exceeded", "/cut": "EOF"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if path == "/hang" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		}
		err := NewHTTP().get(ctx, target, path)
		cancel()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if r := <-requests; !r.Close || r.Method != "GET" {
			t.Errorf("%s: %s with close %v", path, r.Method, r.Close)
		}
	}
	if len(requests) != 0 {
		t.Error("a redirect is followed")
	}
}

func TestProbeOfNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = NewHTTP().get(t.Context(), sdk.Target{Addr: l.Addr().String()}, "/health")
	if err == nil || !strings.HasPrefix(err.Error(), "GET /health: dial tcp 127.0.0.1:") || !strings.HasSuffix(err.Error(), "connection refused") {
		t.Errorf("error is %v", err)
	}
}

// The whole way: a real worker that becomes ill and well again.
func TestCheckOfARealServer(t *testing.T) {
	var mu sync.Mutex
	status := 200
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(status)
	}))
	defer server.Close()
	h := NewHTTP()
	if err := h.Configure(t.Context(), HTTPConfig{Path: "/health", IntervalMS: 10, TimeoutMS: 5000, Failures: 3, Successes: 1}); err != nil {
		t.Fatal(err)
	}
	sets, reports := make(chan sdk.TargetSet, 1), make(chan sdk.Health, 10)
	sets <- sdk.TargetSet{Version: 1, Targets: []sdk.Target{{ID: "w1", Addr: server.Listener.Addr().String()}}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- h.Check(ctx, sets, func(h sdk.Health) error { reports <- h; return nil })
	}()
	for _, step := range []struct {
		status int
		want   bool
	}{{200, true}, {503, false}, {200, true}} {
		mu.Lock()
		status = step.status
		mu.Unlock()
		select {
		case got := <-reports:
			if got.Healthy != step.want || !got.Healthy && got.Failures != 3 {
				t.Errorf("with status %d: %+v", step.status, got)
			}
		case err := <-done:
			t.Fatal(err)
		}
	}
	cancel()
	<-done
}
