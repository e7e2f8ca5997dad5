// A JSON API: what is running at /api, and an echo of your request at /api/echo.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
)

const maxBody = 1 << 20 // bytes that /api/echo takes

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	if err := runtime.StartServer(handler(runtime)); err != nil {
		log.Fatal(err)
	}
}

// handler sees full paths: the page at /api gets /api/echo as it is.
func handler(runtime *worker.Runtime) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api", func(w http.ResponseWriter, r *http.Request) { about(w, runtime) })
	mux.HandleFunc("/api", notAllowed("GET, HEAD"))
	mux.HandleFunc("GET /api/echo", echo)
	mux.HandleFunc("POST /api/echo", echo)
	mux.HandleFunc("/api/echo", notAllowed("GET, HEAD, POST"))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "nothing at "+r.URL.Path+"; try /api or /api/echo")
	})
	return mux
}

func about(w http.ResponseWriter, runtime *worker.Runtime) {
	reply(w, http.StatusOK, map[string]any{
		"time":    time.Now().UTC(),
		"release": runtime.Release,
		"pid":     os.Getpid(),
	})
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "the body is larger than 1 MiB")
		return
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "read the body: "+err.Error())
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"method":  r.Method,
		"path":    r.URL.Path,
		"query":   r.URL.Query(),
		"headers": headers(r),
		"body":    strings.ToValidUTF8(string(body), "\uFFFD"),
		"bytes":   len(body),
	})
}

// headers leaves out what should not be reflected, cookies and credentials.
func headers(r *http.Request) map[string]string {
	found := make(map[string]string)
	for _, name := range []string{"Accept", "Content-Type", "User-Agent", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Request-Id"} {
		if value := r.Header.Get(name); value != "" {
			found[name] = value
		}
	}
	return found
}

func notAllowed(methods string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", methods)
		fail(w, http.StatusMethodNotAllowed, r.Method+" is not allowed here; use "+methods)
	}
}

func fail(w http.ResponseWriter, status int, message string) {
	reply(w, status, map[string]any{"error": message, "status": status})
}

func reply(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.Encode(value) // an error means that the client is gone
}
