package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// maxPath is what a socket address holds on every platform that we run on, in bytes.
const maxPath = 100

// Listen opens the socket with mode 0600, in a directory that only its user can enter. A stale file is replaced: that
// no other kernel runs is for the caller to know.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("open control socket %s: its path has %d bytes, a socket's may have %d: set a shorter TMPDIR or XDG_RUNTIME_DIR", path, len(path), maxPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	lis, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open control socket: %w", err), lis.Close())
	}
	return lis, nil
}

// Serve answers until ctx ends.
func Serve(ctx context.Context, lis net.Listener, k Kernel) error {
	srv := &http.Server{Handler: handler(k), ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	return answerAll(ctx, lis, srv, "control socket")
}

func answerAll(ctx context.Context, lis net.Listener, srv *http.Server, name string) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(bounded) != nil {
			_ = srv.Close()
		}
	})
	defer func() {
		if !stop() {
			<-ended // the answers under way are out
		}
	}()
	if err := srv.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", name, err)
	}
	return nil
}

func handler(k Kernel) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, k.Status(), nil) })
	mux.HandleFunc("GET /v1/metrics", func(w http.ResponseWriter, r *http.Request) { metrics(w, r, k.Metrics()) })
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) { answer(w, struct{}{}, k.Reload(r.Context())) })
	mux.HandleFunc("POST /v1/plugins/reload", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		answer(w, k.ReloadPlugins(r.Context(), q["stage"], q.Get("force") == "true"), nil)
	})
	mux.HandleFunc("GET /v1/releases", func(w http.ResponseWriter, r *http.Request) {
		releases, err := k.Releases(r.URL.Query().Get("page"))
		answer(w, releases, err)
	})
	mux.HandleFunc("POST /v1/rollback", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		done, err := k.Rollback(r.Context(), q.Get("page"), q.Get("release"))
		answer(w, done, err)
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, _ *http.Request) { k.Stop(); answer(w, struct{}{}, nil) })
	mux.HandleFunc("GET /v1/logs", func(w http.ResponseWriter, r *http.Request) { logs(w, r, k) })
	return mux
}

// problem is the body of an answer that is not 200.
type problem struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		v = problem{err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}

func logs(w http.ResponseWriter, r *http.Request, k Kernel) {
	n, err := strconv.Atoi(r.FormValue("lines"))
	if err != nil || n < 0 {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(problem{fmt.Sprintf("lines=%q is not a number", r.FormValue("lines"))})
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	stream, follow := r.FormValue("stream"), r.FormValue("follow") == "true"
	var live <-chan LogLine
	if follow {
		live = k.Follow(r.Context(), stream) // before Recent: no line is missed between them
	}
	out := json.NewEncoder(w)
	last := time.Time{}
	for _, l := range k.Recent(stream, n) {
		last = l.Time
		_ = out.Encode(l)
	}
	if !follow {
		return
	}
	_ = http.NewResponseController(w).Flush()
	for l := range live {
		if !l.Time.After(last) {
			continue // was among the recent ones
		}
		if out.Encode(l) != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
	}
}
