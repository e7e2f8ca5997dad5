//go:build linux

package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestReadAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		raw  string
		want answer
		err  string
	}{
		"length":          {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", answer{200, 3, false}, ""},
		"lower case":      {"HTTP/1.1 200 OK\r\ncontent-length:3\r\nconnection: Close\r\n\r\nabc", answer{200, 3, true}, ""},
		"chunks":          {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\n\r\n", answer{200, 13, false}, ""},
		"trailers":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\nZ: z\r\n\r\n", answer{200, 1, false}, ""},
		"other status":    {"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", answer{503, 0, false}, ""},
		"not framed":      {"HTTP/1.1 200 OK\r\n\r\nabc", answer{}, "neither"},
		"cut short":       {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", answer{}, "body of 4 bytes"},
		"cut in a chunk":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", answer{}, "chunk"},
		"no last chunk":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", answer{}, "chunk"},
		"bad chunk":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", answer{}, "chunk"},
		"endless chunk":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n", answer{}, "chunk"},
		"bad length":      {"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", answer{}, "many"},
		"no HTTP":         {"SSH-2.0-OpenSSH\r\n", answer{}, "status line"},
		"bad status":      {"HTTP/1.1 2x0 OK\r\n\r\n", answer{}, "status line"},
		"end of the head": {"HTTP/1.1 200 OK\r\nContent-Le", answer{}, "fields"},
	} {
		in := bufio.NewReader(strings.NewReader(c.raw + strings.Repeat("N", btoi(c.err == "")))) // the next answer is left alone
		got, err := readAnswer(in)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error is %v, not %q", name, err, c.err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if rest, _ := io.ReadAll(in); string(rest) != "N" {
			t.Errorf("%s: %q is left", name, rest)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// speaker answers each request of a connection with the next of the texts, and closes the connection after the last.
// A text of "stall" waits until release is closed.
func speaker(t *testing.T, release <-chan struct{}, texts ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go speak(c, release, texts)
		}
	}()
	return l.Addr().String()
}

func speak(c net.Conn, release <-chan struct{}, texts []string) {
	defer c.Close()
	in := bufio.NewReader(c)
	for _, text := range texts {
		for line := "x"; strings.TrimSpace(line) != ""; {
			var err error
			if line, err = in.ReadString('\n'); err != nil {
				return
			}
		}
		if text == "stall" {
			<-release
			text = good
		}
		_, _ = io.WriteString(c, text)
	}
}

const good = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestClosedConnectionIsAskedAgain(t *testing.T) {
	j := job{Addr: speaker(t, nil, good, good, good), Method: "GET", Paths: []string{"/"}, Want: 2, Connections: 1}
	g := newGenerator(j)
	c := g.clients[0]
	c.deadline = time.Now().Add(time.Minute)
	defer c.close()
	for range 7 {
		c.ask(g.requests)
	}
	if c.answered != 7 || c.retries != 2 || c.errors != 0 {
		t.Errorf("%d answered, %d asked again, %d errors: %v", c.answered, c.retries, c.errors, c.first)
	}
}

func TestWrongAnswersCount(t *testing.T) {
	for name, texts := range map[string][]string{
		"closed at once":   {},
		"another status":   {strings.Replace(good, "200", "502", 1)},
		"too short a body": {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"},
		"cut":              {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx"},
	} {
		g := newGenerator(job{Addr: speaker(t, nil, texts...), Method: "GET", Paths: []string{"/"}, Want: 2, Connections: 1})
		c := g.clients[0]
		c.deadline = time.Now().Add(time.Minute)
		c.ask(g.requests)
		if c.answered != 0 || c.errors != 1 || c.retries != 0 || c.first == nil {
			t.Errorf("%s: %d answered, %d errors, %d asked again, first %v", name, c.answered, c.errors, c.retries, c.first)
		}
		c.close()
	}
}

func TestRequests(t *testing.T) {
	all := requestsOf(job{Method: "POST", Paths: []string{"/a", "/b"}, Upload: 3, Close: true})
	if len(all) != 2 {
		t.Fatalf("%d requests", len(all))
	}
	for _, want := range []string{"POST /b HTTP/1.1\r\n", "\r\nHost: ", "\r\nConnection: close\r\n", "\r\nContent-Length: 3\r\n", "\r\n\r\nxxx"} {
		if !strings.Contains(string(all[1]), want) {
			t.Errorf("%q is not in %q", want, all[1])
		}
	}
}

// TestStallsCount: while one connection waits, requests that are due meanwhile count from when they were due.
func TestStallsCount(t *testing.T) {
	release := make(chan struct{})
	texts := append([]string{"stall"}, make([]string, 0, 100)...)
	for range 200 {
		texts = append(texts, good)
	}
	const length = 400 * time.Millisecond
	g := newGenerator(job{Addr: speaker(t, release, texts...), Method: "GET", Paths: []string{"/"}, Want: 2, Connections: 1, Rate: 100, Length: length})
	var freed atomic.Bool
	timer := time.AfterFunc(2*length, func() { freed.Store(true); close(release) })
	defer timer.Stop()
	begin := time.Now()
	g.runOpen(begin)
	got := g.tally(time.Since(begin))
	if !freed.Load() {
		t.Fatal("all was answered before the stall ended")
	}
	if got.Requests != 40 || got.Errors != 0 {
		t.Fatalf("%d of 40 requests answered, %d errors: %s", got.Requests, got.Errors, got.First)
	}
	// The last was due after 390 ms, and none was answered before 800 ms.
	if least := got.histogram().quantile(0); least < length {
		t.Errorf("a request that waited 400 ms at least counts as %v", least)
	}
}

// TestOpenLoopReconnects: kept connections that are closed, in use or idle, are no errors.
func TestOpenLoopReconnects(t *testing.T) {
	g := newGenerator(job{Addr: speaker(t, nil, good, good, good), Method: "GET", Paths: []string{"/"}, Want: 2, Connections: 4, Rate: 500, Length: 300 * time.Millisecond})
	begin := time.Now()
	g.runOpen(begin)
	if got := g.tally(time.Since(begin)); got.Requests != 150 || got.Errors != 0 {
		t.Errorf("%d of 150 answered, %d errors: %s", got.Requests, got.Errors, got.First)
	}
}

func TestNobodyListens(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	g := newGenerator(job{Addr: local(port), Method: "GET", Paths: []string{"/"}, Want: 2, Connections: 2, Rate: 100, Length: 100 * time.Millisecond})
	begin := time.Now()
	g.runOpen(begin)
	got := g.tally(time.Since(begin))
	if got.Requests != 0 || got.Errors < 10 || !errors.Is(g.clients[0].first, g.clients[0].first) || !strings.Contains(got.First, "refused") {
		t.Errorf("%d answered, %d errors: %s", got.Requests, got.Errors, got.First)
	}
}
