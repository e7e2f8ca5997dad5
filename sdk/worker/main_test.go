package worker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait for another process.
const patience = 10 * time.Second

// TestMain also plays the pages: the tests start this binary again with
// TEST_PAGE naming what to be.
func TestMain(m *testing.M) {
	page, ok := pages[os.Getenv("TEST_PAGE")]
	if !ok {
		goleak.VerifyTestMain(m)
		return
	}
	if err := page(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("returned")
}

var pages = map[string]func() error{
	"serve":       servePage,
	"settings":    settingsPage,
	"parent":      parentPage,
	"child":       childPage,
	"foreign-log": foreignLogPage,
}

// servePage has handlers that are slow, stream, panic and never end.
func servePage() error {
	r, err := NewRuntime()
	if err != nil {
		return err
	}
	http.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, "hello") })
	http.HandleFunc("/peer", func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, req.RemoteAddr) })
	http.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("lost my marbles") })
	http.HandleFunc("/slow", func(w http.ResponseWriter, req *http.Request) {
		say(w, "begin")
		time.Sleep(300 * time.Millisecond)
		say(w, "end")
	})
	http.HandleFunc("/never", func(w http.ResponseWriter, req *http.Request) {
		say(w, "begin")
		<-req.Context().Done()
	})
	http.HandleFunc("/stream", func(w http.ResponseWriter, req *http.Request) { stream(r, w, req) })
	http.HandleFunc("/upload", func(w http.ResponseWriter, req *http.Request) {
		n, err := io.Copy(io.Discard, req.Body)
		fmt.Fprintln(w, n, err)
	})
	return r.StartServer(nil)
}

func stream(r *Runtime, w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		say(w, "data: "+strconv.Itoa(n)+"\n")
		select {
		case <-tick.C:
		case <-req.Context().Done():
			return
		case <-r.Done():
			say(w, "data: bye\n")
			return
		}
	}
}

func say(w http.ResponseWriter, line string) {
	fmt.Fprintln(w, line)
	w.(http.Flusher).Flush()
}

func settingsPage() error {
	r, err := NewRuntime()
	if err != nil {
		return err
	}
	fmt.Printf("port=%d\n", r.Port)
	return nil
}

// parentPage starts a child between NewRuntime and StartServer.
func parentPage() error {
	if _, err := NewRuntime(); err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_PAGE=child")
	out, err := cmd.CombinedOutput()
	fmt.Print(string(out))
	return err
}

func childPage() error {
	_, named := os.LookupEnv("TQ_READY_FD")
	fmt.Printf("named=%v pipe=%v\n", named, isPipe(3))
	return nil
}

// foreignLogPage is a page that sends the standard logger elsewhere.
func foreignLogPage() error {
	log.SetOutput(io.Discard)
	return servePage()
}

// process is a page that runs as a process of its own.
type process struct {
	cmd            *exec.Cmd
	port           int
	ready          *os.File // the kernel's end of the readiness pipe
	stdout, stderr lockedBuffer
	exited         chan error
}

// launch starts a page; env overrides what the kernel would set.
func launch(t *testing.T, page string, env ...string) *process {
	t.Helper()
	r, w := socketPair(t)
	p := &process{cmd: exec.Command(os.Args[0]), port: freePort(t), ready: r, exited: make(chan error, 1)}
	p.cmd.Env = append([]string{"TEST_PAGE=" + page, "GORACE=atexit_sleep_ms=0", "TQ_READY_FD=3", "TQ_ROUTE=/test",
		"TQ_SHUTDOWN_GRACE_PERIOD_MS=30000", "TQ_PORT=" + strconv.Itoa(p.port)}, env...)
	p.cmd.ExtraFiles = []*os.File{w}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	err := p.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		if p.exited != nil {
			<-p.exited
		}
		r.Close()
	})
	return p
}

// socketPair is what the kernel gives a worker to tell of its readiness.
func socketPair(t *testing.T) (kernel, worker *os.File) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "kernel's end"), os.NewFile(uintptr(fds[1]), "worker's end")
}

// serve launches a page and waits for its readiness byte.
func serve(t *testing.T, page string, env ...string) *process {
	t.Helper()
	p := launch(t, page, env...)
	p.ready.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(p.ready, make([]byte, 1)); err != nil {
		t.Fatalf("no readiness byte: %v\n%s", err, p.stderr.String())
	}
	return p
}

// wait returns the page's exit error.
func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.exited:
		p.exited = nil
		return err
	case <-time.After(patience):
		t.Fatalf("page still runs after %v\n%s", patience, p.stderr.String())
		return nil
	}
}

func (p *process) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", p.port, path) }

// refuses reports whether the page has stopped accepting connections.
func (p *process) refuses() bool {
	conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", p.port))
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// get opens a response and a scanner over its lines; one connection each.
func (p *process) get(t *testing.T, path string) (*http.Response, *bufio.Scanner) {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(p.url(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res, bufio.NewScanner(res.Body)
}

func wantLine(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	for lines.Scan() {
		if lines.Text() == want {
			return
		}
	}
	t.Fatalf("response ended (%v) before the line %q", lines.Err(), want)
}

// freePort finds a port below those that the system gives to clients, which could take it before it is used.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 5000 + rand.IntN(3000)
		if l, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// eventually polls a condition on another process.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) has(s string) bool { return strings.Contains(b.String(), s) }
