package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/proxy"
)

func awaitConnections(t *testing.T, f *front, want int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		n := len(f.cur.open)
		f.mu.Unlock()
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, want %d", n, want)
		}
	}
}

// TestFrontAnswersTheFirstRequestOfANewConnection that comes while it stops.
func TestFrontAnswersTheFirstRequestOfANewConnection(t *testing.T) {
	f := http2Front(t, false, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hi") })
	f.settling = time.Minute
	conn := dialFront(t, f)
	awaitConnections(t, f, 1)
	ended := make(chan error, 1)
	go func() { ended <- f.shutdown(t.Context()) }()
	<-f.cur.in.closed
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != "hi" || !res.Close || err != nil {
		t.Errorf("%s %v %q, %v", res.Status, res.Header, body, err)
	}
	if err := errors.Join(<-ended, f.close()); err != nil {
		t.Error(err)
	}
}

// TestFrontDoesNotWaitForAClientThatSaysNothing for long.
func TestFrontDoesNotWaitForAClientThatSaysNothing(t *testing.T) {
	f := http2Front(t, false, func(http.ResponseWriter, *http.Request) {})
	conn := dialFront(t, f)
	awaitConnections(t, f, 1)
	f.settling = time.Millisecond
	if err := errors.Join(f.shutdown(t.Context()), f.close()); err != nil {
		t.Error(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestFrontTurnsAwayWhoComesTooLate: a connection that was accepted, or is handed over, when nobody serves it any more
// is answered if there is a request, which is logged.
func TestFrontTurnsAwayWhoComesTooLate(t *testing.T) {
	var mu sync.Mutex
	var log []string
	p := proxy.New(proxy.Options{Log: func(e *proxy.Entry) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprint(e.Method, " ", e.Path, " ", e.Status, " ", e.Error))
	}})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fast := false
	limit := func() time.Duration { return time.Minute }
	f := newFront(lis, p.Server("", func() (time.Duration, time.Duration) { return limit(), limit() }), func(error) {})
	f.accelerate(p, proxy.LaneOptions{ReadHeader: limit, Idle: limit}, func() bool { return fast })
	if err := f.shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	const request = "GET /late?x HTTP/1.1\r\nHost: h\r\n\r\n"
	for name, late := range map[string]func(net.Conn){
		"standard":    func(c net.Conn) { fast = false; f.serve(c) },
		"fast":        func(c net.Conn) { fast = true; f.serve(c) },
		"handed over": func(c net.Conn) { io.ReadFull(c, make([]byte, len(request))); f.give(c, []byte(request)) },
	} {
		client, server := tcpPipe(t)
		if _, err := io.WriteString(client, request); err != nil {
			t.Fatal(err)
		}
		f.done.Go(func() { late(server) })
		all, err := io.ReadAll(client)
		if got := string(all); err != nil || !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "X-TQ-Error: no_worker\r\n") || !strings.Contains(got, "Connection: close\r\n") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		client.Close()
		f.done.Wait()
	}
	client, server := tcpPipe(t)
	f.serve(server)
	if n, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("without a request: %d bytes, %v", n, err)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
	if want := strings.Repeat("GET /late 503 no_worker: the server stops\n", 3); strings.Join(log, "\n")+"\n" != want {
		t.Errorf("logged %q", log)
	}
}

// TestFrontClosesThoseItRefusesAtOnce: each has half a second to read why, but not one after the other.
func TestFrontClosesThoseItRefusesAtOnce(t *testing.T) {
	const clients = 60
	begun, release := make(chan struct{}), make(chan struct{})
	f := http2Front(t, false, func(http.ResponseWriter, *http.Request) { begun <- struct{}{}; <-release })
	for range clients {
		if _, err := io.WriteString(dialFront(t, f), "GET / HTTP/1.1\r\nHost: h\r\n\r\nno request\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-begun
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- f.close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(clients / 3 * time.Second / 2):
		t.Error("they are closed one after the other")
		defer func() { <-closed }()
	}
	close(release)
	awaitConnections(t, f, 0)
}

// tcpPipe is both ends of a connection.
func tcpPipe(t *testing.T) (client, server net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if client, err = net.Dial("tcp", lis.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	_ = client.SetDeadline(time.Now().Add(time.Minute))
	if server, err = lis.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}
