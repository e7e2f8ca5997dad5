package stage

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/sdk"
)

// debugged starts the fake plugin as a developer does, and gives what it prints for the kernel.
func debugged(t *testing.T, environ ...string) (cmd *exec.Cmd, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd = exec.CommandContext(ctx, selfPath, "--debug")
	cmd.Env = append(os.Environ(), append([]string{modeVar + "=good", "GORACE=atexit_sleep_ms=0"}, environ...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		cancel()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if after, ok := strings.CutPrefix(lines.Text(), sdk.AttachEnv+"='"); ok {
			return cmd, strings.TrimSuffix(after, "'")
		}
	}
	t.Fatalf("it printed no %s", sdk.AttachEnv)
	return nil, ""
}

// using is a configuration whose builder is at a path.
func using(path string) config.Plugins {
	p := config.Default().Plugins
	p.Builder = []config.Plugin{{Use: path}}
	return p
}

// only leaves the entry of the builder.
func only(t *testing.T, text string) string {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all) != 5 {
		t.Fatalf("%d entries in %s: %v", len(all), text, err)
	}
	return `{"builder/fake":` + string(all["builder/fake"]) + `}`
}

func attachedSpec(t *testing.T, text string) Spec {
	t.Helper()
	p := using("./bin/fake")
	attached, err := ParseAttached(text, p)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := Resolve("builder", p.Builder[0], ResolveOptions{Root: t.TempDir(), Attached: attached})
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestAttachedPluginIsUsedAndLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cmd, text := debugged(t)
	spec := attachedSpec(t, only(t, text))
	for range 2 { // one kernel after the other
		s, stop := b.run(spec)
		if pid := b.pid(s); pid != cmd.Process.Pid {
			t.Errorf("process %d built, want %d", pid, cmd.Process.Pid)
		}
		if st := s.Status(); !st.Attached || st.PID != cmd.Process.Pid || st.State != Running || st.Version != "1.2.3" {
			t.Errorf("status %+v", st)
		}
		stop()
	}
	b.logged(fmt.Sprintf("attached to pid %d for debugging", cmd.Process.Pid))
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the plugin after the kernel's end: %v", err)
	}
}

func TestAttachedPluginMayBeHeldByTheDebugger(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pulse = pulse{period: 10 * time.Millisecond, limit: 50 * time.Millisecond, misses: 1}
	cmd, text := debugged(t)
	s, _ := b.run(attachedSpec(t, only(t, text)))
	b.mustBuild(s, sdk.Job{})
	missed := time.Now().Add(300 * time.Millisecond) // several heartbeats
	b.freeze(cmd.Process.Pid)
	b.eventually(5*time.Second, "missed heartbeats", func() bool { return time.Now().After(missed) })
	if st := s.Status(); st.State != Running || st.Restarts != 0 {
		t.Errorf("status while it is held: %+v", st)
	}
	cmd.Process.Signal(syscall.SIGCONT)
	b.mustBuild(s, sdk.Job{})
}

func TestAttachedPluginThatWentIsAskedForAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Limits.Restart.Budget = 1000
	cmd, text := debugged(t)
	spec := attachedSpec(t, only(t, text))
	s, _ := b.run(spec)
	b.mustBuild(s, sdk.Job{})
	cmd.Process.Kill()
	b.eventually(20*time.Second, "tries to attach again", func() bool { return s.Status().Restarts >= 3 })
	if st := s.Status(); !strings.Contains(st.LastError, "attach to pid") || !strings.Contains(st.LastError, "start the plugin with --debug again") {
		t.Errorf("error %q", st.LastError)
	}
}

func TestParseAttachedIsStrict(t *testing.T) {
	const good = `{"protocol":"grpc","protocol_version":1,"pid":7,"addr":{"network":"unix","address":"/tmp/s"}}`
	for text, want := range map[string]string{
		`{"builder/fake":` + good + `}`:       "",
		`{"builder/./bin/fake":` + good + `}`: "",
		`{"checker/http":` + strings.Replace(strings.Replace(good, "unix", "tcp", 1), "/tmp/s", "127.0.0.1:99", 1) + `}`: "",
		`{"builder/fak":` + good + `}`: `builder/fak fits 0 of the configured plugins, want one; configured are resolver/fs (use: builtin:fs), builder/fake (use: ./bin/fake), `,
		`{"bilder/fake":` + good + `}`: `bilder/fake fits 0`,
		`nonsense`:                     `read TQSERVER_ATTACH: `,
		`{} {}`:                        `something follows`,
		`{"builder/fake":` + strings.Replace(good, "pid", "pdi", 1) + `}`:                                            `unknown field "pdi"`,
		`{"builder/fake":` + strings.Replace(good, `version":1`, `version":2`, 1) + `}`:                              "builder/fake: the plugin speaks protocol 2, this tqserver speaks 1",
		`{"builder/fake":` + strings.Replace(good, `grpc`, `netrpc`, 1) + `}`:                                        `protocol is "netrpc"`,
		`{"builder/fake":` + strings.Replace(good, `7`, `1`, 1) + `}`:                                                "pid is 1",
		`{"builder/fake":` + strings.Replace(good, `/tmp/s`, `s`, 1) + `}`:                                           "absolute path",
		`{"builder/fake":` + strings.Replace(good, `unix","address":"/tmp/s`, `tcp","address":"10.0.0.1:9`, 1) + `}`: "127.0.0.1",
	} {
		_, err := ParseAttached(text, using("./bin/fake"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	twice := using("./bin/fake")
	twice.Builder = append(twice.Builder, config.Plugin{Use: "./other/fake"})
	if _, err := ParseAttached(`{"builder/fake":`+good+`}`, twice); err == nil || !strings.Contains(err.Error(), "fits 2") {
		t.Errorf("a name that two have: %v", err)
	}
}
