package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// raw gives the site a worker that is handed each connection.
func (s *site) raw(o EndpointOptions, serve func(net.Conn, *bufio.Reader)) *Endpoint {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(s.t, err)
	o.Addr = l.Addr().String()
	return s.rawOn(l, o, serve)
}

func (s *site) rawOn(l net.Listener, o EndpointOptions, serve func(net.Conn, *bufio.Reader)) *Endpoint {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			})
		}
	})
	e := NewEndpoint(o)
	s.backend.Set(e)
	s.t.Cleanup(func() { e.Close(); l.Close(); all.Wait() })
	return e
}

// head reads the head of a request. It is empty at the end of the connection.
func head(r *bufio.Reader) []string {
	var lines []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil
		}
		if line = strings.TrimSuffix(line, "\r\n"); line == "" {
			slices.Sort(lines[1:])
			return lines
		}
		lines = append(lines, line)
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestRequestAsTheWorkerGetsIt(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	heads := make(chan []string, 1)
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for h := head(r); h != nil; h = head(r) {
			heads <- h
			io.WriteString(c, ok)
		}
	})
	for request, want := range map[string]string{
		"GET /a%2fb?x=%zz;y HTTP/1.1\r\nHost: h:1\r\nX-Many: 1\r\nX-Many: 2\r\n\r\n": "GET /a%2fb?x=%zz;y HTTP/1.1|Host: h:1|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: h:1|X-Forwarded-Proto: http|X-Many: 1|X-Many: 2|X-Request-Id: ID",
		"GET / HTTP/1.0\r\n\r\n":             "GET / HTTP/1.1|Host: WORKER|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: |X-Forwarded-Proto: http|X-Request-Id: ID",
		"POST / HTTP/1.1\r\nHost: h\r\n\r\n": "POST / HTTP/1.1|Content-Length: 0|Host: h|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: h|X-Forwarded-Proto: http|X-Request-Id: ID",
		"DELETE / HTTP/1.1\r\nHost: h\r\nTe: gzip, trailers\r\nKeep-Alive: 5\r\nConnection: X-Hop, Te\r\nX-Hop: 1\r\nExpect: 100-continue\r\n\r\n": "DELETE / HTTP/1.1|Host: h|Te: trailers|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: h|X-Forwarded-Proto: http|X-Request-Id: ID",
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: Host, X-Forwarded-For, Content-Length, Upgrade\r\nUpgrade: a/1\r\n\r\n":                          "GET / HTTP/1.1|Connection: Upgrade|Host: h|Upgrade: a/1|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: h|X-Forwarded-Proto: http|X-Request-Id: ID",
	} {
		_, r := s.dial(request)
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		got := strings.Join(<-heads, "|")
		got = strings.NewReplacer(res.Header.Get("X-Request-Id"), "ID", s.backend.set.Load().endpoints[0].o.Addr, "WORKER").Replace(got)
		if got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", request, got, want)
		}
	}
}

func TestRequestBodiesAsTheWorkerGetsThem(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	tails := make(chan string, 1)
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		h := head(r)
		end := "hello"
		if !slices.Contains(h, "Content-Length: 5") {
			end = "\r\n\r\n"
		}
		var body strings.Builder
		for !strings.HasSuffix(body.String(), end) {
			b, err := r.ReadByte()
			if err != nil {
				break
			}
			body.WriteByte(b)
		}
		h = slices.DeleteFunc(h[1:], func(line string) bool { return strings.HasPrefix(line, "X-") || line == "Host: h" })
		tails <- strings.Join(h, "|") + "\n" + body.String()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") // or the next request may meet a dead connection
	})
	for request, want := range map[string]string{
		"Content-Length: 5\r\n\r\nhello":                                      "Content-Length: 5\nhello",
		"Transfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n":         "Transfer-Encoding: chunked\n5\r\nhello\r\n0\r\n\r\n",
		"Connection: Upgrade\r\nUpgrade: a\r\nContent-Length: 5\r\n\r\nhello": "Content-Length: 5\nhello",
		"Trailer: X-Sum, X_Forged, X-Forwarded-For\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\nX_Forged: 1\r\nX-Forwarded-For: 1\r\n\r\n": "Trailer: X-Sum|Transfer-Encoding: chunked\n0\r\nX-Sum: 1\r\n\r\n",
	} {
		_, r := s.dial("PUT / HTTP/1.1\r\nHost: h\r\n" + request)
		if got := <-tails; got != want {
			t.Errorf("%q:\ngot  %q\nwant %q", request, got, want)
		}
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if res.StatusCode != 200 {
			t.Error(res.Status)
		}
	}
}

