package worker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestReady(t *testing.T) {
	for _, role := range []string{"byte", "sdk", "http", "wrapper", "exposed"} {
		t.Run(role, func(t *testing.T) {
			w, _ := run(t, role)
			mustBeReady(t, w)
			mustBeReady(t, w)
			if role != "byte" && !listens(w.PID(), w.Port()) {
				t.Error("ready, but does not listen")
			}
			if got, want := w.Exposed(), role == "exposed"; got != want {
				t.Errorf("exposed: %v, want %v", got, want)
			}
		})
	}
}

func TestNeverReady(t *testing.T) {
	for role, want := range map[string]string{
		"silent": "nothing listens on 127.0.0.1:",
		"sick":   "answered 503 Service Unavailable",
		"mute":   "is not answered",
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			w, _ := run(t, role)
			if role != "silent" {
				eventually(t, 10*time.Second, "the listener", func() bool { return listens(w.PID(), w.Port()) })
			}
			err := ready(t, w, time.Second)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			if !strings.Contains(err.Error(), "TQ_PORT") {
				t.Errorf("%v does not say what to do", err)
			}
			if w.Err() != nil {
				t.Errorf("Ready has ended the worker: %v", w.Err())
			}
		})
	}
}

func TestReadyTellsOfTheExit(t *testing.T) {
	w, _ := run(t, "crash")
	err := ready(t, w, 10*time.Second)
	var details *NotReadyError
	if !errors.Is(err, ErrExited) || !errors.As(err, &details) {
		t.Fatalf("got %v, want ErrExited", err)
	}
	if want := []string{"one", "two", "no newline"}; !slices.Equal(details.Tail, want) {
		t.Errorf("tail %q, want %q", details.Tail, want)
	}
	want := "start worker crash#1: it exited with status 3 before it was ready; last on stderr:\n\tone\n\ttwo\n\tno newline"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

func TestTailKeepsTheReasonOfAPanic(t *testing.T) {
	w, out := run(t, "panic")
	if err := ready(t, w, 10*time.Second); !errors.Is(err, ErrExited) {
		t.Fatal(err)
	}
	tail := w.Tail()
	if len(tail) != tailLines+1 || tail[0] != "panic: no such table: users" {
		t.Fatalf("tail %q", tail)
	}
	all := out.get(Stderr)
	if !slices.Equal(tail[1:], all[len(all)-tailLines:]) {
		t.Errorf("tail %q\nof %q", tail, all)
	}
}

// A stranger on the port who answers /health is neither asked nor taken for the worker.
func TestReadyIsNotFooledByAStranger(t *testing.T) {
	var asked atomic.Int32
	stranger := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	late := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	var looks atomic.Int32
	stranger.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew && looks.Add(1) == 2 { // what the first look saw is known by now
			cancel(late)
		}
	}
	stranger.Start()
	defer stranger.Close()
	port := stranger.Listener.Addr().(*net.TCPAddr).Port

	w, _ := run(t, "silent", func(s *Spec) { s.Port = port })
	err := w.Ready(ctx)
	if !errors.Is(err, late) || !strings.Contains(err.Error(), "belongs to another process") {
		t.Errorf("got %v", err)
	}
	w, _ = run(t, "sdk", func(s *Spec) { s.Port = port })
	err = ready(t, w, 10*time.Second)
	if !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the stranger got %d requests", n)
	}
}

func TestReadyEndsWithItsContext(t *testing.T) {
	w, _ := run(t, "silent")
	cause := errors.New("newer release")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := w.Ready(ctx); !errors.Is(err, cause) {
		t.Fatalf("got %v, want %v", err, cause)
	}
}
