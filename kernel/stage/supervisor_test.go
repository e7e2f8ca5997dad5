package stage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/sdk"
)

func TestKilledPluginIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, stop := b.run(fakeSpec("builder", "good", `{"greeting":"moin"}`))
	before := b.pid(s)
	if got := s.Status(); got.State != Running || got.PID != before || got.Version != "1.2.3" || got.Restarts != 0 {
		t.Errorf("status %+v", got)
	}
	syscall.Kill(before, syscall.SIGKILL)
	b.eventually(5*time.Second, "a new process", func() bool { st := s.Status(); return st.State == Running && st.PID != before })
	if got := b.mustBuild(s, sdk.Job{}).Release; got != "moin" {
		t.Errorf("configuration after the restart: %q", got)
	}
	if got := s.Status(); got.Restarts != 1 || !strings.Contains(got.LastError, "ended by a signal (killed)") {
		t.Errorf("status %+v", got)
	}
	after := s.Status().PID
	stop()
	b.gone(time.Second, after)
	if want := []string{Starting, Running, Backoff, Starting, Running, Stopping, Stopped}; !slices.Equal(b.states.names(), want) {
		t.Errorf("states %q, want %q", b.states.names(), want)
	}
}

func TestCallOnADyingPluginIsGone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(fakeSpec("builder", "good", ""))
	_, err := b.build(s, sdk.Job{Page: "exit"}, nil)
	var gone *GoneError
	if !errors.As(err, &gone) || gone.Stage != "builder" {
		t.Fatalf("got %v", err)
	}
	b.mustBuild(s, sdk.Job{}) // the caller may try again
	if got := s.Status().LastError; !strings.Contains(got, "exited with status 5") || !strings.Contains(got, "fatal: disk on fire") {
		t.Errorf("last error: %s", got)
	}
}

func TestErrorOfAJobIsNoFailureOfThePlugin(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(fakeSpec("builder", "good", ""))
	mine := errors.New("my own")
	if err := s.Do(t.Context(), func(context.Context, *grpc.ClientConn) error { return mine }); err != mine {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := sdk.NewBuilder(conn).Build(ctx, sdk.Job{Page: "wait"}, func(sdk.Event) { cancel() })
		return err
	})
	var gone *GoneError
	if err == nil || errors.As(err, &gone) || s.Status().State != Running || s.Status().Restarts != 0 {
		t.Errorf("got %v, status %+v", err, s.Status())
	}
}

func TestCrashingPluginGetsDegradedAndRetryHelps(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(fakeSpec("builder", "configure-crash", ""))
	b.eventually(15*time.Second, "degraded", func() bool { return s.Status().State == Degraded })
	st := s.Status()
	if st.Restarts != 3 || time.Until(st.NextRetry) < 50*time.Minute || !strings.Contains(st.LastError, "configure: exited with status 7") {
		t.Errorf("status %+v", st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := s.Do(ctx, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "builder plugin builtin:configure-crash, which is degraded") {
		t.Errorf("Do: %v", err)
	}
	s.Retry()
	b.eventually(15*time.Second, "three more tries", func() bool { st := s.Status(); return st.State == Degraded && st.Restarts == 6 })
	if err := s.Reconfigure(t.Context(), fakeSpec("builder", "good", "")); err != nil {
		t.Fatal(err)
	}
	b.mustBuild(s, sdk.Job{})
	if got := s.Status(); got.State != Running || got.Name != "builtin:good" {
		t.Errorf("status %+v", got)
	}
}

// A start that took too long has more time the next time, up to four times as much.
func TestSlowStartGetsMoreTime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.StartTimeout = 20 * time.Millisecond
	s, _ := b.run(fakeSpec("builder", "mute", ""))
	for tries := 3; tries <= 6; tries += 3 {
		b.eventually(15*time.Second, "degraded", func() bool { st := s.Status(); return st.State == Degraded && st.Restarts == tries })
		if err := s.Status().LastError; !strings.Contains(err, "no answer within 80ms") {
			t.Errorf("after %d tries: %s", tries, err)
		}
		s.Retry()
	}
}

func TestWedgedPluginIsReplacedByItsHeartbeat(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pulse = pulse{period: 100 * time.Millisecond, limit: 200 * time.Millisecond, misses: 3}
	s, _ := b.run(fakeSpec("builder", "good", ""))
	before := b.pid(s)
	b.freeze(before)
	b.eventually(5*time.Second, "a new process", func() bool { st := s.Status(); return st.State == Running && st.PID != before })
	if got := s.Status().LastError; !strings.Contains(got, "missed 3 heartbeats in a row") {
		t.Errorf("last error: %s", got)
	}
	b.gone(time.Second, before)
}

func TestStopOfAWedgedPluginIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.StopTimeout = time.Second
	s, stop := b.run(fakeSpec("builder", "good", ""))
	pid := b.pid(s)
	b.freeze(pid)
	before := time.Now()
	stop()
	if took := time.Since(before); took > b.options.Limits.StopTimeout+2*time.Second {
		t.Errorf("took %s", took)
	}
	b.gone(time.Second, pid)
	b.logged("did not stop in order", "step=drain")
}

func TestStopLetsJobsEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.StopTimeout = 10 * time.Second
	s, stop := b.run(fakeSpec("builder", "good", ""))
	file := filepath.Join(t.TempDir(), "go")
	waiting, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := b.build(s, sdk.Job{Page: "wait-for-file", Dir: file}, func(sdk.Event) { close(waiting) })
		done <- err
	}()
	<-waiting
	go func() {
		for s.Status().State != Stopping {
			time.Sleep(time.Millisecond)
		}
		os.WriteFile(file, nil, 0o600)
	}()
	stop()
	if err := <-done; err != nil {
		t.Errorf("job: %v", err)
	}
	if err := s.Do(t.Context(), nil); !errors.Is(err, ErrStopped) {
		t.Errorf("Do after the stop: %v", err)
	}
	if err := s.Session(t.Context(), nil); !errors.Is(err, ErrStopped) {
		t.Errorf("Session after the stop: %v", err)
	}
	if err := s.Reconfigure(t.Context(), fakeSpec("builder", "good", "")); !errors.Is(err, ErrStopped) {
		t.Errorf("Reconfigure after the stop: %v", err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("a second Run")
	}
}

func TestStopDuringLaunchAndBackoff(t *testing.T) {
	t.Parallel()
	for mode, state := range map[string]string{"mute": Starting, "configure-hang": Starting, "configure-crash": Backoff} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.options.Limits.Restart.Initial, b.options.Limits.Restart.Max = time.Hour, time.Hour
			s, stop := b.run(fakeSpec("builder", mode, ""))
			b.eventually(10*time.Second, state, func() bool { return s.Status().State == state })
			before := time.Now()
			stop()
			if took := time.Since(before); took > 2*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// session opens a checker's stream, sends one set, and gives what comes back until the stream ends.
func session(ctx context.Context, conn *grpc.ClientConn, sets <-chan sdk.TargetSet, got chan<- sdk.Health) error {
	in := make(chan sdk.TargetSet, 1)
	in <- sdk.TargetSet{Version: 1, Targets: []sdk.Target{{ID: "first"}}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case s := <-sets:
			in <- s
		case <-ctx.Done():
		}
	}()
	return sdk.NewChecker(conn).Check(ctx, in, func(h sdk.Health) error { got <- h; return nil })
}

