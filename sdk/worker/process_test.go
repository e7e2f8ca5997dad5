package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReadyOnceListening(t *testing.T) {
	t.Parallel()
	p := serve(t, "serve")
	res, lines := p.get(t, "/") // no retry: the byte promises that this works
	if lines.Scan(); lines.Text() != "hello" {
		t.Errorf("GET / = %d %q, want hello", res.StatusCode, lines.Text())
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if rest, err := io.ReadAll(p.ready); err != nil || len(rest) != 0 {
		t.Errorf("after the byte came %q, %v; want one byte in all", rest, err)
	}
}

func TestReadyPipeStaysPrivate(t *testing.T) {
	t.Parallel()
	p := launch(t, "parent")
	if err := p.wait(t); err != nil {
		t.Fatalf("%v\n%s", err, p.stderr.String())
	}
	if !p.stdout.has("named=false pipe=false") {
		t.Errorf("a child of the page got %q, want neither variable nor pipe", p.stdout.String())
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := launch(t, "serve", fmt.Sprintf("TQ_PORT=%d", l.Addr().(*net.TCPAddr).Port))
	if err := p.wait(t); err == nil || !p.stderr.has(l.Addr().String()) || !p.stderr.has("page /test") {
		t.Errorf("exit %v, stderr %q; want an error naming page and address", err, p.stderr.String())
	}
	if said, _ := io.ReadAll(p.ready); len(said) != 0 {
		t.Errorf("page said ready (%q) without a listener", said)
	}
}

func TestKernelGoneBeforeReady(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	rt := &Runtime{Port: freePort(t), Route: "/x", ready: w}
	if err := rt.StartServer(nil); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("StartServer without a reader of the pipe = %v, want EPIPE", err)
	}
}

func TestLoopbackOnly(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs 127.0.0.0/8 as loopback")
	}
	t.Parallel()
	p := serve(t, "serve")
	// A listener on all interfaces would answer here too.
	conn, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.2:%d", p.port), patience)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial 127.0.0.2 = %v, want connection refused", err)
	}
}

func TestDrainFinishesRequests(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := serve(t, "serve")
		_, lines := p.get(t, "/slow")
		wantLine(t, lines, "begin")
		p.cmd.Process.Signal(sig)
		eventually(t, "new connections are refused", p.refuses)
		wantLine(t, lines, "end")
		// The grace is longer than the test's patience.
		if err := p.wait(t); err != nil || !p.stdout.has("returned") {
			t.Errorf("after %v: exit %v, stdout %q; want nil from StartServer", sig, err, p.stdout.String())
		}
	}
}

func TestDrainServesOpenConnections(t *testing.T) {
	t.Parallel()
	p := serve(t, "serve")
	conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", p.port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	if res := exchange(t, conn, in); res.Close {
		t.Fatal("worker ends a keep-alive connection by itself")
	}
	_, busy := p.get(t, "/never")
	wantLine(t, busy, "begin")
	p.cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, "a response asks to reconnect", func() bool { return exchange(t, conn, in).Close })
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.wait(t); err != nil {
		t.Error(err)
	}
}

func exchange(t *testing.T, conn net.Conn, in *bufio.Reader) *http.Response {
	t.Helper()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "hello" {
		t.Fatalf("body %q, %v; want hello", body, err)
	}
	return res
}

func TestDrainEndsWithGrace(t *testing.T) {
	t.Parallel()
	p := serve(t, "serve", "TQ_SHUTDOWN_GRACE_PERIOD_MS=200")
	_, lines := p.get(t, "/never")
	wantLine(t, lines, "begin")
	start := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	err := p.wait(t)
	if took := time.Since(start); err != nil || took < 200*time.Millisecond {
		t.Errorf("exit %v after %v, want nil after a grace of 200ms", err, took)
	}
	if !p.stdout.has("returned") {
		t.Error("StartServer did not return nil")
	}
}

func TestSecondSignalHurries(t *testing.T) {
	t.Parallel()
	p := serve(t, "serve")
	_, lines := p.get(t, "/never")
	wantLine(t, lines, "begin")
	p.cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, "new connections are refused", p.refuses)
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.wait(t); err != nil || !p.stdout.has("returned") {
		t.Errorf("exit %v, stdout %q; want nil from StartServer", err, p.stdout.String())
	}
}

