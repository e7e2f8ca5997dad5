package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestSlowReaderIsNoSilentWorker: the answer stood still once, and since then it is the client that takes its time.
func TestSlowReaderIsNoSilentWorker(t *testing.T) {
	const limit, size = time.Second, 32 << 20
	for name, fast := range map[string]bool{"lane R": true, "lane S": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSiteIn(t, fast, Options{}, BackendOptions{})
			begun := make(chan bool)
			e, _ := s.worker(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "x")
				flush(w)
				<-begun
				piece := make([]byte, 1<<20)
				for range size / len(piece) {
					w.Write(piece)
				}
			}, EndpointOptions{StreamIdleTimeout: limit})
			s.backend.Set(e)
			_, r := s.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			res, err := http.ReadResponse(r, nil)
			must(t, err)
			_, err = io.ReadFull(res.Body, make([]byte, 1))
			must(t, err)
			close(begun)
			<-time.After(limit + limit/4) // takes nothing; what comes fills all buffers
			if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
}

// TestWriteDeadlineOfBefore a reload does not count afterwards.
func TestWriteDeadlineOfBefore(t *testing.T) {
	const short = 50 * time.Millisecond
	var limit atomic.Int64
	limit.Store(int64(short))
	s := newSiteIn(t, true, Options{Timeouts: func() Timeouts { return Timeouts{Write: time.Duration(limit.Load())} }}, BackendOptions{})
	s.serve(text("hi"))
	const get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	c, r := s.dial(get)
	ask := func() {
		t.Helper()
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		must(t, err)
	}
	ask()
	for _, next := range []time.Duration{time.Hour, short, 0} {
		<-time.After(2 * short)
		limit.Store(int64(next))
		io.WriteString(c, get)
		ask()
	}
}

// TestLanePathIsEscapedInTheLog as that of lane S is.
func TestLanePathIsEscapedInTheLog(t *testing.T) {
	s := laneSite(t)
	s.raw(EndpointOptions{}, func(w net.Conn, r *bufio.Reader) {
		if h := head(r); !strings.HasPrefix(h[0], "GET /a\u009b1m%41?\u009b ") {
			t.Errorf("the worker got %q", h[0])
		}
		io.WriteString(w, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	s.exchangeRaw("GET /a\u009b1m%41?\u009b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	if got := s.entry(0).Path; got != "/a%C2%9B1mA" {
		t.Errorf("logged %q", got)
	}
}