// TestHeadGoesAheadOfASilentBody: a client waits for the answer before it
// sends the body.
func TestHeadGoesAheadOfASilentBody(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		flush(w)
		io.Copy(w, r.Body)
	})
	for _, c := range [][2]string{
		{"Content-Length: 100000", strings.Repeat("hello", 20_000)},
		{"Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"},
	} {
		conn, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\n" + c[0] + "\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		io.WriteString(conn, c[1])
		if body, err := io.ReadAll(res.Body); strings.ReplaceAll(string(body), "hello", "") != "" || len(body) == 0 || err != nil {
			t.Errorf("%s: %d bytes, %v", c[0], len(body), err)
		}
	}
}

func TestRefusalNeedsNoByteOfTheBody(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e := s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		head(r)
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		io.Copy(io.Discard, r)
	})
	for _, framing := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
		_, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\n" + framing + "\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if body, err := io.ReadAll(res.Body); res.StatusCode != 413 || string(body) != "no" || err != nil || !res.Close {
			t.Errorf("%s: %s %q %v", framing, res.Status, body, err)
		}
	}
	must(t, e.Drain(t.Context()))
	if n := len(e.pool.idle); n != 0 {
		t.Errorf("%d connections with half a request on them are kept", n)
	}
}

// TestWorkerThatDiesDuringAnUploadIsToBlame: the client stands still in the
// middle of the body, but it is not what failed.
func TestWorkerThatDiesDuringAnUploadIsToBlame(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) { head(r) })
	for _, begun := range []string{"", "some"} {
		_, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + begun)
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if res.StatusCode != 502 || res.Header.Get(errorHeader) != "worker_closed" {
			t.Errorf("after %q: %s %v", begun, res.Status, res.Header)
		}
	}
}

// TestExpectedBodyIsSentUnasked: the worker does not know 100-continue.
func TestExpectedBodyIsSentUnasked(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for head(r) != nil {
			body := make([]byte, 5)
			io.ReadFull(r, body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s", body)
		}
	})
	conn, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	if res.StatusCode != 100 {
		t.Fatal(res.Status)
	}
	io.WriteString(conn, "hello")
	res, err = http.ReadResponse(r, nil)
	must(t, err)
	if body, err := io.ReadAll(res.Body); string(body) != "hello" || err != nil {
		t.Errorf("%s %q, %v", res.Status, body, err)
	}
}

// TestResponseTimeoutCountsFromTheEndOfTheRequest: a client that pauses in its
// body for longer than the timeout gets no answer yet, however slow the machine.
func TestResponseTimeoutCountsFromTheEndOfTheRequest(t *testing.T) {
	const limit = 100 * time.Millisecond
	s := newSite(t, Options{}, BackendOptions{})
	begun := make(chan struct{})
	s.raw(EndpointOptions{ResponseTimeout: limit}, func(c net.Conn, r *bufio.Reader) {
		head(r)
		r.ReadByte()
		close(begun)
		io.Copy(io.Discard, r)
	})
	conn, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	<-begun
	must(t, conn.SetReadDeadline(time.Now().Add(3*limit))) // the client's pause is the input
	if got, err := r.Peek(1); !isTimeout(err) {
		t.Fatalf("before the end of the request: %q, %v", got, err)
	}
	must(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	io.WriteString(conn, "0\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	if e := s.entry(0); res.StatusCode != 504 || !strings.HasPrefix(e.Error, "response_timeout") {
		t.Errorf("%s, logged %+v", res.Status, e)
	}
}

// TestWorkerThatTakesNoBodyIsGivenUp: it neither reads the body nor answers.
func TestWorkerThatTakesNoBodyIsGivenUp(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e := s.raw(EndpointOptions{ResponseTimeout: 100 * time.Millisecond}, func(c net.Conn, r *bufio.Reader) {
		head(r)
		<-t.Context().Done()
	})
	for i, expect := range []string{"", "Expect: 100-continue\r\n"} {
		conn, _ := s.dial("POST / HTTP/1.1\r\nHost: h\r\n" + expect + "Content-Length: 1000000000\r\n\r\n")
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			io.Copy(conn, zeros{})
		}()
		if e := s.entry(i); e.Status != 504 || !strings.HasPrefix(e.Error, "response_timeout") {
			t.Errorf("logged %+v", e)
		}
		conn.Close()
		<-sent
	}
	must(t, e.Drain(t.Context()))
}

