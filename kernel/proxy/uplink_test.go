package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
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
		io.WriteString(c, ok)
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
		{"Content-Length: 5", "hello"},
		{"Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"},
	} {
		conn, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\n" + c[0] + "\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		io.WriteString(conn, c[1])
		if body, err := io.ReadAll(res.Body); string(body) != "hello" || err != nil {
			t.Errorf("%s: %q, %v", c[0], body, err)
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
	for _, framing := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
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
		_, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n" + begun)
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

func TestResponseTimeoutCountsFromTheEndOfTheRequest(t *testing.T) {
	const limit = 100 * time.Millisecond
	s := newSite(t, Options{}, BackendOptions{})
	s.raw(EndpointOptions{ResponseTimeout: limit}, func(c net.Conn, r *bufio.Reader) {
		head(r)
		io.Copy(io.Discard, r)
	})
	conn, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na")
	timer := time.NewTimer(2 * limit) // the client's pause is the input
	defer timer.Stop()
	<-timer.C
	io.WriteString(conn, "b")
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	if e := s.entry(0); res.StatusCode != 504 || !strings.HasPrefix(e.Error, "response_timeout") || e.Duration < 3*limit {
		t.Errorf("%s, logged %+v", res.Status, e)
	}
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

// TestConnectionIsTakenBackOnlyWhole: whatever happens to one request, the
// next gets its own answer.
func TestConnectionIsTakenBackOnlyWhole(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			w.Header().Set("Content-Length", "10000000")
			io.CopyN(w, zeros{}, 10_000_000)
			return
		}
		io.WriteString(w, r.URL.Path)
	})
	for i := range 100 {
		c, r := s.dial("GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
		r.Discard(i * 1000)
		c.Close()
		path := fmt.Sprint("/", i)
		if res, body := s.get(path); res.StatusCode != 200 || body != path {
			t.Fatalf("%s: %s %.20q", path, res.Status, body)
		}
	}
}

// TestPostMeetsNoDeadConnection: the worker has closed all connections that
// were kept, as it does when it is restarted behind its port.
func TestPostMeetsNoDeadConnection(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var open sync.Map
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		open.Store(c, true)
		for h := head(r); h != nil; h = head(r) {
			if strings.HasPrefix(h[0], "POST") {
				r.Discard(4)
			}
			io.WriteString(c, ok)
		}
	})
	for range 50 {
		s.get("/")
		open.Range(func(c, _ any) bool {
			c.(net.Conn).Close()
			open.Delete(c)
			return true
		})
		if res, _ := s.do(s.request("POST", "/", strings.NewReader("body"))); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
}

// dying is a connection that breaks when it is written to, or read from.
type dying struct {
	scripted
	writes int // how many bytes can be written
}

func (c *dying) Write(p []byte) (int, error) {
	if c.writes < len(p) {
		return c.writes, syscall.EPIPE
	}
	return len(p), nil
}

func (*dying) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

// TestWhatIsSentAgain: a connection that was kept looks alive and breaks when
// it is used.
func TestWhatIsSentAgain(t *testing.T) {
	s := newSite(t, Options{}, hold(0, 0))
	var got atomic.Int32
	alive, _ := s.worker(func(w http.ResponseWriter, r *http.Request) {
		got.Add(1)
		io.Copy(w, r.Body)
	}, EndpointOptions{})
	dead, w := s.worker(nil, EndpointOptions{})
	w.Close()
	for _, c := range []struct {
		e            *Endpoint
		method, body string
		header       string
		writes       int
		status       int
		kind         string
	}{
		{alive, "GET", "", "", 1000, 200, ""},
		{alive, "POST", "", "Idempotency-Key", 1000, 200, ""},
		{alive, "DELETE", "", "", 1000, 502, "worker_closed"},
		{alive, "POST", "", "", 1000, 502, "worker_closed"},
		{alive, "POST", "", "", 1, 502, "worker_closed"},
		{alive, "POST", "", "", 0, 200, ""},
		{alive, "GET", "body", "", 1000, 502, "worker_closed"},
		{alive, "POST", "body", "", 1000, 502, "worker_closed"},
		{alive, "POST", "body", "", 1, 502, "worker_closed"},
		{alive, "POST", "body", "", 0, 200, ""},
		{alive, "POST", "body", "Idempotency-Key", 1000, 502, "worker_closed"},
		{dead, "POST", "", "", 0, 502, "dial"},
		{dead, "POST", "body", "", 0, 502, "worker_closed"},
	} {
		s.backend.Set(c.e)
		got.Store(0)
		kept := &workerConn{stream: &dying{writes: c.writes}, endpoint: c.e, raw: silent{}, look: func(uintptr) {}}
		kept.seen.err = syscall.EAGAIN
		c.e.pool.closeIdle()
		c.e.pool.take(time.Now())
		c.e.pool.put(kept, time.Now())
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
		}
		r := s.request(c.method, "/", body)
		if c.header != "" {
			r.Header.Set(c.header, "1")
		}
		res, said := s.do(r)
		if res.StatusCode != c.status || res.Header.Get(errorHeader) != c.kind || c.status == 200 && (said != c.body || got.Load() != 1) || c.status != 200 && got.Load() != 0 {
			t.Errorf("%+v: got %s %s %q, %d requests", c, res.Status, res.Header.Get(errorHeader), said, got.Load())
		}
	}
}

