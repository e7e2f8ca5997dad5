// A live clock over server-sent events, which tells when a new release takes over.
package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
)

//go:embed events.html events.css events.js
var files embed.FS

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
	"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	if err := runtime.StartServer(handler(runtime, time.Second)); err != nil {
		log.Fatal(err)
	}
}

func handler(runtime *worker.Runtime, interval time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Cache-Control", "no-cache")
		http.ServeFileFS(w, r, files, "events.html")
	})
	mux.Handle("GET /events/", http.StripPrefix("/events/", http.HandlerFunc(asset)))
	mux.HandleFunc("GET /events/stream", func(w http.ResponseWriter, r *http.Request) {
		stream(w, r, runtime, interval)
	})
	return mux
}

func asset(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache") // it changes with every release
	http.ServeFileFS(w, r, files, r.URL.Path)
}

// streamFor is how long a stream goes on before its browser reconnects. A
// worker that was replaced keeps the requests that it has until they end, so a
// stream without end would long not see the next release.
const streamFor = 5 * time.Second

// stream sends an event every interval, for streamFor or until the browser goes
// away or the worker is told to stop. The browser then reconnects by itself, to
// the next release if there is one.
func stream(w http.ResponseWriter, r *http.Request, runtime *worker.Runtime, interval time.Duration) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	fmt.Fprint(w, "retry: 250\n\n")
	tick := time.NewTicker(interval)
	defer tick.Stop()
	enough := time.NewTimer(streamFor)
	defer enough.Stop()
	for {
		event, _ := json.Marshal(map[string]any{"time": time.Now().UTC(), "release": runtime.Release})
		fmt.Fprintf(w, "data: %s\n\n", event)
		if out.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-enough.C:
			return
		case <-r.Context().Done():
			return
		case <-runtime.Done():
			return
		}
	}
}