func TestSessionIsOpenedOnEachInstance(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(fakeSpec("checker", "good", ""))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sets, got, done := make(chan sdk.TargetSet), make(chan sdk.Health, 10), make(chan error, 1)
	go func() {
		done <- s.Session(ctx, func(ctx context.Context, conn *grpc.ClientConn) error { return session(ctx, conn, sets, got) })
	}()
	next := func() int {
		t.Helper()
		select {
		case h := <-got:
			return h.Failures // the plugin's process id
		case <-time.After(10 * time.Second):
			t.Fatal("no report")
		}
		return 0
	}
	first := next()
	syscall.Kill(first, syscall.SIGKILL)
	second := next()
	sets <- sdk.TargetSet{Version: 2} // makes the plugin end its stream
	third := next()
	if got := s.Status(); got.Restarts != 2 || !strings.Contains(got.LastError, "the plugin ended its stream") {
		t.Errorf("status %+v", got)
	}
	b.gone(time.Second, second)
	other := fakeSpec("checker", "good", "")
	other.Env = append(other.Env, "OTHER=1")
	if err := s.Reconfigure(ctx, other); err != nil {
		t.Fatal(err)
	}
	fourth := next()
	if pids := []int{first, second, third, fourth}; len(slices.Compact(slices.Sorted(slices.Values(pids)))) != 4 {
		t.Errorf("processes %v", pids)
	}
	if got := s.Status(); got.Restarts != 2 {
		t.Errorf("a replacement counts as a restart: %+v", got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("end of the session: %v", err)
	}
	if got := s.Status(); got.State != Running {
		t.Errorf("status %+v", got)
	}
}

func TestReconfigureInPlace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(fakeSpec("builder", "good", `{"greeting":"one"}`))
	pid := b.pid(s)
	if err := s.Reconfigure(t.Context(), fakeSpec("builder", "good", `{"greeting":"two"}`)); err != nil {
		t.Fatal(err)
	}
	if r := b.mustBuild(s, sdk.Job{}); r.Release != "two" || b.pid(s) != pid {
		t.Errorf("greeting %s, process %s, was %d", r.Release, r.SHA256, pid)
	}
	for config, want := range map[string]string{
		`{"greeting":"forbidden"}`: "this greeting is forbidden",
		`{"greeting":"refused"}`:   "configure: rpc error: code = InvalidArgument desc = this greeting is refused",
		`{"greetings":"x"}`:        `unknown key "greetings" (did you mean "greeting"?)`,
	} {
		err := s.Reconfigure(t.Context(), fakeSpec("builder", "good", config))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
	if err := s.Reconfigure(t.Context(), fakeSpec("builder", "good", `{"greeting":"two"}`)); err != nil {
		t.Error(err)
	}
	if r := b.mustBuild(s, sdk.Job{}); r.Release != "two" || r.Artifact != "2" {
		t.Errorf("greeting %s after %s calls of Configure", r.Release, r.Artifact)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	b.eventually(5*time.Second, "a new process", func() bool { st := s.Status(); return st.State == Running && st.PID != pid })
	if got := b.mustBuild(s, sdk.Job{}).Release; got != "two" {
		t.Errorf("greeting after a restart: %s", got)
	}
}

func TestReconfigureWithAnotherExecutable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.StopTimeout = 10 * time.Second
	s, _ := b.run(fakeSpec("builder", "good", ""))
	old := b.pid(s)
	if err := s.Reconfigure(t.Context(), fakeSpec("builder", "exit", "")); err == nil || !strings.Contains(err.Error(), "exited with status 3") {
		t.Errorf("bad plugin: %v", err)
	}
	if b.pid(s) != old {
		t.Error("a refused plugin had an effect")
	}
	file := filepath.Join(t.TempDir(), "go")
	waiting, done := make(chan struct{}), make(chan error, 1)
	go func() {
		r, err := b.build(s, sdk.Job{Page: "wait-for-file", Dir: file}, func(sdk.Event) { close(waiting) })
		if err == nil && r.Release != "hello" {
			err = errors.New("the job ran on " + r.Release)
		}
		done <- err
	}()
	<-waiting
	other := fakeSpec("builder", "good", `{"greeting":"other"}`)
	other.Env = append(other.Env, "OTHER=1")
	if err := s.Reconfigure(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if got := b.mustBuild(s, sdk.Job{}).Release; got != "other" {
		t.Errorf("new jobs run on %s", got)
	}
	os.WriteFile(file, nil, 0o600)
	if err := <-done; err != nil {
		t.Errorf("job on the old one: %v", err)
	}
	b.gone(5*time.Second, old)
}

func TestReconfigureBeforeRunAndWhileStarting(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := New(fakeSpec("builder", "exit", ""), b.options)
	if err := s.Reconfigure(t.Context(), fakeSpec("builder", "mute", "")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.eventually(5*time.Second, "starting", func() bool { return s.Status().State == Starting })
	if err := s.Reconfigure(t.Context(), fakeSpec("builder", "good", "")); err != nil {
		t.Fatal(err)
	}
	b.mustBuild(s, sdk.Job{})
	late := make(chan error, 1)
	go func() { late <- s.Reconfigure(t.Context(), fakeSpec("builder", "configure-hang", "")) }()
	b.eventually(5*time.Second, "a second process", func() bool { e, _ := os.ReadDir(b.options.RuntimeDir); return len(e) == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-late; !errors.Is(err, ErrStopped) {
		t.Errorf("Reconfigure during the stop: %v", err)
	}
}

func TestValidateLeavesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := Validate(t.Context(), fakeSpec("builder", "configure-crash", ""), b.options); err != nil { // it must not be configured
		t.Error(err)
	}
	err := Validate(t.Context(), fakeSpec("builder", "good", `{"times":99}`), b.options)
	if err == nil || !strings.Contains(err.Error(), "plugins.builder.config.times: want at most 9, got 99") {
		t.Errorf("got %v", err)
	}
}

func TestStopWhileTheOldInstanceDrains(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, stop := b.run(fakeSpec("builder", "good", ""))
	old := b.pid(s)
	waiting, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := b.build(s, sdk.Job{Page: "wait"}, func(sdk.Event) { close(waiting) })
		done <- err
	}()
	<-waiting
	other := fakeSpec("builder", "good", "")
	other.Env = append(other.Env, "OTHER=1")
	if err := s.Reconfigure(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	b.eventually(5*time.Second, "the new one to serve", func() bool { st := s.Status(); return st.State == Running && st.PID != old })
	next := s.Status().PID
	stop()
	b.gone(time.Second, old)
	b.gone(time.Second, next)
	var gone *GoneError
	if err := <-done; !errors.As(err, &gone) {
		t.Errorf("the job that did not end: %v", err)
	}
}

func TestInstanceWithAnOldConfigurationIsNotPublished(t *testing.T) {
	b := newBench(t)
	s := New(fakeSpec("builder", "good", ""), b.options)
	spec := fakeSpec("builder", "good", "")
	inst := newInstance(&spec, b.options)
	defer inst.fail(nil)
	if s.publish(inst) || s.current != nil || len(b.states.names()) > 0 {
		t.Error("it was published")
	}
	s.adopt(inst)
	if !s.publish(inst) || s.current != inst {
		t.Error("an adopted instance was not published")
	}
}

func TestRunWaitsForALaunchUnderWay(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Restart.Initial, b.options.Limits.Restart.Max = time.Hour, time.Hour
	s, stop := b.run(fakeSpec("builder", "configure-crash", "")) // in backoff it stops at once
	b.eventually(10*time.Second, "backoff", func() bool { return s.Status().State == Backoff })
	late := make(chan error, 1)
	go func() { late <- s.Reconfigure(t.Context(), fakeSpec("builder", "configure-hang", "")) }()
	b.eventually(5*time.Second, "a process", func() bool { e, _ := os.ReadDir(b.options.RuntimeDir); return len(e) == 1 })
	stop()
	if left, _ := os.ReadDir(b.options.RuntimeDir); len(left) > 0 {
		t.Errorf("Run returned before the launch had ended: %v", left)
	}
	if err := <-late; !errors.Is(err, ErrStopped) {
		t.Errorf("Reconfigure: %v", err)
	}
}
