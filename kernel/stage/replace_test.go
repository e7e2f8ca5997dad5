package stage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/sdk"
)

// variant is a spec that needs a process of its own, whose jobs answer with greeting.
func variant(mode, greeting string) Spec {
	s := fakeSpec("builder", mode, `{"greeting":"`+greeting+`"}`)
	s.Name = "./" + greeting
	s.Env = append(s.Env, "VARIANT="+greeting)
	return s
}

// callers build without a pause until stop, which gives how often each variant answered and fails on an error.
func (b *bench) callers(s *Supervisor, n int) (answers func() map[string]int, stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	var work sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for range n {
		work.Go(func() {
			for ctx.Err() == nil {
				r, err := b.build(s, sdk.Job{}, nil)
				if err != nil {
					b.Errorf("a call failed: %v", err)
					return
				}
				mu.Lock()
				seen[r.Release]++
				mu.Unlock()
			}
		})
	}
	answers = func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		all := map[string]int{}
		for k, v := range seen {
			all[k] = v
		}
		return all
	}
	return answers, func() { cancel(); work.Wait() }
}

func TestReplacedUnderCallsWithoutAFailure(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.StopTimeout = 10 * time.Second
	s, _ := b.run(variant("good", "one"))
	b.pid(s)
	answers, stop := b.callers(s, 4)
	defer stop()
	for i, greeting := range []string{"two", "three", "two"} {
		before := answers()[greeting]
		tried := 0
		err := s.Replace(t.Context(), variant("good", greeting), Replacement{Trial: func(ctx context.Context, conn *grpc.ClientConn) error {
			tried++
			r, err := sdk.NewBuilder(conn).Build(ctx, sdk.Job{}, func(sdk.Event) {})
			if err == nil && r.Release != greeting {
				err = fmt.Errorf("the trial is on %s", r.Release)
			}
			return err
		}})
		if err != nil || tried != 1 {
			t.Fatalf("replacement %d: %v, %d trials", i, err, tried)
		}
		b.eventually(10*time.Second, greeting, func() bool { return answers()[greeting] > before })
	}
	if st := s.Status(); st.Restarts != 0 || st.Name != "./two" {
		t.Errorf("status %+v", st)
	}
}

func TestFreshReplacementOfTheSame(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Probation = time.Hour
	s, _ := b.run(variant("good", "one"))
	first := b.pid(s)
	if err := s.Replace(t.Context(), variant("good", "one"), Replacement{Fresh: true}); err != nil {
		t.Fatal(err)
	}
	second := b.pid(s)
	if st := s.Status(); second == first || !st.Probation.IsZero() {
		t.Errorf("process %d, was %d, status %+v", second, first, st)
	}
	if err := s.Replace(t.Context(), variant("good", "one"), Replacement{}); err != nil || b.pid(s) != second {
		t.Errorf("without a wish for another: %v", err)
	}
}

// A file that was moved is the same plugin, under another name.
func TestRenamedPluginRunsOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(variant("good", "one"))
	before := b.pid(s)
	moved := variant("good", "one")
	moved.Name = "./moved"
	if err := s.Replace(t.Context(), moved, Replacement{}); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.Name != "./moved" || st.PID != before {
		t.Errorf("status %+v, process %d before", st, before)
	}
}

func TestRefusedByItsTrial(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Probation = time.Hour
	b.options.Limits.RPCTimeout = 4 * time.Second
	s, _ := b.run(variant("good", "one"))
	first := b.pid(s)
	refused := errors.New("half of it is missing")
	for name, c := range map[string]struct {
		trial func(ctx context.Context, conn *grpc.ClientConn) error
		want  string
	}{
		"its answer": {func(context.Context, *grpc.ClientConn) error { return refused }, "builder plugin ./two: trial: half of it is missing"},
		"too slow":   {func(ctx context.Context, _ *grpc.ClientConn) error { <-ctx.Done(); return ctx.Err() }, "trial: no answer within 4s"},
		"its end": {func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := sdk.NewBuilder(conn).Build(ctx, sdk.Job{Page: "exit"}, func(sdk.Event) {})
			return err
		}, "trial: exited with status 5"},
		"its end when it has passed": {func(ctx context.Context, conn *grpc.ClientConn) error {
			_, _ = sdk.NewBuilder(conn).Build(ctx, sdk.Job{Page: "exit"}, func(sdk.Event) {})
			return nil
		}, "trial: exited with status 5"},
	} {
		err := s.Replace(t.Context(), variant("good", "two"), Replacement{Trial: c.trial})
		var e *Error
		if !errors.As(err, &e) || e.Step != "trial" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "its answer" && !errors.Is(err, refused) {
			t.Errorf("%s: the cause is lost", name)
		}
	}
	if st := s.Status(); b.pid(s) != first || !st.Probation.IsZero() || st.Note != "" {
		t.Errorf("status %+v", st)
	}
	if err := s.Replace(t.Context(), variant("good", "two"), Replacement{}); err != nil {
		t.Errorf("a trial that failed marks nothing as bad: %v", err)
	}
	if got := s.Status().Fallback; got != "./one" {
		t.Errorf("fallback %q", got)
	}
}

func TestFailureOnProbationBringsTheOldBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Probation = time.Hour
	b.options.Limits.Restart.Initial, b.options.Limits.Restart.Max = time.Hour, time.Hour // to go back is no restart
	s, _ := b.run(variant("good", "one"))
	b.pid(s)
	if err := s.Replace(t.Context(), variant("good", "two"), Replacement{}); err != nil {
		t.Fatal(err)
	}
	st := s.Status()
	if until := time.Until(st.Probation); until < 50*time.Minute || st.Fallback != "./one" || st.Name != "./two" {
		t.Errorf("status %+v", st)
	}
	if got := names(s.Specs()); !slices.Equal(got, []string{"./two", "./one"}) {
		t.Errorf("may start %q", got)
	}
	if err := s.Replace(t.Context(), withConfig(variant("good", "two"), `{"greeting":"two","times":2}`), Replacement{}); err != nil {
		t.Fatal(err)
	}
	if got := b.mustBuild(s, sdk.Job{}); got.Release != "two" || got.Artifact != "2" {
		t.Errorf("configured in place: %+v", got)
	}
	if _, err := b.build(s, sdk.Job{Page: "exit"}, nil); err == nil {
		t.Fatal("it did not exit")
	}
	if got := b.mustBuild(s, sdk.Job{}).Release; got != "one" {
		t.Errorf("%s serves", got)
	}
	st = s.Status()
	if st.State != Running || st.Name != "./one" || !st.Probation.IsZero() || !strings.HasPrefix(st.Note, "went back to ./one because ./two failed on probation: ") || !strings.Contains(st.Note, "exited with status 5") {
		t.Errorf("status %+v", st)
	}
	b.logged("[ERROR]", "builder: the replacement failed on probation", "plugin=./two", "back_to=./one")
	b.logged("exited with status 5")
	b.logged("hint=", "tqserver plugin reload builder --force")

	bad := withConfig(variant("good", "two"), `{"greeting":"two","times":2}`)
	pid := b.pid(s)
	if err := s.Replace(t.Context(), bad, Replacement{}); err == nil || !strings.Contains(err.Error(), "is not tried again as it is") || b.pid(s) != pid {
		t.Errorf("the same again: %v", err)
	}
	if err := s.Replace(t.Context(), bad, Replacement{Force: true}); err != nil {
		t.Errorf("by force: %v", err)
	}
	if st := s.Status(); st.Note != "" || st.Fallback != "./one" {
		t.Errorf("status %+v", st)
	}
}

func withConfig(s Spec, config string) Spec { s.Config = []byte(config); return s }

func names(specs []Spec) (all []string) {
	for _, s := range specs {
		all = append(all, s.Name)
	}
	return all
}

func TestProbationPasses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Probation = 50 * time.Millisecond
	s, _ := b.run(variant("good", "one"))
	b.pid(s)
	if err := s.Replace(t.Context(), variant("good", "two"), Replacement{}); err != nil {
		t.Fatal(err)
	}
	b.logged("passed its probation", "plugin=./two")
	if st := s.Status(); st.Fallback != "" || !st.Probation.IsZero() {
		t.Errorf("status %+v", st)
	}
	pid := b.pid(s)
	syscall.Kill(pid, syscall.SIGKILL)
	b.eventually(5*time.Second, "a restart", func() bool { st := s.Status(); return st.State == Running && st.PID != pid })
	if got := b.mustBuild(s, sdk.Job{}).Release; got != "two" || s.Status().Note != "" {
		t.Errorf("%s serves, status %+v", got, s.Status())
	}
	if got := names(s.Specs()); !slices.Equal(got, []string{"./two"}) {
		t.Errorf("may start %q", got)
	}
}

func TestMissedHeartbeatsAndEndedStreamsFailAProbation(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(b *bench, s *Supervisor, pid int){
		"heartbeats": func(b *bench, _ *Supervisor, pid int) { b.freeze(pid) },
		"stream": func(b *bench, s *Supervisor, _ int) {
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error)
			go func() {
				done <- s.Session(ctx, func(ctx context.Context, _ *grpc.ClientConn) error {
					if s.Status().Name == "./two" {
						return errors.New("its table is refused")
					}
					<-ctx.Done()
					return ctx.Err()
				})
			}()
			b.Cleanup(func() { cancel(); <-done })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.options.Limits.Probation = time.Hour
			b.pulse = pulse{period: 50 * time.Millisecond, limit: 500 * time.Millisecond, misses: 3}
			s, _ := b.run(variant("good", "one"))
			b.pid(s)
			if err := s.Replace(t.Context(), variant("good", "two"), Replacement{}); err != nil {
				t.Fatal(err)
			}
			spoil(b, s, s.Status().PID)
			b.eventually(20*time.Second, "the old one", func() bool { st := s.Status(); return st.State == Running && st.Name == "./one" && st.Note != "" })
		})
	}
}

