package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
)

func call(t *testing.T, r *http.Request) (*httptest.ResponseRecorder, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	handler(&worker.Runtime{Release: "c0ffee"}).ServeHTTP(w, r)
	var value map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &value); err != nil {
		t.Fatalf("%s %s is no JSON: %v\n%s", r.Method, r.URL, err, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("%s %s has content type %q", r.Method, r.URL, got)
	}
	return w, value
}

func TestAbout(t *testing.T) {
	w, got := call(t, httptest.NewRequest("GET", "/api", nil))
	if w.Code != 200 || got["release"] != "c0ffee" || got["pid"] != float64(os.Getpid()) {
		t.Errorf("GET /api = %d %v", w.Code, got)
	}
	if now, err := time.Parse(time.RFC3339, got["time"].(string)); err != nil || time.Since(now) > time.Minute {
		t.Errorf("time = %v, %v", got["time"], err)
	}
}

func TestEcho(t *testing.T) {
	r := httptest.NewRequest("POST", "/api/echo?a=1&a=2", strings.NewReader("hi\xff"))
	r.Header.Set("Content-Type", "text/plain")
	r.Header.Set("Cookie", "secret")
	w, got := call(t, r)
	out, _ := json.Marshal(got)
	want := `{"body":"hi\ufffd","bytes":3,"headers":{"Content-Type":"text/plain"},"method":"POST","path":"/api/echo","query":{"a":["1","2"]}}`
	if w.Code != 200 || strings.ReplaceAll(string(out), "\uFFFD", `\ufffd`) != want {
		t.Errorf("echo = %d\n%s, want\n%s", w.Code, out, want)
	}
	if w, got := call(t, httptest.NewRequest("GET", "/api/echo", nil)); w.Code != 200 || got["method"] != "GET" {
		t.Errorf("GET /api/echo = %d %v", w.Code, got)
	}
}

func TestEchoLimit(t *testing.T) {
	for size, want := range map[int]int{maxBody: 200, maxBody + 1: 413} {
		w, _ := call(t, httptest.NewRequest("POST", "/api/echo", strings.NewReader(strings.Repeat("x", size))))
		if w.Code != want {
			t.Errorf("echo of %d bytes = %d, want %d", size, w.Code, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/api/nope", 404, ""},
		{"GET", "/api/echo/more", 404, ""},
		{"DELETE", "/api", 405, "GET, HEAD"},
		{"PUT", "/api/echo", 405, "GET, HEAD, POST"},
	} {
		w, got := call(t, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || got["status"] != float64(c.status) || got["error"] == "" {
			t.Errorf("%s %s = %d %v, want %d", c.method, c.path, w.Code, got, c.status)
		}
		if allow := w.Header().Get("Allow"); allow != c.allow {
			t.Errorf("%s %s: Allow = %q, want %q", c.method, c.path, allow, c.allow)
		}
	}
}