// TestUnaskedBytesSpoilAConnection: a worker says more than its
// Content-Length.
func TestUnaskedBytesSpoilAConnection(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var connections atomic.Int32
	said := make(chan struct{}, 1)
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		connections.Add(1)
		for head(r) != nil {
			io.WriteString(c, ok)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			said <- struct{}{}
		}
	})
	for i := range 20 {
		if res, body := s.get("/"); res.StatusCode != 200 || body != "ok" {
			t.Fatalf("%s %q", res.Status, body)
		}
		<-said
		if n := connections.Load(); n != int32(i+1) {
			t.Fatalf("%d connections for %d requests", n, i+1)
		}
	}
}

func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewEndpoint(EndpointOptions{IdleTimeout: 20 * time.Second}) // ours is 15 s
		var closed []int
		put := func(n int) {
			c := &workerConn{stream: &closing{n: n, closed: &closed}, endpoint: e}
			c.raw, c.look, c.seen.err = silent{}, func(uintptr) {}, syscall.EAGAIN
			e.pool.put(c, time.Now())
		}
		for n := range 3 {
			put(n)
			time.Sleep(5 * time.Second)
		}
		synctest.Wait() // 15 s after the first
		if fmt.Sprint(closed) != "[0]" {
			t.Errorf("closed %v", closed)
		}
		last := e.pool.take(time.Now())
		if n := last.stream.(*closing).n; n != 2 {
			t.Errorf("took %d before the one used last", n)
		}
		e.pool.put(last, time.Now())
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if fmt.Sprint(closed) != "[0 1]" {
			t.Errorf("closed %v", closed)
		}
		e.pool.closeIdle()
		put(3) // was in use meanwhile
		if fmt.Sprint(closed) != "[0 1 2 3]" || e.pool.take(time.Now()) != nil {
			t.Errorf("closed %v", closed)
		}
		put(4)
		if c := e.pool.take(time.Now().Add(15 * time.Second)); c != nil || len(closed) != 5 {
			t.Error("took one that is too old")
		}
		for n := range maxIdleConns + 1 {
			put(n)
		}
		if len(e.pool.idle) != maxIdleConns || len(closed) != 6 {
			t.Errorf("%d idle, %d closed", len(e.pool.idle), len(closed))
		}
		e.Close()
	})
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

// TestUplinkAndReverseProxyAgree: a worker gets the same from both, and a
// client, too.
func TestUplinkAndReverseProxyAgree(t *testing.T) {
	oracle := newReverse()
	t.Cleanup(oracle.close)
	sites := []*site{newSite(t, Options{TrustedProxies: trustLoopback}, BackendOptions{}), newSite(t, Options{TrustedProxies: trustLoopback}, BackendOptions{})}
	sites[1].forward = oracle
	worker := httptest.NewServer(http.HandlerFunc(reflectRequest))
	t.Cleanup(worker.Close)
	for _, s := range sites {
		e := NewEndpoint(EndpointOptions{Addr: worker.Listener.Addr().String()})
		s.backend.Set(e)
		t.Cleanup(e.Close)
	}
	for _, request := range agreed {
		var got [2]string
		for i, s := range sites {
			_, r := s.dial(strings.ReplaceAll(request, "|", "\r\n"))
			got[i] = readAll(t, r, strings.Fields(request)[0])
		}
		if got[0] != got[1] {
			t.Errorf("%s\nuplink:  %s\nreverse: %s", request, got[0], got[1])
		}
	}
}