// TestSlowWorkerGetsTheWholeBody: it takes a little each time before its time
// is over.
func TestSlowWorkerGetsTheWholeBody(t *testing.T) {
	const size = 200_000
	s := newSite(t, Options{}, BackendOptions{})
	e, _ := s.worker(nil, EndpointOptions{ResponseTimeout: time.Minute})
	s.backend.Set(e)
	worker := &reluctant{left: size, done: make(chan struct{})}
	e.pool.put(keptConn(worker, e), time.Now())
	r := s.request("POST", "/", io.LimitReader(zeros{}, size))
	r.ContentLength = size
	if res, body := s.do(r); res.StatusCode != 200 || body != "ok" {
		t.Errorf("%s %q", res.Status, body)
	}
}

// reluctant is a worker that answers when it has got the body.
type reluctant struct {
	scripted
	left int // of the body
	done chan struct{}
}

func (c *reluctant) Write(p []byte) (n int, err error) {
	if head, body, ok := bytes.Cut(p, []byte("\r\n\r\n")); ok {
		c.left -= len(body)
		return len(head) + 4 + len(body), nil
	}
	if len(p) > 1000 {
		p, err = p[:1000], os.ErrDeadlineExceeded
	}
	if c.left -= len(p); c.left == 0 {
		c.text, c.step = []byte(ok), len(ok)
		close(c.done)
	}
	return len(p), err
}

func (c *reluctant) Read(p []byte) (int, error) {
	<-c.done
	return c.scripted.Read(p)
}

func TestHintsDoNotReachHTTP10(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		head(r)
		io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"+ok)
	})
	_, r := s.dial("GET / HTTP/1.0\r\nHost: h\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	if body, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != "ok" || res.Header.Get("Link") != "" || err != nil {
		t.Errorf("%s %q %v, %v", res.Status, body, res.Header, err)
	}
}

func TestWorkerOnAUnixSocket(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	dir, err := os.MkdirTemp("", "tq") // t.TempDir can be too long for a socket
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	var connections atomic.Int32
	s.rawOn(l, EndpointOptions{Addr: path}, func(c net.Conn, r *bufio.Reader) {
		connections.Add(1)
		for h := head(r); h != nil; h = head(r) {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 1<<20)
			io.CopyN(c, zeros{}, 1<<20)
		}
	})
	for range 3 {
		if res, body := s.get("/"); res.StatusCode != 200 || len(body) != 1<<20 {
			t.Errorf("%s, %d bytes", res.Status, len(body))
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestAbortsInLargeBodiesLeaveNothingBehind: clients go away and workers die
// in the middle of bodies that are spliced.
func TestAbortsInLargeBodiesLeaveNothingBehind(t *testing.T) {
	const size = 32 << 20 // more than the buffers between them hold
	s := newSite(t, Options{}, BackendOptions{})
	e := s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for h := head(r); h != nil; h = head(r) {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			if strings.HasPrefix(h[0], "GET /die") {
				io.CopyN(c, zeros{}, 2<<20)
				c.(*net.TCPConn).SetLinger(0)
				return
			}
			io.CopyN(c, zeros{}, size)
		}
	})
	s.get("/") // leaves what is made once
	goroutines := runtime.NumGoroutine()
	before := openFiles(t)
	for i := range 200 {
		path := "/"
		if i%2 == 1 {
			path = "/die"
		}
		c, r := s.dial("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if path == "/" {
			io.CopyN(io.Discard, res.Body, 100_000)
		} else if n, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Fatalf("a cut answer looks whole after %d bytes", n)
		}
		c.Close()
	}
	must(t, e.Drain(t.Context()))
	kinds := map[string]string{"/": "client_closed", "/die": "worker_closed"}
	for i := range 200 {
		if e := s.entry(i + 1); !strings.HasPrefix(e.Error, kinds[e.Path]) {
			t.Fatalf("logged %+v", e)
		}
	}
	s.client.CloseIdleConnections()
	eventually(t, "goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	eventually(t, "files are closed", func() bool { runtime.GC(); return openFiles(t) <= before+2 }) // pipes go with the garbage
}