func TestStreamFlowsAndEndsOnDone(t *testing.T) {
	t.Parallel()
	p := serve(t, "serve")
	_, lines := p.get(t, "/stream")
	wantLine(t, lines, "data: 3") // arrives while the handler runs
	p.cmd.Process.Signal(syscall.SIGTERM)
	wantLine(t, lines, "data: bye")
	for lines.Scan() {
	}
	if err := lines.Err(); err != nil {
		t.Errorf("stream was cut: %v", err)
	}
	if err := p.wait(t); err != nil {
		t.Error(err)
	}
}

// TestStreamEndsWhenRetired: told that it gets no further requests, the page ends its streams and serves on what it has.
func TestStreamEndsWhenRetired(t *testing.T) {
	t.Parallel()
	p := serve(t, "serve")
	_, slow := p.get(t, "/slow")
	_, lines := p.get(t, "/stream")
	wantLine(t, lines, "data: 1")
	if _, err := p.ready.Write([]byte{'0'}); err != nil {
		t.Fatal(err)
	}
	wantLine(t, lines, "data: bye")
	for lines.Scan() {
	}
	if err := lines.Err(); err != nil {
		t.Errorf("stream was cut: %v", err)
	}
	wantLine(t, slow, "end")
	res, late := p.get(t, "/")
	if late.Scan(); late.Text() != "hello" {
		t.Errorf("GET / after it = %d %q, want hello: the page lives until it is told to end", res.StatusCode, late.Text())
	}
}

// TestPlainPipeIsEnough: a kernel that gives a pipe, which has one direction, gets its byte.
func TestPlainPipeIsEnough(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rt := &Runtime{ready: w}
	release, err := rt.announce()
	if err != nil {
		t.Fatal(err)
	}
	release()
	if said, err := io.ReadAll(r); err != nil || string(said) != "1" {
		t.Errorf("the kernel read %q, %v", said, err)
	}
	if rt.stopping() {
		t.Error("the end of a pipe is taken for the kernel's word")
	}
}

func TestTimeoutsSpareLiveTraffic(t *testing.T) {
	p := serve(t, "serve", "TQ_READ_TIMEOUT_SECONDS=1", "TQ_WRITE_TIMEOUT_SECONDS=1", "TQ_IDLE_TIMEOUT_SECONDS=20")
	t.Run("stream", func(t *testing.T) {
		t.Parallel()
		_, lines := p.get(t, "/stream")
		wantLine(t, lines, "data: 30") // 1.5 s
	})
	t.Run("upload", func(t *testing.T) {
		t.Parallel()
		body, feed := io.Pipe()
		go func() {
			for range 15 {
				feed.Write([]byte("x"))
				time.Sleep(100 * time.Millisecond)
			}
			feed.Close()
		}()
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Post(p.url("/upload"), "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if said, _ := io.ReadAll(res.Body); string(said) != "15 <nil>\n" {
			t.Errorf("upload said %q, want all 15 bytes", said)
		}
	})
	t.Run("connection opened ahead of need", func(t *testing.T) {
		t.Parallel()
		conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", p.port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
		var timeout net.Error
		if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("read = %v, want the connection to stay open beyond the read timeout", err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		exchange(t, conn, bufio.NewReader(conn))
	})
}

func TestPanicIsVisible(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"serve", "foreign-log"} {
		p := serve(t, page)
		if res, err := http.Get(p.url("/panic")); err == nil {
			res.Body.Close()
			t.Errorf("%s: GET /panic = %d, want a broken connection", page, res.StatusCode)
		}
		eventually(t, "panic and stack on stderr of "+page, func() bool {
			return p.stderr.has("lost my marbles") && p.stderr.has("main_test.go:")
		})
		_, lines := p.get(t, "/")
		wantLine(t, lines, "hello")
	}
}

func TestStartedByHand(t *testing.T) {
	t.Parallel()
	p := launch(t, "settings", "TQ_PORT=", "TQ_READY_FD=")
	if err := p.wait(t); err != nil {
		t.Fatal(err)
	}
	if !p.stdout.has("port=9000\n") || !p.stderr.has("TQ_PORT is not set") || !p.stderr.has("http://127.0.0.1:9000") {
		t.Errorf("stdout %q, stderr %q; want port 9000 and a word about it", p.stdout.String(), p.stderr.String())
	}
}

// Every import is link time of every page.
func TestImports(t *testing.T) {
	t.Parallel()
	base := listDeps(t, "net/http")
	for path := range listDeps(t, ".") {
		switch {
		case base[path], path == "os/signal", path == "github.com/tqserver/tqserver/sdk/worker":
		default:
			t.Errorf("imports %s, which net/http does not", path)
		}
	}
}

func listDeps(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", pkg).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	deps := make(map[string]bool)
	for path := range strings.FieldsSeq(string(out)) {
		deps[path] = true
	}
	return deps
}
