//go:build linux

package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

// inDebugger starts a plugin of the bundle as its developer does, and gives what it prints for the server.
func inDebugger(t *testing.T, name string) (cmd *exec.Cmd, attach string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	cmd = exec.CommandContext(ctx, "/proc/self/exe", "plugin", "run", name, "--debug")
	cmd.Env = append(os.Environ(), "TQSERVER_TEST_BE_SERVER=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("end of the plugin: %v", err)
		}
		cancel()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), sdk.AttachEnv+"='"); ok {
			return cmd, strings.TrimSuffix(text, "'")
		}
	}
	t.Fatalf("the plugin printed no %s", sdk.AttachEnv)
	return nil, ""
}

func TestDevAttachesToAPluginInADebugger(t *testing.T) {
	t.Parallel()
	cmd, attach := inDebugger(t, "resolver/fs")
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("hello")})
	s.environ = []string{sdk.AttachEnv + "=" + attach}
	for range 2 { // one server after the other
		s.start("dev")
		s.awaitBody("/", "hello")
		if st := s.stage("resolver"); !st.Attached || st.PID != cmd.Process.Pid {
			t.Errorf("resolver %+v, want process %d", st, cmd.Process.Pid)
		}
		if st := s.stage("checker"); st.Attached {
			t.Errorf("checker %+v", st)
		}
		if out, _, err := s.run("status"); err != nil || !strings.Contains(out, "running (attached for debugging)") {
			t.Errorf("status: %v\n%s", err, out)
		}
		s.stop()
	}
	s.start("run")
	s.awaitLog(sdk.AttachEnv + " is ignored")
	if st := s.stage("resolver"); st.Attached || st.PID == cmd.Process.Pid {
		t.Errorf("resolver without dev mode: %+v", st)
	}
}

func TestDevRefusesToAttachToWhatIsNotConfigured(t *testing.T) {
	t.Parallel()
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("hello")})
	s.environ = []string{sdk.AttachEnv + `={"resolver/vhost":{"protocol":"grpc","protocol_version":1,"pid":99,"addr":{"network":"unix","address":"/tmp/s"}}}`}
	_, stderr, err := s.run("dev")
	if err == nil || !strings.Contains(stderr, "resolver/vhost fits 0 of the configured plugins") || !strings.Contains(stderr, "resolver/fs (use: builtin:fs)") {
		t.Errorf("%v\n%s", err, stderr)
	}
}
