package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/process"
	"github.com/tqserver/tqserver/sdk"
)

// The plugins of these tests are this binary, started again with a mode in its environment.
const modeVar = "STAGE_TEST_MODE"

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeVar); mode != "" {
		play(mode)
		return
	}
	// The goroutine that starts children never ends, on purpose.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/tqserver/tqserver/kernel/process.starter"))
}

func play(mode string) {
	f := &fake{}
	var options []sdk.Option
	switch mode {
	case "good":
	case "exit": // 25 lines, then the end
		for i := range 25 {
			fmt.Fprintf(os.Stderr, "line %d\n", i+1)
		}
		os.Exit(3)
	case "exit-with-banner":
		fmt.Println("usage: something else")
		os.Exit(0)
	case "mute":
		select {}
	case "garbage":
		fmt.Println("listening on :8080")
		select {}
	case "flood-stdout":
		for {
			fmt.Print(strings.Repeat("x", 1000))
		}
	case "future":
		fmt.Println("1|99|unix|/nowhere|grpc|")
		select {}
	case "stop-after-handshake":
		go func() {
			for os.Stdout.Name() == "/dev/stdout" { // go-plugin replaces it after the handshake
				time.Sleep(time.Millisecond)
			}
			syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		}()
	case "configure-crash":
		f.onConfigure = func() { os.Exit(7) }
	case "configure-hang":
		f.onConfigure = func() { select {} }
	case "grandchild":
		c := exec.Command("sleep", "60")
		c.Stderr, c.Stdout = os.Stderr, os.Stdout
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: os.Getenv("ESCAPE") != ""}
		if err := c.Start(); err != nil {
			panic(err)
		}
		f.grandchild = c.Process.Pid
	case "exclusive": // takes a lock when it is configured, and refuses when another has it
		f.onConfigure = func() {
			lock, err := os.OpenFile(os.Getenv("LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
			if err == nil {
				err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "lock:", err)
				os.Exit(9)
			}
		}
		options = append(options, sdk.Exclusive())
	case "host":
		host()
		return
	default:
		panic("unknown mode " + mode)
	}
	sdk.Serve("fake", "1.2.3", f, append(options, sdk.Config(f.configure))...)
}

type fakeConfig struct {
	Greeting string `tq:"greeting,default=hello"`
	Times    int    `tq:"times,default=1,min=1,max=9"`
	Token    string `tq:"token,oneof=a|b,sensitive"`
}

func (c *fakeConfig) Validate() error {
	if c.Greeting == "forbidden" {
		return errors.New("this greeting is forbidden")
	}
	return nil
}

// fake does what the page of a job says, and gives what it has seen in the result.
type fake struct {
	onConfigure func()
	grandchild  int
	log         hclog.Logger
	mu          sync.Mutex
	config      fakeConfig
	configured  int
}

func (f *fake) SetLogger(l hclog.Logger) { f.log = l }

func (f *fake) configure(_ context.Context, c fakeConfig) error {
	if f.onConfigure != nil {
		f.onConfigure()
	}
	if c.Greeting == "refused" {
		return errors.New("this greeting is refused")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config = c
	f.configured++
	return nil
}

func (f *fake) Build(ctx context.Context, job sdk.Job, event func(sdk.Event)) (sdk.Result, error) {
	f.mu.Lock()
	r := sdk.Result{OK: true, Release: f.config.Greeting, Artifact: strconv.Itoa(f.configured), SHA256: strconv.Itoa(os.Getpid())}
	f.mu.Unlock()
	switch job.Page {
	case "":
	case "environ":
		r.Argv = os.Environ()
	case "dir":
		r.Artifact, _ = os.Getwd()
	case "descriptors":
		files, _ := filepath.Glob("/proc/self/fd/*")
		for _, file := range files {
			target, _ := os.Readlink(file)
			r.Argv = append(r.Argv, filepath.Base(file)+" "+target)
		}
	case "grandchild":
		r.Artifact = strconv.Itoa(f.grandchild)
	case "levels":
		for _, level := range []hclog.Level{hclog.Error, hclog.Warn, hclog.Info, hclog.Debug, hclog.Trace} {
			f.log.Log(level, "said at "+level.String())
		}
	case "exit":
		fmt.Fprintln(os.Stderr, "about to exit") // this way is too slow to arrive
		syscall.Write(2, []byte("fatal: disk on fire\n"))
		os.Exit(5)
	case "wait":
		event(sdk.Event{Step: "waiting"})
		<-ctx.Done()
		return r, ctx.Err()
	case "wait-for-file":
		event(sdk.Event{Step: "waiting"})
		for _, err := os.Stat(job.Dir); err != nil && ctx.Err() == nil; _, err = os.Stat(job.Dir) {
			time.Sleep(2 * time.Millisecond)
		}
		return r, ctx.Err()
	case "big":
		r.Release = strings.Repeat("b", len(job.Source))
	case "stderr":
		syscall.Write(2, []byte(job.Source))
	case "stdout":
		syscall.Write(1, []byte(job.Source))
	case "fmt":
		fmt.Println("from fmt.Println")
		fmt.Fprintln(os.Stderr, "from os.Stderr")
	case "flood":
		for range 50 { // 5 MB
			syscall.Write(2, bytes.Repeat([]byte("a line that nobody needs to read, but that should not stop anyone from writing one hundred bytes.\n"), 1000))
		}
	}
	return r, nil
}

// Check reports each set's version, and ends its stream when it is told to by an empty set.
func (f *fake) Check(ctx context.Context, sets <-chan sdk.TargetSet, report func(sdk.Health) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-sets:
			if len(s.Targets) == 0 {
				return nil
			}
			if err := report(sdk.Health{Target: s.Targets[0].ID, Version: s.Version, Failures: os.Getpid()}); err != nil {
				return err
			}
		}
	}
}