// reflectRequest answers with the request, in ways that its path asks for.
func reflectRequest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if r.URL.Path == "/chunked" {
		w.Header().Set("Trailer", "X-Sum")
		flush(w)
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
	}
	if r.URL.Path == "/status" {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(204)
		return
	}
	r.Header.Del("X-Request-Id")
	fmt.Fprintln(w, r.Method, r.RequestURI, r.Proto, r.Host, r.Header, r.ContentLength, r.TransferEncoding, string(body), err, r.Trailer)
}

func readAll(t *testing.T, r *bufio.Reader, method string) string {
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	must(t, err)
	body, err := io.ReadAll(res.Body)
	res.Header.Del("X-Request-Id")
	res.Header.Del("Date")
	return fmt.Sprint(res.Status, res.Header, res.ContentLength, res.TransferEncoding, string(body), err, res.Trailer)
}

var agreed = []string{
	"GET / HTTP/1.1|Host: h||",
	"GET / HTTP/1.0|Host: h||",
	"HEAD / HTTP/1.1|Host: h||",
	"GET /status HTTP/1.1|Host: h||",
	"GET /chunked HTTP/1.1|Host: h||",
	"GET /chunked HTTP/1.0|Host: h||",
	"HEAD /chunked HTTP/1.1|Host: h||",
	"OPTIONS /x?a=1;b HTTP/1.1|Host: h||",
	"GET /%41%2f/b//c?&&=%zz HTTP/1.1|Host: h||",
	"GET http://other/x HTTP/1.1|Host: h||",
	"POST / HTTP/1.1|Host: h|Content-Length: 0||",
	"POST / HTTP/1.1|Host: h||",
	"DELETE / HTTP/1.1|Host: h||",
	"PATCH / HTTP/1.1|Host: h|Content-Length: 5||hello",
	"GET / HTTP/1.1|Host: h|Content-Length: 5||hello",
	"POST / HTTP/1.0|Host: h|Content-Length: 5||hello",
	"POST / HTTP/1.1|Host: h|Transfer-Encoding: chunked||5|hello|0||",
	"POST / HTTP/1.1|Host: h|Transfer-Encoding: chunked|Trailer: X-Sum||5|hello|0|X-Sum: 1||",
	"POST /chunked HTTP/1.1|Host: h|Content-Length: 5||hello",
	"GET / HTTP/1.1|Host: h|Cookie: a=1|Cookie: b=2|accept: x|Accept: y||",
	"GET / HTTP/1.1|Host: h|Connection: X-A, close|X-A: 1|X-B: 1|Te: trailers|Proxy-Authorization: x||",
	"GET / HTTP/1.1|Host: h|X_A: 1|X.A: 1|Proxy: x||",
	"GET / HTTP/1.1|Host: h|X-Forwarded-For: 1.1.1.1|X-Forwarded-For: 2.2.2.2|X-Forwarded-Host: a|X-Forwarded-Proto: https|X-Real-Ip: 3.3.3.3||",
	"GET / HTTP/1.1|Host: h|Forwarded: for=1.1.1.1|X-Forwarded-Port: 1||",
	"GET / HTTP/1.1|Host: h|Connection: Upgrade|Upgrade: h2c|Http2-Settings: x||",
	"GET / HTTP/1.1|Host: h|Connection: Upgrade|Upgrade: websocket||",
}

// silent is the raw side of a connection on which nothing has come.
type silent struct{ mute }

func (silent) Control(look func(uintptr)) error { look(0); return nil }

// closing is a connection that notes its end.
type closing struct {
	scripted
	n      int
	closed *[]int
}

func (c *closing) Close() error { *c.closed = append(*c.closed, c.n); return nil }
