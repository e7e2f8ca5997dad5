package worker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
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

	"go.uber.org/goleak"
)

const floodLines = 100_000

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		roles[os.Args[2]]()
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/tqserver/tqserver/kernel/process.starter"))
}

// roles are what the test binary does when a test starts it as a worker.
var roles = map[string]func(){
	"silent":   func() { forever() },
	"byte":     func() { untilTerm(sayReady) },
	"sdk":      func() { l := listen("127.0.0.1:"); untilTerm(sayReady); l.Close() },
	"http":     func() { serve("127.0.0.1:", http.StatusOK); forever() },
	"socket":   socketPage,
	"exposed":  func() { serve(":", http.StatusOK); sayReady(); forever() },
	"sick":     func() { serve("127.0.0.1:", http.StatusServiceUnavailable); forever() },
	"mute":     func() { listen("127.0.0.1:"); forever() },
	"wrapper":  func() { fork(false, "http"); forever() },
	"crash":    func() { fmt.Fprint(os.Stderr, "one\ntwo\nno newline"); os.Exit(3) },
	"panic":    crashDeep,
	"stubborn": func() { signal.Ignore(syscall.SIGTERM); sayReady(); forever() },
	"family":   func() { fmt.Println(fork(false, "slowend")); untilTerm(sayReady) },
	"slowend":  slowEnd,
	"clan":     func() { fmt.Println(fork(false, "stubborn")); untilTerm(sayReady) },
	"orphaner": func() { fmt.Println(fork(false, "silent")) },
	"daemon":   func() { fmt.Println(fork(true, "silent")) },
	"once":     onlyOnce,
	"flood":    flood,
	"shapes":   func() { fmt.Print(strings.Join(shapes, "\n")) },
	"report":   report,
	"middle":   middle,
	"page":     page,
	"old":      oldPage,
	"deaf":     func() { talk("1watch \"/p\"\n"); forever() },
	"chatter":  chatter,
}

func forever() { select {} }

// untilTerm calls then when it is prepared for SIGTERM, and waits for that.
func untilTerm(then func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	then()
	<-c
}

// slowEnd needs a while to end: what it says then shows that it got the time.
func slowEnd() {
	untilTerm(func() { fmt.Println("grandchild is up") })
	time.Sleep(50 * time.Millisecond)
	fmt.Println("grandchild is done")
}

// onlyOnce fails if a second SIGTERM comes within 100 ms of the first.
func onlyOnce() {
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGTERM)
	sayReady()
	<-c
	select {
	case <-c:
		os.Exit(5)
	case <-time.After(100 * time.Millisecond):
	}
}

func sayReady() {
	fd, err := strconv.Atoi(os.Getenv("TQ_READY_FD"))
	if err != nil {
		panic(err)
	}
	f := os.NewFile(uintptr(fd), "ready")
	f.Write([]byte("1"))
	f.Close()
}

func listen(host string) net.Listener {
	l, err := net.Listen("tcp", host+os.Getenv("TQ_PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return l
}

func serve(host string, status int) {
	go http.Serve(listen(host), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
}

// fork starts the binary in another role, with the same output, and does not wait for it.
func fork(setsid bool, role string) int {
	c := exec.Command("/proc/self/exe", "child", role)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.ExtraFiles = []*os.File{os.NewFile(readyFD, "ready")}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: setsid}
	if err := c.Start(); err != nil {
		panic(err)
	}
	return c.Process.Pid
}

func crashDeep() {
	var dive func(int)
	dive = func(n int) {
		if n == 0 {
			panic("no such table: users")
		}
		dive(n - 1)
	}
	dive(40)
}

func flood() {
	out := bufio.NewWriter(os.Stdout)
	for i := range floodLines {
		fmt.Fprintln(out, "line", i)
	}
	out.Flush()
}

var shapes = []string{"", "a", "", strings.Repeat("b", maxLine), strings.Repeat("c", 2*maxLine+5), "\tfoo\r", "end"}

func report() {
	env := os.Environ()
	slices.Sort(env)
	fmt.Println(strings.Join(env, "\n"))
	dir, _ := os.Getwd()
	in, err := io.ReadAll(os.Stdin)
	fds, _ := filepath.Glob("/proc/self/fd/*")
	var inheritable []string
	for _, fd := range fds {
		info, err := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(fd))
		var pos, flags int64
		if err == nil {
			_, err = fmt.Sscanf(string(info), "pos:\t%d\nflags:\t%o", &pos, &flags)
		}
		if err == nil && flags&syscall.O_CLOEXEC == 0 { // else it is this program's own
			inheritable = append(inheritable, filepath.Base(fd))
		}
	}
	fmt.Printf("dir %s\nstdin %q %v\nfds %v\n", dir, in, err, inheritable)
}

// middle is a server that has one worker, and is killed.
func middle() {
	w, err := Start(Spec{ID: "inner", Argv: []string{"/proc/self/exe", "child", "silent"}})
	if err != nil {
		panic(err)
	}
	fmt.Println(w.PID())
	forever()
}

// printed keeps what Output got.
type printed struct {
	mu    sync.Mutex
	lines map[Stream][][]byte
	more  chan struct{}
}

func (p *printed) add(s Stream, _ time.Time, line []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines[s] = append(p.lines[s], line)
	select {
	case p.more <- struct{}{}:
	default:
	}
}

func (p *printed) get(s Stream) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	texts := make([]string, len(p.lines[s]))
	for i, line := range p.lines[s] {
		texts[i] = string(line)
	}
	return texts
}

// line waits for the nth line of stdout.
func (p *printed) line(t *testing.T, n int) string {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		if lines := p.get(Stdout); len(lines) > n {
			return lines[n]
		}
		select {
		case <-p.more:
		case <-deadline:
			t.Fatalf("only %d lines on stdout", len(p.get(Stdout)))
		}
	}
}

func (p *printed) pid(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(p.line(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// run starts the test binary as a worker in the role, on a free port unless set chooses another.
func run(t *testing.T, role string, set ...func(*Spec)) (*Worker, *printed) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := &printed{lines: map[Stream][][]byte{}, more: make(chan struct{}, 1)}
	spec := Spec{
		ID: role + "#1", Argv: []string{exe, "child", role}, Output: out.add,
		Env: []string{"GORACE=atexit_sleep_ms=0"}, // the race detector waits a second at exit
	}
	for _, s := range set {
		s(&spec)
	}
	if spec.Port == 0 {
		spec.Port = freePort(t)
	}
	w, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Kill)
	return w, out
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

func ready(t *testing.T, w *Worker, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return w.Ready(ctx)
}

func mustBeReady(t *testing.T, w *Worker) {
	t.Helper()
	if err := ready(t, w, 10*time.Second); err != nil {
		t.Fatal(err)
	}
}

func mustEnd(t *testing.T, w *Worker) {
	t.Helper()
	if !within(w.Done(), 10*time.Second) {
		t.Fatal("the worker does not end")
	}
}

// eventually polls a fact about another process.
func eventually(t *testing.T, limit time.Duration, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !fact(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