func (f *fake) Resolve(context.Context, <-chan sdk.Tree, func(sdk.Table) error) error { return nil }
func (f *fake) Watch(context.Context, <-chan sdk.WatchSet, func(sdk.ChangeSet) error) error {
	return nil
}
func (f *fake) Write(context.Context, sdk.Batch) error { return nil }

// bench is what a test needs to run plugins.
type bench struct {
	*testing.T
	options Options
	pulse   pulse
	log     *syncBuffer
	states  *stateLog
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tq") // a test's own directory is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, pulse: heartbeats, log: &syncBuffer{}, states: &stateLog{}}
	b.options = Options{
		RuntimeDir: filepath.Join(dir, "run"), KernelVersion: "9.9.9", OnState: b.states.add,
		Log: hclog.New(&hclog.LoggerOptions{Output: b.log, Level: hclog.Debug}),
		Limits: config.Plugins{StartTimeout: 15 * time.Second, RPCTimeout: 10 * time.Second, StopTimeout: 2 * time.Second,
			Restart: config.Restart{Initial: 10 * time.Millisecond, Max: 40 * time.Millisecond, ResetAfter: time.Minute,
				Budget: 3, Per: time.Minute, DegradedRetry: time.Hour}},
	}
	t.Cleanup(func() {
		if left, _ := os.ReadDir(b.options.RuntimeDir); len(left) > 0 {
			t.Errorf("left in the runtime directory: %v", left)
		}
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
	})
	return b
}

func fakeSpec(stage, mode, config string) Spec {
	return Spec{Stage: stage, Name: "builtin:" + mode, Path: selfPath, Env: []string{modeVar + "=" + mode, "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH")}, Config: []byte(config)}
}

// run runs a supervisor until the test ends, or stop is called.
func (b *bench) run(spec Spec) (s *Supervisor, stop func()) {
	b.Helper()
	s = New(spec, b.options)
	s.pulse = b.pulse
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			panic("Run does not return")
		}
		if got := s.Status(); got.State != Stopped || got.PID != 0 {
			b.Errorf("status after Run: %+v", got)
		}
	})
	b.Cleanup(stop)
	return s, stop
}

// build runs one job on the plugin.
func (b *bench) build(s *Supervisor, job sdk.Job, event func(sdk.Event)) (r sdk.Result, err error) {
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	if event == nil {
		event = func(sdk.Event) {}
	}
	err = s.Do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err = sdk.NewBuilder(conn).Build(ctx, job, event)
		return err
	})
	return r, err
}

func (b *bench) mustBuild(s *Supervisor, job sdk.Job) sdk.Result {
	b.Helper()
	r, err := b.build(s, job, nil)
	if err != nil {
		b.Fatalf("job %q: %v", job.Page, err)
	}
	return r
}

func (b *bench) pid(s *Supervisor) int {
	b.Helper()
	pid, err := strconv.Atoi(b.mustBuild(s, sdk.Job{}).SHA256)
	if err != nil {
		b.Fatal(err)
	}
	return pid
}

func (b *bench) eventually(limit time.Duration, what string, ok func() bool) {
	b.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// freeze returns when every thread of the process stands still.
func (b *bench) freeze(pid int) {
	b.Helper()
	syscall.Kill(pid, syscall.SIGSTOP)
	b.eventually(5*time.Second, "standstill", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return err == nil && !slices.ContainsFunc(tasks, func(task string) bool {
			stat, _ := os.ReadFile(task)
			return !bytes.Contains(stat, []byte(") T "))
		})
	})
}

func (b *bench) gone(limit time.Duration, pid int) {
	b.Helper()
	b.eventually(limit, fmt.Sprintf("end of process %d", pid), func() bool { return !process.GroupAlive(pid) })
}

func (b *bench) logged(parts ...string) {
	b.Helper()
	b.eventually(5*time.Second, fmt.Sprintf("a log line with %q", parts), func() bool {
		return slices.ContainsFunc(strings.Split(b.log.String(), "\n"), func(line string) bool {
			return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) })
		})
	})
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

type stateLog struct {
	mu  sync.Mutex
	all []Status
}

func (l *stateLog) add(s Status) { l.mu.Lock(); defer l.mu.Unlock(); l.all = append(l.all, s) }
func (l *stateLog) names() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		names = append(names, s.State)
	}
	return names
}

// host is a kernel in short: it runs one plugin, prints its process id, and outlives SIGTERM.
func host() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	s := New(fakeSpec("builder", "good", ""), Options{RuntimeDir: os.Getenv("RUN"), Log: hclog.NewNullLogger(), Limits: config.Default().Plugins})
	go s.Run(context.Background())
	err := s.Do(context.Background(), func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := sdk.NewBuilder(conn).Build(ctx, sdk.Job{}, func(sdk.Event) {})
		fmt.Println(r.SHA256)
		return err
	})
	if err != nil {
		panic(err)
	}
	select {}
}
