package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// echoUpgrade is a worker that upgrades to "echo": it greets, echoes lines,
// and says bye at the end.
func echoUpgrade(w http.ResponseWriter, r *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, X-Hop\r\nUpgrade: Echo\r\nX-Hop: 1\r\nX-Kept: 1\r\n\r\nhello\n")
	for {
		line, err := rw.ReadString('\n')
		if err != nil {
			io.WriteString(c, "bye\n")
			return
		}
		io.WriteString(c, line)
	}
}

const askEcho = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n"

func expectLines(t *testing.T, r *bufio.Reader, want ...string) {
	t.Helper()
	for _, w := range want {
		if got, err := r.ReadString('\n'); got != w+"\n" || err != nil {
			t.Fatalf("got %q, %v; want %q", got, err, w)
		}
	}
}

func TestUpgradeLosesNoByte(t *testing.T) {
	s := newSite(t, Options{Timeouts: func() Timeouts { return Timeouts{Read: 50 * time.Millisecond, Write: time.Second} }}, BackendOptions{})
	e := s.serve(echoUpgrade)
	for range 20 {
		c, r := s.dial(askEcho + "early\n") // in one packet with the handshake
		res, err := http.ReadResponse(r, &http.Request{Method: "GET"})
		must(t, err)
		if res.StatusCode != 101 || res.Header.Get("Upgrade") != "Echo" || res.Header.Get("X-Kept") == "" || res.Header.Get("X-Hop") != "" || res.Header.Get("X-Request-Id") == "" {
			t.Fatalf("%s %v", res.Status, res.Header)
		}
		expectLines(t, r, "hello", "early")
		io.WriteString(c, "late\n")
		expectLines(t, r, "late")
		if e.InFlight() != 1 {
			t.Errorf("%d in flight", e.InFlight())
		}
		must(t, c.(*net.TCPConn).CloseWrite()) // half: the answer still comes
		expectLines(t, r, "bye")
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
		must(t, e.Drain(t.Context()))
	}
	if e := s.entry(0); e.Status != 101 || e.Error != "" || e.Bytes != int64(len("hello\nearly\nlate\nbye\n")) {
		t.Errorf("logged %+v", e)
	}
}

// A client that does not hang up after the worker has must not stay in flight.
func TestUpgradedClientThatStaysIsCut(t *testing.T) {
	s := newSite(t, Options{Timeouts: func() Timeouts { return Timeouts{Read: 50 * time.Millisecond} }}, BackendOptions{})
	leave := make(chan struct{})
	e := s.serve(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello\n")
		<-leave
	})
	_, r := s.dial(askEcho)
	_, err := http.ReadResponse(r, &http.Request{Method: "GET"})
	must(t, err)
	expectLines(t, r, "hello")
	close(leave)
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	must(t, e.Drain(ctx))
}

func TestUpgradeEndsWithItsEndpoint(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e := s.serve(echoUpgrade)
	_, r := s.dial(askEcho)
	_, err := http.ReadResponse(r, &http.Request{Method: "GET"})
	must(t, err)
	expectLines(t, r, "hello")
	s.backend.Set()
	e.Close()
	if _, err := r.ReadByte(); err == nil {
		t.Error("connection is still open")
	}
	must(t, e.Drain(t.Context()))
}

func TestH2CUpgradeIsNotForwarded(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(echoHeader)
	h := s.seen("Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "Http2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")
	if h.Get("Upgrade") != "" || h.Get("Http2-Settings") != "" {
		t.Errorf("worker saw %v", h)
	}
}

// TestHTTP10DoesNotUpgrade: RFC 9110 7.8 wants the offer ignored.
func TestHTTP10DoesNotUpgrade(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Upgrade")) })
	_, r := s.dial(strings.Replace(askEcho, "HTTP/1.1", "HTTP/1.0", 1))
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	if body, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != "" || err != nil {
		t.Errorf("%s %q, %v", res.Status, body, err)
	}
}
