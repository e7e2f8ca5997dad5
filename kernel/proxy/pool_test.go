package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

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
	closed := make(chan bool, 100)
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		open.Store(c, true)
		defer func() { closed <- true }()
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
			<-closed // a connection that is being read is not closed before
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
		{alive, "POST", "", "Idempotency-Key", 1000, 502, "worker_closed"},
		{alive, "DELETE", "", "", 1000, 502, "worker_closed"},
		{alive, "POST", "", "", 1000, 502, "worker_closed"},
		{alive, "POST", "", "", 1, 502, "worker_closed"},
		{alive, "POST", "", "", 0, 200, ""},
		{alive, "GET", "body", "", 1000, 200, ""},
		{alive, "PUT", "body", "", 1000, 502, "worker_closed"},
		{alive, "POST", "body", "", 1000, 502, "worker_closed"},
		{alive, "POST", "body", "", 1, 502, "worker_closed"},
		{alive, "POST", "body", "", 0, 200, ""},
		{alive, "POST", "body", "Idempotency-Key", 1000, 502, "worker_closed"},
		{dead, "POST", "", "", 0, 502, "dial"},
		{dead, "POST", "body", "", 0, 502, "dial"},
	} {
		s.backend.Set(c.e)
		got.Store(0)
		kept := keptConn(&dying{writes: c.writes}, c.e)
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
			e.pool.put(keptConn(&closing{n: n, closed: &closed}, e), time.Now())
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

// TestTrustedConnectionIsTakenWithoutALook: right after its last use, while no
// connection of the worker was ever found closed or loud.
func TestTrustedConnectionIsTakenWithoutALook(t *testing.T) {
	e := NewEndpoint(EndpointOptions{})
	defer e.Close()
	now, looks := time.Now(), 0
	c := keptConn(&scripted{}, e)
	c.look = func(uintptr) { looks++ }
	take := func(rested time.Duration, sound bool, want int) {
		t.Helper()
		looks = 0
		e.pool.put(c, now)
		if got := e.pool.take(now.Add(rested)) != nil; got != sound || looks != want {
			t.Errorf("after %v: taken %t, %d looks", rested, got, looks)
		}
	}
	for range trustAfter {
		take(0, true, 1)
	}
	take(0, true, 0)
	take(trustTime, true, 1)
	take(0, true, 0)
	c.seen.err = nil // something has come
	take(trustTime, false, 1)
	take(0, false, 1)
	c.seen.err = syscall.EAGAIN
	take(0, true, 1)
}

// TestDoubt: what a worker does between its answers has its connections looked
// at again.
func TestDoubt(t *testing.T) {
	for name, answer := range map[string]string{
		"closed":  "",
		"loud":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno more",
		"at last": "HTTP/1.1 200 OK\r\nContent-Length: 49152\r\n\r\n" + strings.Repeat("x", 3*receiveBuffer) + "more",
		"early":   "more\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
		"unclear": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
	} {
		e := NewEndpoint(EndpointOptions{})
		e.pool.trust.Store(trustAfter)
		c := keptConn(&scripted{[]byte(answer), 1 << 20}, e)
		c.reused = true
		x := New(Options{}).begin(recorder{httptest.NewRecorder()}, httptest.NewRequest("POST", "/", nil))
		trip := trips.Get().(*trip)
		must(t, trip.prepare(x, e))
		if _, err := trip.attempt(c); (err == nil) != (name == "loud" || name == "at last") {
			t.Errorf("%s: %v", name, err)
		}
		trip.release()
		if n := e.pool.trust.Load(); n != 0 || len(e.pool.idle) > 0 {
			t.Errorf("%s: trusted for %d, %d kept", name, n, len(e.pool.idle))
		}
		e.Close()
	}
}

// TestConnectionOnWhichMoreMayHaveComeIsLookedAt before it is used again, be the
// worker trusted or not.
func TestConnectionOnWhichMoreMayHaveComeIsLookedAt(t *testing.T) {
	large := strings.Repeat("x", receiveBuffer-len("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"))
	for name, c := range map[string]struct {
		method, answer string
		looks          int
	}{
		"plain":         {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 0},
		"no body":       {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 1},
		"not modified":  {"GET", "HTTP/1.1 304 Not Modified\r\n\r\n", 1},
		"a full buffer": {"GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(large), large), 1},
	} {
		e := NewEndpoint(EndpointOptions{})
		e.pool.trust.Store(trustAfter)
		conn, looks := keptConn(&scripted{[]byte(c.answer), 1 << 20}, e), 0
		conn.look = func(uintptr) { looks++ }
		x := New(Options{}).begin(recorder{httptest.NewRecorder()}, httptest.NewRequest(c.method, "/", nil))
		trip := trips.Get().(*trip)
		must(t, trip.prepare(x, e))
		if _, err := trip.attempt(conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		trip.release()
		looks = 0 // the attempt has its own
		if e.pool.take(x.now) != conn || looks != c.looks {
			t.Errorf("%s: %d looks, want %d", name, looks, c.looks)
		}
		e.Close()
	}
}

// TestWhatFollowsASplicedAnswerReachesNobody, also not from a trusted worker.
func TestWhatFollowsASplicedAnswerReachesNobody(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	said := make(chan struct{}, 1)
	e := s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for lines := head(r); len(lines) > 0; lines = head(r) {
			if !strings.Contains(lines[0], "/loud") {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
				continue
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"+strings.Repeat("x", 1<<20)+
				"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
			said <- struct{}{}
		}
	})
	if _, body := s.get("/loud"); len(body) != 1<<20 {
		t.Fatalf("%d bytes", len(body))
	}
	<-said
	e.pool.trust.Store(trustAfter)
	eventually(t, "the connection is kept or closed", func() bool { return e.InFlight() == 0 })
	e.pool.mu.Lock()
	for _, c := range e.pool.idle {
		eventually(t, "too much has come", func() bool { return c.pending() > 0 })
		c.idleSince = time.Now().Add(time.Minute) // it was used a moment ago
	}
	e.pool.mu.Unlock()
	if _, body := s.get("/"); body != "hi" {
		t.Errorf("got %q", body)
	}
}

// keptConn is a connection to be kept, on which nothing has come.
func keptConn(s stream, e *Endpoint) *workerConn {
	c := &workerConn{stream: s, endpoint: e, raw: silent{}, look: func(uintptr) {}}
	c.seen.err = syscall.EAGAIN
	return c
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

// TestGlanceIsMovedNowAndThen: and is not taken for another deadline.
func TestGlanceIsMovedNowAndThen(t *testing.T) {
	s := &timed{}
	c := keptConn(s, nil)
	now := time.Now()
	c.glance(now)
	c.glance(now.Add(glanceTimeout))
	if s.set != 1 || !s.until.Equal(now.Add(2*glanceTimeout)) {
		t.Errorf("set %d times, until %v", s.set, s.until.Sub(now))
	}
	c.glance(now.Add(glanceTimeout + 1))
	if s.set != 2 {
		t.Error("not set again although less than glanceTimeout is left")
	}
	for name, other := range map[string]func(time.Time) error{"both": c.SetDeadline, "read": c.SetReadDeadline, "write": c.SetWriteDeadline} {
		must(t, other(time.Time{}))
		c.glance(now)
		if !s.until.Equal(now.Add(2 * glanceTimeout)) {
			t.Errorf("%s: the other deadline stays", name)
		}
	}
}

// timed notes its deadline.
type timed struct {
	scripted
	set   int
	until time.Time
}

func (c *timed) SetDeadline(t time.Time) error {
	c.set++
	c.until = t
	return nil
}

func (c *timed) SetReadDeadline(t time.Time) error  { c.until = t; return nil }
func (c *timed) SetWriteDeadline(t time.Time) error { c.until = t; return nil }
