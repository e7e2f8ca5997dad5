package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// TestAnAnswerIsNotBegunTwice: a worker that lives on breaks a connection off
// in the middle of an answer, on a connection that was used before.
func TestAnAnswerIsNotBegunTwice(t *testing.T) {
	const chunk = 1 << 20 // more than is read at a time
	for name, head200 := range map[string]string{
		"length":  fmt.Sprintf("Content-Length: %d\r\n\r\n", 2*chunk),
		"chunked": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", 2*chunk),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Options{}, BackendOptions{})
			var got atomic.Int32
			s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
				for h := head(r); h != nil; h = head(r) {
					if !strings.HasPrefix(h[0], "GET /cut") {
						io.WriteString(c, ok)
						continue
					}
					got.Add(1)
					io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head200)
					io.CopyN(c, zeros{}, chunk)
					return
				}
			})
			s.get("/")
			res, err := s.client.Do(s.request("GET", "/cut", nil))
			must(t, err)
			defer res.Body.Close()
			n, err := io.Copy(io.Discard, res.Body)
			if err == nil || n > chunk {
				t.Errorf("got %d of %d bytes, %v", n, chunk, err)
			}
			if n := got.Load(); n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	}
}

// TestHintsAreTheBeginningOfAnAnswer: what was hinted at is under way.
func TestHintsAreTheBeginningOfAnAnswer(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var got atomic.Int32
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for h := head(r); h != nil; h = head(r) {
			if !strings.HasPrefix(h[0], "GET /cut") {
				io.WriteString(c, ok)
				continue
			}
			got.Add(1)
			io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
			return
		}
	})
	s.get("/")
	if res, _ := s.get("/cut"); res.StatusCode != 502 || got.Load() != 1 {
		t.Errorf("%s, sent %d times", res.Status, got.Load())
	}
}

// TestClientThatLeavesHasNothingRepeated: it leaves an answer that is spliced.
func TestClientThatLeavesHasNothingRepeated(t *testing.T) {
	const size = 32 << 20
	s := newSite(t, Options{}, BackendOptions{})
	var got atomic.Int32
	e := s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for h := head(r); h != nil; h = head(r) {
			if !strings.HasPrefix(h[0], "GET /large") {
				io.WriteString(c, ok)
				continue
			}
			got.Add(1)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			io.CopyN(c, zeros{}, size)
		}
	})
	for range 20 {
		s.get("/")
		got.Store(0)
		c, r := s.dial("GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		io.CopyN(io.Discard, res.Body, 100_000)
		c.Close()
		eventually(t, "request ends", func() bool { return e.InFlight() == 0 })
		if n := got.Load(); n != 1 {
			t.Fatalf("sent %d times", n)
		}
	}
}
