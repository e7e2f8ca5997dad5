//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

// patience bounds every wait of these tests for something that happens elsewhere: builds on a loaded machine take
// long. No test waits for so long unless it fails.
const patience = 90 * time.Second

// site is a site in a temporary directory, and the server that runs it.
type site struct {
	t       *testing.T
	dir     string
	port    int
	pool    [2]int // worker ports
	cmd     *exec.Cmd
	out     *output
	stdout  io.Writer // nil: out
	exited  chan struct{}
	environ []string
}

// newSite makes a site of files, given as path -> content. No server runs yet.
func newSite(t *testing.T, files map[string]string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), out: &output{}}
	if err := makeSite(filepath.Join(s.dir, "site")); err != nil {
		t.Fatal(err)
	}
	s.dir = filepath.Join(s.dir, "site")
	if err := os.RemoveAll(s.path("pages")); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		s.write(name, content)
	}
	s.port, s.pool = freePort(t), freeRange(t, 40)
	s.configure("", "", "")
	return s
}

// freePort finds a port below those that the system gives to clients, and a new one each time.
func freePort(t *testing.T) int {
	for range 1000 {
		port := 30000 + int(lastPort.Add(1)%2700)
		if lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			lis.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

var lastPort = func() (n atomic.Uint32) { n.Store(rand.Uint32N(2700)); return }()

// freeRange finds ports below those that the system gives to clients. Where a stranger takes one meanwhile, the
// server skips it.
func freeRange(t *testing.T, n int) [2]int {
	for range 100 {
		start := 10000 + rand.IntN(200)*100
		lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", start))
		if err == nil {
			lis.Close()
			return [2]int{start, start + n - 1}
		}
	}
	t.Fatal("no free range of ports")
	return [2]int{}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// write saves a file as an editor does that writes in place.
func (s *site) write(name, content string) {
	s.t.Helper()
	path := s.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// configure writes the configuration: what every test needs, and more YAML that the test gives, in the same form.
func (s *site) configure(server, workers, rest string) {
	s.t.Helper()
	s.write("config/server.yaml", fmt.Sprintf(`server:
  host: 127.0.0.1
  port: %d
%sworkers:
  temp_dir: %s
  port_range_start: %d
  port_range_end: %d
%s%s`, s.port, indent(server), filepath.Join(filepath.Dir(s.dir), "bin"), s.pool[0], s.pool[1], indent(workers), rest))
}

func indent(yaml string) string {
	if yaml == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(strings.TrimSpace(yaml), "\n", "\n  ") + "\n"
}

// command is tqserver with this site as its directory.
func (s *site) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"-C", s.dir}, args...)...)
	cmd.Env = append(os.Environ(), append([]string{"TQSERVER_TEST_BE_SERVER=1"}, s.environ...)...)
	return cmd
}

// run runs a command to its end and gives what it printed.
func (s *site) run(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := s.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// start starts the server and waits until all pages serve or have failed. At the end of the test it is stopped, and
// must have ended well.
func (s *site) start(args ...string) {
	s.t.Helper()
	s.launch(args...)
	s.await("the server to be up", func() error {
		st, err := s.tryStatus()
		if err == nil && st.State != "serving" {
			err = fmt.Errorf("state is %s", st.State)
		}
		return err
	})
}

// launch starts the server and does not wait.
func (s *site) launch(args ...string) {
	s.t.Helper()
	s.cmd = s.command(context.Background(), args...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if s.stdout != nil {
		s.cmd.Stdout = s.stdout
	}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan struct{})
	s.exited = exited
	cmd := s.cmd
	go func() { _ = cmd.Wait(); close(exited) }()
	s.t.Cleanup(func() { s.stop() })
}

// stop ends the server in order. It is an error when it does not end, or had a data race.
func (s *site) stop() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	cmd := s.cmd
	s.cmd = nil
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(patience):
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		<-s.exited
		s.t.Errorf("the server did not end after SIGTERM")
	}
	if code := cmd.ProcessState.ExitCode(); code > 0 {
		s.t.Errorf("the server ended with code %d", code)
	}
	s.checkOutput()
}

// kill ends the server as a power cut does.
func (s *site) kill() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
	s.checkOutput()
}

