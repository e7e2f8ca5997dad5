// The start page: what is running, the pages beside it, and how to change it.
package main

import (
	"log"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
	"github.com/tqserver/tqserver/sdk/worker/templates"
)

const greeting = "It is live."

var started = time.Now()

const policy = "default-src 'none'; style-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// view is what index.html shows.
type view struct {
	Greeting     string
	Missing      string // the path that no page answers; "" on the start page
	Source, Site string // where to edit: relative to the site's root, and that root
	Pages        []page
	Runtime      *worker.Runtime
	PID          int
	Go           string
	Procs        int // how many threads run Go code at once
	Uptime       time.Duration
	Requests     int32
}

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	layout, err := templates.New(runtime, templates.Dir(".", "index.html"))
	if err != nil {
		log.Fatal(err)
	}
	if err := runtime.StartServer(handler(runtime, layout)); err != nil {
		log.Fatal(err)
	}
}

// handler also gets every path that belongs to no other page. Nothing that it serves is part of the program: saving
// index.html, style.css or icon.svg needs no build.
func handler(runtime *worker.Runtime, layout *templates.Set) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /style.css", file(runtime, "style.css"))
	mux.Handle("GET /icon.svg", file(runtime, "icon.svg"))
	mux.Handle("GET /favicon.ico", http.RedirectHandler("/icon.svg", http.StatusFound)) // of pages that name no icon
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		render(w, layout, http.StatusOK, look(runtime))
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		v := look(runtime)
		v.Missing = r.URL.Path
		render(w, layout, http.StatusNotFound, v)
	})
	return mux
}

// look takes a fresh look at the site for every request, so that a page that
// has just been added shows.
func look(runtime *worker.Runtime) view {
	source, site := locate(runtime.PageDir)
	return view{
		Greeting: greeting,
		Source:   source,
		Site:     site,
		Pages:    findPages(filepath.Dir(filepath.Join(site, source))),
		Runtime:  runtime,
		PID:      os.Getpid(),
		Go:       goruntime.Version(),
		Procs:    goruntime.GOMAXPROCS(0),
		Uptime:   time.Since(started).Round(time.Second),
		Requests: runtime.GetRequestCount(),
	}
}

// locate splits the page's directory into the site's root, which is the
// working directory of every worker, and the way from there.
func locate(dir string) (source, site string) {
	site, err := os.Getwd()
	if err != nil {
		site = "."
	}
	if dir == "" { // started by hand, in the site's root
		return filepath.Join("pages", "index"), site
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return dir, site
	}
	if source, err := filepath.Rel(site, dir); err == nil && filepath.IsLocal(source) {
		return source, site
	}
	return filepath.Base(dir), filepath.Dir(dir)
}

func render(w http.ResponseWriter, layout *templates.Set, status int, v view) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	layout.RenderStatus(w, status, "index.html", v)
}

// file serves one file of the page. Browsers ask again each time, as it may have been saved.
func file(runtime *worker.Runtime, name string) http.Handler {
	source, site := locate(runtime.PageDir)
	path := filepath.Join(site, source, name)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		http.ServeFile(w, r, path)
	})
}
