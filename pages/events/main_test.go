package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
)

func TestPageAndAssets(t *testing.T) {
	h := handler(&worker.Runtime{}, time.Second)
	for _, c := range []struct {
		path        string
		status      int
		contentType string
	}{
		{"/events", 200, "text/html"},
		{"/events/events.js", 200, "text/javascript"},
		{"/events/events.css", 200, "text/css"},
		{"/events/nope", 404, "text/plain"},
		{"/events/../main.go", 307, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
		if w.Code != c.status || !strings.HasPrefix(w.Header().Get("Content-Type"), c.contentType) {
			t.Errorf("GET %s = %d %q, want %d %q", c.path, w.Code, w.Header().Get("Content-Type"), c.status, c.contentType)
		}
	}
}

// Every asset that the page names must be there, and allowed by its policy.
func TestPolicy(t *testing.T) {
	h := handler(&worker.Runtime{}, time.Second)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/events", nil))
	if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy = %q", csp)
	}
	for _, inline := range []string{"<style", "<script>", " style=", " onclick="} {
		if strings.Contains(w.Body.String(), inline) {
			t.Errorf("page has %q, which the policy blocks", inline)
		}
	}
}

func TestStream(t *testing.T) {
	lines, ended := open(t, t.Context(), &worker.Runtime{Release: "c0ffee"})
	var seen []time.Time
	for len(seen) < 3 && lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var event struct {
			Time    time.Time
			Release string
		}
		if err := json.Unmarshal([]byte(data), &event); err != nil || event.Release != "c0ffee" {
			t.Fatalf("event %s: %v, release %q", data, err, event.Release)
		}
		seen = append(seen, event.Time)
	}
	if len(seen) < 3 || !seen[2].After(seen[0]) {
		t.Errorf("times %v (%v), want three that go on", seen, lines.Err())
	}
	select {
	case <-ended:
		t.Error("stream ended by itself")
	default:
	}
}

// A stream that never ended would stay with the release that began it.
func TestStreamEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := httptest.NewRecorder()
		stream(w, httptest.NewRequest("GET", "/events/stream", nil), &worker.Runtime{}, time.Second)
		if took, n := time.Since(began), strings.Count(w.Body.String(), "data: "); took != streamFor || n < 5 {
			t.Errorf("the stream took %v for %d events, want %v", took, n, streamFor)
		}
	})
}

func TestStreamEndsWithClient(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	lines, ended := open(t, ctx, &worker.Runtime{})
	lines.Scan()
	leave()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("handler runs on after its client left")
	}
}

// open starts a stream; ended is closed when its handler returns.
func open(t *testing.T, ctx context.Context, runtime *worker.Runtime) (lines *bufio.Scanner, ended <-chan struct{}) {
	t.Helper()
	end := make(chan struct{})
	h := handler(runtime, time.Millisecond)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(end)
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/events/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type = %q", got)
	}
	return bufio.NewScanner(res.Body), end
}
