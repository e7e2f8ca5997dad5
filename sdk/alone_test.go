package sdk

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// byHand is this test's binary as a plugin that somebody starts.
func byHand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), "SDK_TEST_BE_PLUGIN=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

func TestPluginStartedByHandSaysWhatItIs(t *testing.T) {
	for flag, want := range map[string][]string{
		"--version":  {"demo 1.2.3 (tqserver sdk " + Version},
		"--help":     {"a plugin of tqserver: a checker.", "    checker:\n      use: /", "suffix: \".local\"", "interval_ms: 30000       # time between two probes of a worker", "--debug"},
		"--describe": {`"tqserver.plugin.checker.v1.Checker"`},
	} {
		out, err := byHand(t, flag).Output()
		for _, part := range want {
			if err != nil || !strings.Contains(string(out), part) {
				t.Errorf("%s printed %q, %v; want %q", flag, out, err, part)
			}
		}
	}
	out, err := byHand(t).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "is started by it") {
		t.Errorf("without a flag: %q, %v", out, err)
	}
}

func TestDebugServesOneKernelAfterTheOther(t *testing.T) {
	cmd := byHand(t, "--debug")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	a := readAttach(t, bufio.NewScanner(out))
	if a.PID != cmd.Process.Pid || a.Protocol != "grpc" || a.ProtocolVersion != 1 || a.Addr.Network != "unix" {
		t.Errorf("attach %+v, process %d", a, cmd.Process.Pid)
	}
	dir := filepath.Dir(a.Addr.Address)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory of the socket: %v, %v", info, err)
	}
	for range 2 {
		conn, err := grpc.NewClient("unix:"+a.Addr.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		info, err := NewLifecycle(conn).Init(t.Context(), "1", "i", "info")
		if err != nil || info.Name != "demo" {
			t.Errorf("init: %+v, %v", info, err)
		}
		conn.Close()
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("end of the plugin: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory: %v, want it gone", err)
	}
}

// readAttach finds the variable in what a plugin prints.
func readAttach(t *testing.T, lines *bufio.Scanner) Attach {
	t.Helper()
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), AttachEnv+"='")
		if !ok {
			continue
		}
		var to map[string]Attach
		if err := json.Unmarshal([]byte(strings.TrimSuffix(text, "'")), &to); err != nil || len(to) != 1 {
			t.Fatalf("%s: %v", text, err)
		}
		return to["checker/demo"]
	}
	t.Fatalf("it printed no %s", AttachEnv)
	return Attach{}
}
