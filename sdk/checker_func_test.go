package sdk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// checkRig runs a CheckerFunc against targets that are functions, on the clock of a synctest bubble.
type checkRig struct {
	t       *testing.T
	plugin  *plugin
	sets    chan TargetSet
	version uint64
	stop    func() error

	mu      sync.Mutex
	answer  func(ctx context.Context, id string) error
	probes  map[string][]time.Time
	reports []string
	refuse  error
}

func newCheckRig(t *testing.T, config string) *checkRig {
	b := &checkRig{t: t, sets: make(chan TargetSet), probes: map[string][]time.Time{}, answer: goodProbe}
	checker := CheckerFunc(b.probe)
	b.plugin = newPlugin("test", "1", checker)
	if err := b.plugin.configure(t.Context(), []byte(config)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- checker.Check(ctx, b.sets, b.report) }()
	b.stop = func() error { cancel(); return <-done }
	return b
}

func (b *checkRig) probe(ctx context.Context, _ struct{}, t Target) error {
	b.mu.Lock()
	b.probes[t.ID] = append(b.probes[t.ID], time.Now())
	answer := b.answer
	b.mu.Unlock()
	return answer(ctx, t.ID)
}

func (b *checkRig) report(h Health) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	state := map[bool]string{true: "healthy", false: "unhealthy"}[h.Healthy]
	b.reports = append(b.reports, strings.TrimSpace(fmt.Sprintf("%s %s %d v%d %s", h.Target, state, h.Failures, h.Version, h.Reason)))
	return b.refuse
}

func (b *checkRig) set(ids ...string) {
	b.version++
	set := TargetSet{Version: b.version}
	for _, id := range ids {
		set.Targets = append(set.Targets, Target{ID: id, Page: "page", Addr: "worker-" + id})
	}
	b.sets <- set
}

func (b *checkRig) answers(f func(ctx context.Context, id string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = f
}

// wait lets time pass, and compares all reports so far.
func (b *checkRig) wait(d time.Duration, want ...string) {
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

func (b *checkRig) count(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.probes[id])
}

func badProbe(context.Context, string) error  { return errors.New("bad") }
func goodProbe(context.Context, string) error { return nil }

func hungProbe(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }

func TestCheckerFuncReportsFirstStateAndChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{}`)
		b.set("a")
		b.wait(firstWithin, "a healthy 0 v1")
		b.wait(10*time.Minute, "a healthy 0 v1")
		if n := b.count("a"); n != 21 {
			t.Errorf("%d probes in 10 minutes, want 21", n)
		}
		b.answers(badProbe)
		b.wait(60*time.Second, "a healthy 0 v1") // two failures
		b.answers(goodProbe)
		b.wait(30*time.Second, "a healthy 0 v1")
		b.answers(badProbe)
		b.wait(60*time.Second, "a healthy 0 v1") // they count anew
		b.wait(30*time.Second, "a healthy 0 v1", "a unhealthy 3 v1 bad")
		b.wait(10*time.Minute, "a healthy 0 v1", "a unhealthy 3 v1 bad")
		b.answers(goodProbe)
		b.wait(30*time.Second, "a healthy 0 v1", "a unhealthy 3 v1 bad", "a healthy 0 v1")
		if err := b.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Check = %v", err)
		}
	})
}

func TestCheckerFuncMayReportUnhealthyFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{"successes":2}`)
		b.answers(badProbe)
		b.set("a")
		b.wait(59 * time.Second)
		b.wait(3*time.Second, "a unhealthy 3 v1 bad")
		b.answers(goodProbe)
		b.wait(30*time.Second, "a unhealthy 3 v1 bad")
		b.wait(30*time.Second, "a unhealthy 3 v1 bad", "a healthy 0 v1")
		_ = b.stop()
	})
}

func TestCheckerFuncKeepsTheCountsOfATargetThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{}`)
		b.answers(badProbe)
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

func TestCheckerFuncCancelsTheProbeOfATargetThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{"timeout_ms":3600000}`)
		ended := make(chan struct{})
		b.answers(func(ctx context.Context, id string) error { defer close(ended); return hungProbe(ctx, id) })
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

func TestCheckerFuncIsNotDelayedByHungTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{}`)
		b.answers(func(ctx context.Context, id string) error {
			if id != "good" {
				return hungProbe(ctx, id)
			}
			return nil
		})
		ids := []string{"good"}
		var want []string
		for i := range probesAtOnce - 1 {
			ids = append(ids, fmt.Sprint(i))
			want = append(want, fmt.Sprint(i)+" unhealthy 3 v1 no answer within 5s")
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

func TestCheckerFuncSpreadsFirstProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{}`)
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

