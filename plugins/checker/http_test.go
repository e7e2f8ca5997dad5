package checker

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tqserver/tqserver/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestValidate(t *testing.T) {
	for path, ok := range map[string]bool{"/health": true, "/a?b=c": true, "health": false, "": false, "/a b": false, "/\r\nX: y": false} {
		if err := (HTTPConfig{Path: path}).Validate(); (err == nil) != ok {
			t.Errorf("path %q: %v", path, err)
		}
	}
}

func TestProbe(t *testing.T) {
	release := make(chan struct{})
	requests := make(chan *http.Request, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/500":
			w.WriteHeader(500)
		case "/redirect":
			http.Redirect(w, r, "/health", http.StatusFound)
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/hang":
			<-release
		case "/cut":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		}
	}))
	defer server.Close()
	defer close(release)
	target := sdk.Target{Addr: server.Listener.Addr().String()}
	for path, want := range map[string]string{"/health": "", "/204": "", "/endless": "", "/500": "GET /500 answered 500 Internal Server Error",
		"/redirect": "GET /redirect answered 302 Found", "/hang": "GET /hang: no answer within 50ms", "/cut": "EOF"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if path == "/hang" {
			cancel()
			ctx, cancel = context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("no answer within 50ms")) // as sdk.CheckerFunc does
		}
		err := get(ctx, HTTPConfig{path}, target)
		cancel()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if r := <-requests; !r.Close || r.Method != "GET" {
			t.Errorf("%s: %s with close %v", path, r.Method, r.Close)
		}
	}
	if len(requests) != 0 {
		t.Error("a redirect is followed")
	}
}

func TestProbeOfASocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: lis, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "localhost" {
			w.WriteHeader(http.StatusMisdirectedRequest)
		}
	})}}
	server.Start()
	defer server.Close()
	if err := get(t.Context(), HTTPConfig{"/health"}, sdk.Target{Addr: "unix:" + path}); err != nil {
		t.Error(err)
	}
	if err := get(t.Context(), HTTPConfig{"/health"}, sdk.Target{Addr: "unix:" + path + "x"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestProbeOfNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = get(t.Context(), HTTPConfig{"/health"}, sdk.Target{Addr: l.Addr().String()})
	if err == nil || !strings.HasPrefix(err.Error(), "GET /health: dial tcp 127.0.0.1:") || !strings.HasSuffix(err.Error(), "connection refused") {
		t.Errorf("error is %v", err)
	}
}
