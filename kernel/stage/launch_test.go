package stage

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/kernel/process"
	"github.com/tqserver/tqserver/sdk"
)

func TestLaunchRefusesBadPlugins(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode, stage, step string
		start, rpc        time.Duration
		want              []string
	}{
		{"exit", "builder", "start", 0, 0, []string{"exited with status 3", "line 25", "line 6"}},
		{"exit-with-banner", "builder", "start", 0, 0, []string{`began with "usage: something else"`}},
		{"mute", "builder", "start", 300 * time.Millisecond, 0, []string{"no answer within 300ms"}},
		{"garbage", "builder", "start", 0, 0, []string{`began with "listening on :8080"`, "before sdk.Serve"}},
		{"flood-stdout", "builder", "start", 0, 0, []string{`began with "xxx`}},
		{"future", "builder", "start", 0, 0, []string{"the plugin speaks protocol 99, this tqserver speaks 1: upgrade tqserver"}},
		{"stop-after-handshake", "builder", "", 1500 * time.Millisecond, 500 * time.Millisecond, []string{"no answer within"}},
		{"good", "conductor", "init", 0, 0, []string{"fake 1.2.3 offers tqserver.plugin.", "wanted is tqserver.plugin.conductor.v1.Conductor"}},
		{"configure-crash", "builder", "configure", 0, 0, []string{"exited with status 7"}},
		{"configure-hang", "builder", "configure", 0, 500 * time.Millisecond, []string{"no answer within 500ms"}},
	} {
		t.Run(c.mode+"/"+c.stage, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			if c.start > 0 {
				b.options.Limits.StartTimeout = c.start
			}
			if c.rpc > 0 {
				b.options.Limits.RPCTimeout = c.rpc
			}
			spec := fakeSpec(c.stage, c.mode, "")
			inst, err := launch(t.Context(), &spec, b.options, launchSteps)
			if err == nil {
				inst.kill(errStopped)
				t.Fatal("no error")
			}
			var e *Error
			if !errors.As(err, &e) || e.Stage != c.stage || e.Name != "builtin:"+c.mode || c.step != "" && e.Step != c.step {
				t.Errorf("error %#v, want step %q", err, c.step)
			}
			for _, want := range append(c.want, c.stage+" plugin builtin:"+c.mode+": ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if c.mode == "exit" && (len(e.Stderr) != 20 || strings.Contains(err.Error(), "line 5\n")) {
				t.Errorf("last lines: %q", e.Stderr)
			}
		})
	}
}

// TestRotatorHasStandardOutput, which no other plugin has.
func TestRotatorHasStandardOutput(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	defer func(old *os.File) { os.Stdout = old }(os.Stdout)
	os.Stdout = file // no test runs beside this one
	for _, stage := range []string{"rotator", "builder", "checker"} {
		b := newBench(t)
		s, _ := b.run(fakeSpec(stage, "good", ""))
		var found []string
		for _, d := range b.mustBuild(s, sdk.Job{Page: "descriptors"}).Argv {
			if strings.HasSuffix(d, " "+file.Name()) {
				found = append(found, d)
			}
		}
		var want []string
		if stage == "rotator" {
			want = []string{"3 " + file.Name()}
		}
		if !slices.Equal(found, want) {
			t.Errorf("%s has %q, want %q", stage, found, want)
		}
		env := b.mustBuild(s, sdk.Job{Page: "environ"}).Argv
		if slices.Contains(env, stdoutVar+"=3") != (stage == "rotator") {
			t.Errorf("%s has the environment %q", stage, env)
		}
	}
}

func TestLaunchOfWhatCannotBeExecuted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := Spec{Stage: "builder", Name: "./nothing", Path: filepath.Join(t.TempDir(), "nothing")}
	if err := Validate(t.Context(), spec, b.options); err == nil || !strings.Contains(err.Error(), "builder plugin ./nothing: start: ") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestLaunchWithTooLongRuntimeDir(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.RuntimeDir = filepath.Join(b.options.RuntimeDir, strings.Repeat("d", 80))
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(b.options.RuntimeDir)) })
	err := Validate(t.Context(), fakeSpec("builder", "good", ""), b.options)
	if err == nil || !strings.Contains(err.Error(), "use a shorter runtime directory") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(b.options.RuntimeDir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	os.RemoveAll(b.options.RuntimeDir)
	b.options.RuntimeDir = filepath.Dir(b.options.RuntimeDir)
}

func TestCancelledLaunchEndsAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	before := time.Now()
	spec := fakeSpec("builder", "mute", "")
	_, err := launch(ctx, &spec, b.options, launchSteps)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(before) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(before), err)
	}
}

