//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is clients that ask a page again and again until stopped: GET and POST, on kept and on new connections, quick
// and slow. Every answer must be whole and 200.
type load struct {
	t        *testing.T
	cancel   context.CancelFunc
	done     sync.WaitGroup
	requests atomic.Int64
	mu       sync.Mutex
	failures []string
}

// client is one kind of client.
type client struct {
	name    string
	path    string
	post    int  // bytes of body; 0: GET
	newConn bool // a connection for each request
	pause   time.Duration
}

// everyKind is the mix that a swap must survive.
func everyKind(path string) []client {
	return []client{
		{name: "keep-alive GET", path: path, pause: 2 * time.Millisecond},
		{name: "new connection GET", path: path, newConn: true, pause: 5 * time.Millisecond},
		{name: "keep-alive POST", path: path, post: 64 << 10, pause: 5 * time.Millisecond},
		{name: "new connection POST", path: path, post: 1 << 10, newConn: true, pause: 5 * time.Millisecond},
		{name: "slow GET", path: path + "?ms=2000"},
		{name: "slow POST", path: path + "?ms=300", post: 8 << 10},
	}
}

// startLoad starts the clients. ok judges a whole 200 answer; nil takes any that is not empty.
func (s *site) startLoad(clients []client, ok func(c client, body string) error) *load {
	return s.startJudged(clients, func() func(client, string) error { return ok })
}

// startJudged starts clients that call judge before each request, and what it gives with the answer.
func (s *site) startJudged(clients []client, judge func() func(c client, body string) error) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: s.t, cancel: cancel}
	for _, c := range clients {
		l.done.Go(func() { l.ask(ctx, s.url(c.path), c, judge) })
	}
	s.t.Cleanup(cancel)
	return l
}

func (l *load) ask(ctx context.Context, url string, c client, judge func() func(client, string) error) {
	transport := &http.Transport{DisableKeepAlives: c.newConn}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport, Timeout: 60 * time.Second}
	payload := bytes.Repeat([]byte("x"), c.post)
	for ctx.Err() == nil {
		start := time.Now()
		if err := once(hc, url, c, payload, judge()); err != nil {
			l.fail(fmt.Sprintf("%s after %v at %s: %v", c.name, time.Since(start).Round(time.Millisecond), time.Now().Format("15:04:05.000"), err))
		}
		l.requests.Add(1)
		select {
		case <-time.After(c.pause):
		case <-ctx.Done():
		}
	}
}

// once makes one request to its end, whatever happens to the test meanwhile.
func once(hc *http.Client, url string, c client, payload []byte, ok func(client, string) error) error {
	method, body := http.MethodGet, io.Reader(nil)
	if c.post > 0 {
		method, body = http.MethodPost, bytes.NewReader(payload)
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("truncated after %d bytes: %w", len(b), err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("status %d (%s): %.200s", resp.StatusCode, resp.Header.Get("X-TQ-Error"), b)
	case len(b) == 0:
		return fmt.Errorf("empty body")
	case c.post > 0 && !strings.HasSuffix(strings.TrimSpace(string(b)), fmt.Sprint(" ", c.post)):
		return fmt.Errorf("the page read another body than was sent: %.200s", b)
	case ok != nil:
		return ok(c, string(b))
	}
	return nil
}

func (l *load) fail(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, what)
}

// stop ends the clients after their current request and gives the failures.
func (l *load) stop() []string {
	l.cancel()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failures
}

// mustHold stops the load; a single failure fails the test.
func (l *load) mustHold() {
	l.t.Helper()
	failures := l.stop()
	for _, f := range failures[:min(20, len(failures))] {
		l.t.Errorf("request failed: %s", f)
	}
	l.t.Logf("%d requests, %d failed", l.requests.Load(), len(failures))
	if l.requests.Load() == 0 {
		l.t.Error("no request was made")
	}
}
