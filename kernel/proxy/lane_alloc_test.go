package proxy

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// stingyWorker answers every request of n bytes with answer, and allocates
// nothing in between.
func stingyWorker(t testing.TB, n int, answer string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serveStingily(c, n, []byte(answer))
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func serveStingily(c net.Conn, n int, answer []byte) {
	defer c.Close()
	end := []byte("\r\n\r\n")
	for buf, have := make([]byte, 64<<10), 0; ; {
		k, err := c.Read(buf[have:])
		if err != nil {
			return
		}
		have += k
		head := bytes.Index(buf[:have], end)
		if head < 0 || have < head+len(end)+n {
			continue
		}
		have = 0
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// TestLaneAllocatesNothing for a request over connections that are open, with
// routing, a log and all timeouts.
func TestLaneAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget at random under the race detector")
	}
	header := strings.ReplaceAll(browserHeader, "|", "\r\n")
	plain := "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 12:00:00 GMT\r\nx-custom-field: a\r\nContent-Type: text/plain\r\n"
	for _, c := range []struct {
		name, head, body, answer string
	}{
		{"GET", "GET /a/b?c=d HTTP/1.1\r\nhost: h\r\n" + header + "\r\n", "", plain + "Content-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024)},
		{"no date", "GET / HTTP/1.1\r\nHost: h\r\n" + header + "\r\n", "", "HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024)},
		{"POST", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1024\r\n" + header + "\r\n", strings.Repeat("b", 1024), plain + "Content-Length: 2\r\n\r\nok"},
		{"chunked", "GET / HTTP/1.1\r\nHost: h\r\n" + header + "\r\n", "", plain + "Transfer-Encoding: chunked\r\n\r\n400\r\n" + strings.Repeat("x", 1024) + "\r\n0\r\n\r\n"},
		{"304", "GET / HTTP/1.1\r\nHost: h\r\nIf-None-Match: x\r\n\r\n", "", "HTTP/1.1 304 Not Modified\r\nEtag: x\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var logged atomic.Int64
			p := New(Options{
				Timeouts: func() Timeouts { return Timeouts{Read: 30 * time.Second, Write: 30 * time.Second} },
				Log:      func(e *Entry) { logged.Add(int64(e.Status)) },
			})
			e := NewEndpoint(EndpointOptions{Addr: stingyWorker(t, len(c.body), c.answer), ResponseTimeout: 30 * time.Second})
			t.Cleanup(e.Close)
			backend := NewBackend("index", BackendOptions{})
			backend.Set(e)
			must(t, p.SetRoutes([]Route{{Path: "/", Backend: backend}}))
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			f := newFastSite(p, l, laneTimeouts(30*time.Second, time.Minute))
			t.Cleanup(f.stop)
			client := dialStingily(t, f.Addr().String(), c.head+c.body)
			if n := testing.AllocsPerRun(2000, func() { client.ask(t) }); n != 0 {
				t.Errorf("%v allocations for each request", n)
			}
			if s := f.lane.Stats(); s.Requests != 2001 || logged.Load() == 0 {
				t.Errorf("the lane has served %d requests", s.Requests)
			}
		})
	}
}

// stingyClient sends one request again and again, and expects answers of one
// length.
type stingyClient struct {
	c       net.Conn
	request []byte
	buf     []byte
	n       int // bytes of an answer
}

func dialStingily(t testing.TB, addr, request string) *stingyClient {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &stingyClient{c: c, request: []byte(request), buf: make([]byte, 8<<10)}
}

// ask learns from the first answer, which comes in one piece, how long they
// are.
func (c *stingyClient) ask(t testing.TB) {
	if _, err := c.c.Write(c.request); err != nil {
		t.Fatal(err)
	}
	if c.n == 0 {
		n, err := c.c.Read(c.buf)
		if err != nil || !bytes.HasPrefix(c.buf, []byte("HTTP/1.1 ")) {
			t.Fatalf("%q, %v", c.buf[:n], err)
		}
		c.n = n
		return
	}
	if _, err := io.ReadFull(c.c, c.buf[:c.n]); err != nil {
		t.Fatal(err)
	}
}