func TestEveryStageFindsItsService(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"resolver", "builder", "watcher", "checker", "rotator"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			if err := Validate(t.Context(), fakeSpec(stage, "good", ""), newBench(t).options); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPluginsEnvironmentAndDirectory(t *testing.T) {
	b := newBench(t)
	spec := fakeSpec("builder", "good", "")
	spec.Dir = t.TempDir()
	spec.Env = append(spec.Env, "COLOUR=blue", sdk.Handshake.MagicCookieKey+"=wrong", "PLUGIN_UNIX_SOCKET_DIR=/nowhere")
	t.Setenv("SECRET", "hidden")
	s, _ := b.run(spec)
	got := strings.Join(b.mustBuild(s, sdk.Job{Page: "environ"}).Argv, "\n") + "\n"
	if !strings.Contains(got, "\nCOLOUR=blue\n") || strings.Contains(got, "SECRET") {
		t.Errorf("environment:\n%s", got)
	}
	if dir := b.mustBuild(s, sdk.Job{Page: "dir"}).Artifact; dir != spec.Dir {
		t.Errorf("working directory %s, want %s", dir, spec.Dir)
	}
	info, err := os.Stat(b.options.RuntimeDir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("runtime directory: %v, %v", info.Mode(), err)
	}
}

func TestMessagesOfSixteenMebibytes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(fakeSpec("builder", "good", ""))
	size := sdk.MaxMessageSize - 1000
	if got := len(b.mustBuild(s, sdk.Job{Page: "big", Source: strings.Repeat("a", size)}).Release); got != size {
		t.Errorf("%d bytes came back of %d", got, size)
	}
	if _, err := b.build(s, sdk.Job{Page: "big", Source: strings.Repeat("a", sdk.MaxMessageSize+1)}, nil); err == nil {
		t.Error("a message above the limit passed")
	}
	if got := s.Status(); got.State != Running || got.Restarts != 0 {
		t.Errorf("status afterwards: %+v", got)
	}
}

func TestExitIsSeenThoughAGrandchildHoldsStderr(t *testing.T) {
	t.Parallel()
	for _, escape := range []string{"", "1"} {
		t.Run("setsid="+escape, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			spec := fakeSpec("builder", "grandchild", "")
			spec.Env = append(spec.Env, "ESCAPE="+escape)
			s, _ := b.run(spec)
			pid := b.pid(s)
			grandchild, err := strconv.Atoi(b.mustBuild(s, sdk.Job{Page: "grandchild"}).Artifact)
			if err != nil {
				t.Fatal(err)
			}
			if escape != "" { // it left the group: the kernel cannot find it
				defer syscall.Kill(grandchild, syscall.SIGKILL)
			}
			before := time.Now()
			syscall.Kill(pid, syscall.SIGKILL)
			b.eventually(5*time.Second, "a new plugin", func() bool { st := s.Status(); return st.State == Running && st.PID != pid })
			t.Logf("replaced after %s", time.Since(before))
			if escape == "" && process.GroupAlive(pid) {
				t.Error("the grandchild lives")
			}
			if escape != "" {
				next, _ := strconv.Atoi(b.mustBuild(s, sdk.Job{Page: "grandchild"}).Artifact)
				defer syscall.Kill(next, syscall.SIGKILL)
			}
		})
	}
}

func TestSweepRemovesSocketsOfAKilledKernel(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"plugin-dir123", "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "plugin-dir123", "plugin1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("left: %v", left)
	}
	if err := Sweep(filepath.Join(dir, "missing")); err != nil {
		t.Error(err)
	}
}

func TestStrangersCannotSpeakToAPlugin(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(fakeSpec("builder", "good", ""))
	b.pid(s)
	sockets, err := filepath.Glob(filepath.Join(b.options.RuntimeDir, "plugin-dir*", "plugin*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets %v, %v", sockets, err)
	}
	for name, creds := range map[string]credentials.TransportCredentials{
		"plain": insecure.NewCredentials(), "another certificate": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}),
	} {
		conn, err := grpc.NewClient("unix:"+sockets[0], grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		if err := sdk.NewLifecycle(conn).Check(t.Context(), 1); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
}

// Not parallel: it counts what the whole process has open.
func TestNothingStaysOpen(t *testing.T) {
	b := newBench(t)
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(fds)
	}
	once := func() {
		s, stop := b.run(fakeSpec("builder", "good", ""))
		b.build(s, sdk.Job{Page: "exit"}, nil)
		b.pid(s)
		stop()
		Validate(t.Context(), fakeSpec("builder", "exit", ""), b.options)
	}
	once()
	before := count()
	for range 3 {
		once()
	}
	b.eventually(5*time.Second, "all that was opened to be closed", func() bool { return count() <= before })
}