func (s *site) checkOutput() {
	text := s.out.String()
	for _, bad := range []string{"DATA RACE", "\npanic: ", "\nfatal error: "} { // of a page they do not begin a line
		if strings.Contains(text, bad) {
			s.t.Errorf("the server's output has %q", bad)
		}
	}
	if s.t.Failed() {
		s.t.Logf("output of the server:\n%s", tail(text, 12000))
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (s *site) tryStatus() (control.Status, error) {
	select {
	case <-s.exited:
		s.t.Fatalf("the server ended:\n%s", tail(s.out.String(), 4000))
	default:
	}
	client, err := control.Find(s.path(".tqserver"))
	if err != nil {
		return control.Status{}, err
	}
	if client.PID != s.cmd.Process.Pid {
		return control.Status{}, errors.New("the note is of an earlier server")
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	return client.Status(ctx)
}

func (s *site) status() control.Status {
	s.t.Helper()
	st, err := s.tryStatus()
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// page gives the status of one page.
func (s *site) page(name string) control.Page {
	s.t.Helper()
	for _, p := range s.status().Pages {
		if p.Name == name {
			return p
		}
	}
	s.t.Fatalf("no page %s in the status", name)
	return control.Page{}
}

// running waits until the plugin of a stage runs, and gives it.
func (s *site) running(name string) (st control.Stage) {
	s.t.Helper()
	s.await("the "+name+" to run", func() error {
		if st = s.stage(name); st.State != "running" || st.PID == 0 {
			return fmt.Errorf("it is %s", st.State)
		}
		return nil
	})
	return st
}

// killStage kills the plugin of a stage, and gives what it was.
func (s *site) killStage(name string) control.Stage {
	s.t.Helper()
	old := s.running(name)
	s.signal(old.PID, syscall.SIGKILL)
	return old
}

// signal sends a signal to one process, if it is still there: 0, which is what has no process, would be the test's own
// group.
func (s *site) signal(pid int, sig syscall.Signal) {
	s.t.Helper()
	if pid <= 1 {
		s.t.Fatalf("no process to send %v to: pid %d", sig, pid)
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		s.t.Fatal(err)
	}
}

// stage gives the status of one stage; of the builder it is the first that is not idle.
func (s *site) stage(name string) control.Stage {
	s.t.Helper()
	for _, st := range s.status().Stages {
		if st.Stage == name && st.State != "idle" {
			return st
		}
	}
	s.t.Fatalf("no stage %s in the status", name)
	return control.Stage{}
}

// await waits until check gives nil.
func (s *site) await(what string, check func() error) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited for %s: %v\noutput of the server:\n%s", what, err, tail(s.out.String(), 8000))
		}
		time.Sleep(5 * time.Millisecond) // between two looks at another process
	}
}

func (s *site) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", s.port, path) }

// get asks once, on a connection of its own.
func (s *site) get(path string) (status int, body string, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(s.url(path))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// awaitBody waits until a path answers 200 with a body.
func (s *site) awaitBody(path, want string) {
	s.t.Helper()
	s.await(path+" to answer "+want, func() error {
		status, body, err := s.get(path)
		if err == nil && (status != 200 || strings.TrimSpace(body) != want) {
			err = fmt.Errorf("it answers %d %q", status, tail(body, 200))
		}
		return err
	})
}

// awaitLog waits until the server has printed a text.
func (s *site) awaitLog(want string) {
	s.t.Helper()
	s.await("the log to have "+want, func() error {
		if !strings.Contains(s.out.String(), want) {
			return errors.New("it has not")
		}
		return nil
	})
}

// output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// textPage is a page that answers with a text, also to POST, where it echoes the length of what it read, and takes as
// long as ?ms= says. It uses the SDK.
func textPage(text string) string {
	return fmt.Sprintf(`package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
)

const text = %q

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if ms, _ := strconv.Atoi(r.FormValue("ms")); ms > 0 {
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
		if r.Method == http.MethodPost {
			fmt.Fprintf(w, "%%s %%d\n", text, n)
			return
		}
		fmt.Fprintln(w, text)
	})
	if err := runtime.StartServer(http.DefaultServeMux); err != nil {
		log.Fatal(err)
	}
}
`, text)
}