func TestCheckerFuncTakesMoreTargetsThanSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{}`)
		var mu sync.Mutex
		now, most := 0, 0
		b.answers(func(ctx context.Context, id string) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			err := hungProbe(ctx, id)
			mu.Lock()
			now--
			mu.Unlock()
			return err
		})
		var ids []string
		for i := range 3 * probesAtOnce {
			ids = append(ids, fmt.Sprint(i))
		}
		b.set(ids...)
		time.Sleep(time.Minute)
		synctest.Wait()
		if most != probesAtOnce {
			t.Errorf("%d probes at once, want %d", most, probesAtOnce)
		}
		_ = b.stop()
	})
}

func TestCheckerFuncAppliesAConfigurationFromTheNextProbeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{}`)
		b.set("a")
		b.wait(firstWithin, "a healthy 0 v1")
		if err := b.plugin.configure(t.Context(), []byte(`{"interval_ms":1000,"timeout_ms":10,"failures":1}`)); err != nil {
			t.Fatal(err)
		}
		b.answers(hungProbe)
		b.wait(30*time.Second, "a healthy 0 v1", "a unhealthy 1 v1 no answer within 10ms")
		n := b.count("a")
		b.wait(10*time.Second, "a healthy 0 v1", "a unhealthy 1 v1 no answer within 10ms")
		if got := b.count("a") - n; got != 10 {
			t.Errorf("%d probes in 10 s, want 10", got)
		}
		_ = b.stop()
	})
}

func TestCheckerFuncEndsWhenAReportIsRefusedOrSetsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{}`)
		b.refuse = errors.New("gone")
		b.set("a", "b")
		time.Sleep(firstWithin)
		synctest.Wait()
		if err := b.stop(); err == nil || err.Error() != "gone" {
			t.Errorf("Check = %v", err)
		}
		b = newCheckRig(t, `{}`)
		b.set("a")
		close(b.sets)
		synctest.Wait()
		if err := b.stop(); err != nil {
			t.Errorf("Check = %v", err)
		}
	})
}

func TestCheckerFuncTakesAnotherAddressForAnotherTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{}`)
		b.sets <- TargetSet{Version: 1, Targets: []Target{{ID: "a", Addr: "1"}}}
		b.wait(firstWithin, "a healthy 0 v1")
		b.sets <- TargetSet{Version: 2, Targets: []Target{{ID: "a", Addr: "2"}}}
		b.wait(firstWithin, "a healthy 0 v1", "a healthy 0 v2")
		n := b.count("a")
		b.wait(10*time.Minute, "a healthy 0 v1", "a healthy 0 v2")
		if got := b.count("a") - n; got != 20 {
			t.Errorf("%d probes in 10 minutes, want 20: only the new one is probed", got)
		}
		_ = b.stop()
	})
}

func TestCheckerFuncTakesAPanicAsAFailedProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{"interval_ms":1000}`)
		b.answers(func(context.Context, string) error { panic("boom") })
		b.set("a")
		b.wait(3*time.Second, "a unhealthy 3 v1 panic: boom")
		b.answers(goodProbe)
		b.wait(time.Second, "a unhealthy 3 v1 panic: boom", "a healthy 0 v1")
		_ = b.stop()
	})
}

func TestCheckerFuncTellsAProbeWhyItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCheckRig(t, `{"failures":1}`)
		b.answers(func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return fmt.Errorf("GET /: %w", context.Cause(ctx))
		})
		b.set("a")
		b.wait(time.Minute, "a unhealthy 1 v1 GET /: no answer within 5s")
		_ = b.stop()
	})
}

func TestCheckerFuncHasTheKeysOfProbingBesideItsOwn(t *testing.T) {
	p := newPlugin("test", "1", CheckerFunc(func(context.Context, suffix, Target) error { return nil }))
	if want := []string{"suffix", "interval_ms", "timeout_ms", "failures", "successes"}; !slices.Equal(p.schema.Names(), want) {
		t.Errorf("keys %q, want %q", p.schema.Names(), want)
	}
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), `two fields are called "failures"`) {
			t.Errorf("a key of its own that Probing has: %v", r)
		}
	}()
	CheckerFunc(func(context.Context, struct {
		N int `tq:"failures"`
	}, Target) error {
		return nil
	})
}
