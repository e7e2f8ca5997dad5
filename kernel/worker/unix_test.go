package worker

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// onSocket gives a worker a socket in a directory of its own.
func onSocket(t *testing.T) func(*Spec) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tq") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return func(s *Spec) { s.Socket = filepath.Join(dir, "s") }
}

// socketPage answers on its socket, and says that it is ready if it is told to.
func socketPage() {
	l, err := net.Listen("unix", os.Getenv("TQ_SOCKET"))
	if err != nil {
		panic(err)
	}
	if os.Getenv("SAY") != "" {
		sayReady()
	}
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" || os.Getenv("SICK") != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
}

func TestReadyOnASocket(t *testing.T) {
	for _, env := range []string{"SAY=1", "SAY="} {
		w, _ := run(t, "socket", onSocket(t), func(s *Spec) { s.Env = append(s.Env, env) })
		mustBeReady(t, w)
		if info, err := os.Stat(w.spec.Socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%s: the socket is %v, %v", env, info.Mode(), err)
		}
		if w.Exposed() {
			t.Error("a socket counts as exposed")
		}
	}
}

// What is wrong with a worker that is not to be found at its socket is said with what to do about it.
func TestNotReadyOnASocket(t *testing.T) {
	for role, want := range map[string]struct {
		limit time.Duration
		text  string
		err   error
	}{
		"byte":   {10 * time.Second, "it says that it is ready, but nothing listens on ", fs.ErrNotExist},
		"crash":  {10 * time.Second, "exited with status 3 before it was ready (if it missed TQ_PORT: ", ErrExited},
		"silent": {100 * time.Millisecond, "nothing listens on ", nil},
	} {
		w, _ := run(t, role, onSocket(t))
		err := ready(t, w, want.limit)
		if err == nil || !strings.Contains(err.Error(), want.text) || !strings.Contains(err.Error(), deafSocket) || want.err != nil && !errors.Is(err, want.err) {
			t.Errorf("%s: %v\nwant %q, %q, %v", role, err, want.text, deafSocket, want.err)
		}
	}
	w, _ := run(t, "socket", onSocket(t), func(s *Spec) { s.Env = append(s.Env, "SICK=1") })
	eventually(t, 10*time.Second, "the socket", w.hasSocket)
	if err := ready(t, w, 100*time.Millisecond); err == nil || strings.Contains(err.Error(), deafSocket) || !strings.Contains(err.Error(), "TQ_SOCKET") {
		t.Errorf("a worker that is not well on its socket: %v", err)
	}
}

func TestEnvironOfASocket(t *testing.T) {
	got := environ(nil, Spec{Socket: "/run/w/1.sock", Env: []string{"TQ_PORT=1"}})
	if !slices.Contains(got, "TQ_SOCKET=/run/w/1.sock") || slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "TQ_PORT") }) {
		t.Errorf("got %q, want TQ_SOCKET and no TQ_PORT", got)
	}
}
