package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slowTo is a client that has sent a head and the beginning of a body.
func (s *site) slowTo(length int, begun string) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	return s.dial(fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", length, begun))
}

// TestSlowSmallBodyHoldsNoWorker: while a client sends its body in pieces, the
// worker is asked by others only.
func TestSlowSmallBodyHoldsNoWorker(t *testing.T) {
	s := newSite(t, Options{}, hold(0, 0))
	e := s.serve(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	for _, length := range []int{10, firstGathered, firstGathered + 1, maxSmallBody, maxSmallBody + 1, maxGathered - 1, maxGathered} {
		body := strings.Repeat("0123456789", length/10+1)[:length]
		c, r := s.slowTo(length, body[:1])
		sent := 1
		for _, end := range []int{length / 2, length - 1} {
			if res, said := s.do(s.request("POST", "/", strings.NewReader("other"))); res.StatusCode != 200 || said != "other" {
				t.Fatalf("%s %q", res.Status, said)
			}
			eventually(t, "nothing is in flight", func() bool { return e.InFlight() == 0 })
			_, err := io.WriteString(c, body[sent:end])
			must(t, err)
			sent = end
		}
		before := e.Requests()
		_, err := io.WriteString(c, body[sent:])
		must(t, err)
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if said, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(said) != body || err != nil || res.Close {
			t.Errorf("%d bytes: %s, %d bytes, %v", length, res.Status, len(said), err)
		}
		if n := e.Requests() - before; n != 1 {
			t.Errorf("%d bytes: sent %d times", length, n)
		}
	}
}

// TestSmallBodyThatStopsCostsNoWorker: the client stops or leaves in the middle
// of it.
func TestSmallBodyThatStopsCostsNoWorker(t *testing.T) {
	s := newSite(t, Options{Timeouts: func() Timeouts { return Timeouts{Read: 50 * time.Millisecond} }}, BackendOptions{})
	e := s.serve(text("not to be asked"))
	for _, begun := range []string{"", "some", strings.Repeat("x", firstGathered+100)} {
		_, r := s.slowTo(10_000, begun)
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if res.StatusCode != 408 || res.Header.Get(errorHeader) != kindReadTimeout || !res.Close {
			t.Errorf("stopped after %d: %s %v", len(begun), res.Status, res.Header)
		}
	}
	for i, begun := range []string{"", "some"} {
		c, _ := s.slowTo(10_000, begun)
		c.Close()
		if e := s.entry(3 + i); e.Status != statusClientClosed && e.Status != 408 {
			t.Errorf("left after %d: logged %+v", len(begun), e)
		}
	}
	if e.Requests() != 0 {
		t.Errorf("the worker was given %d", e.Requests())
	}
}

// TestHTTP2SmallBodyThatStopsCostsNoWorker is the same over HTTP/2.
func TestHTTP2SmallBodyThatStopsCostsNoWorker(t *testing.T) {
	s := newHTTP2Site(t, Options{Timeouts: func() Timeouts { return Timeouts{Read: 50 * time.Millisecond} }})
	e := s.serve(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	body, stalled := io.Pipe()
	defer stalled.Close()
	r := s.request("POST", "/", body)
	r.ContentLength = 10
	if res, _ := s.do(r); res.StatusCode != 408 || res.Header.Get(errorHeader) != kindReadTimeout || e.Requests() != 0 {
		t.Errorf("%s %v, the worker was given %d", res.Status, res.Header, e.Requests())
	}
	if res, said := s.do(s.request("POST", "/", strings.NewReader("whole"))); res.StatusCode != 200 || said != "whole" {
		t.Errorf("%s %q", res.Status, said)
	}
}

// full is a connection that takes no more than the head and a little of the
// body, but has an answer.
type full struct {
	scripted
	takes int
}

func (c *full) Write(p []byte) (int, error) { return min(len(p), c.takes), syscall.EPIPE }

// TestAnswerToABodyThatIsNotTaken: the worker refuses it in the middle, which
// is not the end of the worker.
func TestAnswerToABodyThatIsNotTaken(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e := s.serve(text("not to be asked"))
	c := &full{scripted{[]byte("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"), 1000}, 5000}
	e.pool.put(keptConn(c, e), time.Now())
	res, said := s.do(s.request("POST", "/", strings.NewReader(strings.Repeat("x", 10_000))))
	if res.StatusCode != 413 || said != "no" {
		t.Errorf("%s %q", res.Status, said)
	}
	if n := len(e.pool.idle); n != 0 {
		t.Errorf("%d connections with half a request on them are kept", n)
	}
}