// A plugin that does not work is nothing to go back to.
func TestReplacementOfADegradedPluginIsNotOnProbation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Probation = time.Hour
	s, _ := b.run(variant("good", "one"))
	for b.pid(s); s.Status().State != Degraded; {
		if st := s.Status(); st.State == Running {
			syscall.Kill(st.PID, syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond) // another process's end, of which no word comes before the state does
	}
	if err := s.Replace(t.Context(), variant("good", "two"), Replacement{}); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != Running || !st.Probation.IsZero() {
		t.Errorf("status %+v", st)
	}
}

// One that crashed once is in backoff, but has served.
func TestReplacementDuringBackoffIsOnProbation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Probation = time.Hour
	b.options.Limits.Restart.Initial, b.options.Limits.Restart.Max = time.Hour, time.Hour
	s, _ := b.run(variant("good", "one"))
	syscall.Kill(b.pid(s), syscall.SIGKILL)
	b.eventually(5*time.Second, "backoff", func() bool { return s.Status().State == Backoff })
	if err := s.Replace(t.Context(), variant("good", "two"), Replacement{}); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(b.pid(s), syscall.SIGKILL)
	b.eventually(10*time.Second, "the old one", func() bool { st := s.Status(); return st.State == Running && st.Name == "./one" })
}

func TestBackToTheOldOneEndsTheProbation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Probation = time.Hour
	s, _ := b.run(variant("good", "one"))
	b.pid(s)
	for _, next := range []string{"two", "one"} {
		if err := s.Replace(t.Context(), variant("good", next), Replacement{}); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Status(); st.Name != "./one" || !st.Probation.IsZero() {
		t.Errorf("status %+v", st)
	}
	if err := s.Replace(t.Context(), variant("good", "two"), Replacement{}); err != nil {
		t.Errorf("what was taken back is not bad: %v", err)
	}
}

func TestExclusivePluginIsStoppedFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Probation = time.Hour
	lock := filepath.Join(t.TempDir(), "lock")
	spec := func(mode, greeting string) Spec {
		v := variant(mode, greeting)
		v.Env = append(v.Env, "LOCK="+lock)
		return v
	}
	s, _ := b.run(spec("good", "one"))
	first := b.pid(s)
	if err := s.Replace(t.Context(), spec("exclusive", "two"), Replacement{}); err != nil {
		t.Fatal(err)
	}
	b.gone(time.Second, first) // the new one declared it
	if err := s.Replace(t.Context(), spec("exclusive", "three"), Replacement{}); err != nil {
		t.Fatal(err)
	}
	if got := b.mustBuild(s, sdk.Job{}).Release; got != "three" {
		t.Errorf("%s serves", got)
	}
	before := b.pid(s)
	if err := s.Replace(t.Context(), spec("configure-crash", "four"), Replacement{}); err == nil || !strings.Contains(err.Error(), "exited with status 7") {
		t.Errorf("a bad one: %v", err)
	}
	if got := b.mustBuild(s, sdk.Job{}).Release; got != "three" || b.pid(s) == before {
		t.Errorf("%s serves, in process %d, was %d", got, b.pid(s), before)
	}
	syscall.Kill(b.pid(s), syscall.SIGKILL)
	b.eventually(10*time.Second, "the one before", func() bool { return s.Status().Note != "" })
	if got := b.mustBuild(s, sdk.Job{}).Release; got != "one" {
		t.Errorf("%s serves", got)
	}
}

func TestStopDuringAnExclusiveReplacement(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	v := variant("exclusive", "one")
	v.Env = append(v.Env, "LOCK="+filepath.Join(t.TempDir(), "lock"))
	s, stop := b.run(v)
	old := b.pid(s)
	done := make(chan error, 1)
	go func() { done <- s.Replace(t.Context(), variant("mute", "two"), Replacement{}) }()
	b.gone(10*time.Second, old)
	stop()
	if err := <-done; !errors.Is(err, ErrStopped) {
		t.Errorf("Replace: %v", err)
	}
}

func TestLogLevelReachesARunningPlugin(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pulse = pulse{period: 20 * time.Millisecond, limit: 5 * time.Second, misses: 3}
	root := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: b.log, Level: hclog.Warn})
	b.options.Log = root
	s, _ := b.run(fakeSpec("builder", "good", ""))
	b.mustBuild(s, sdk.Job{Page: "levels"})
	b.logged("said at warn")
	root.SetLevel(hclog.Debug)
	b.eventually(10*time.Second, "a debug line", func() bool {
		b.mustBuild(s, sdk.Job{Page: "levels"})
		return strings.Contains(b.log.String(), "said at debug")
	})
	if log := b.log.String(); strings.Contains(log, "said at trace") || s.Status().Restarts != 0 {
		t.Errorf("log:\n%s", log)
	}
}

func TestIdentityTellsFilesApart(t *testing.T) {
	if got := (&Spec{Name: "x", SHA256: strings.Repeat("ab", 32)}).identity(); got != "x (abababababab)" {
		t.Errorf("a custom plugin: %q", got)
	}
	if got := (&Spec{Name: "builtin:x"}).identity(); got != "builtin:x" {
		t.Errorf("a built-in one: %q", got)
	}
}
