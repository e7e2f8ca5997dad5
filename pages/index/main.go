// The start page: what is running, the pages beside it, and how to change it.
package main

import (
	"bytes"
	"embed"
	"html/template"
	"log"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
)

const greeting = "It is live."

//go:embed index.html style.css icon.svg
var files embed.FS

var (
	layout  = template.Must(template.ParseFS(files, "index.html"))
	started = time.Now()
)

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
	if err := runtime.StartServer(handler(runtime)); err != nil {
		log.Fatal(err)
	}
}

// handler also gets every path that belongs to no other page.
func handler(runtime *worker.Runtime) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /style.css", fresh(http.FileServerFS(files)))
	mux.Handle("GET /icon.svg", fresh(http.FileServerFS(files)))
	mux.Handle("GET /favicon.ico", http.RedirectHandler("/icon.svg", http.StatusFound)) // of pages that name no icon
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		render(w, http.StatusOK, look(runtime))
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		v := look(runtime)
		v.Missing = r.URL.Path
		render(w, http.StatusNotFound, v)
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

func render(w http.ResponseWriter, status int, v view) {
	var page bytes.Buffer
	if err := layout.Execute(&page, v); err != nil {
		log.Printf("render index.html: %v", err)
		http.Error(w, "The page could not be rendered.", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(page.Bytes())
}

// fresh makes browsers ask again, as the files change with every release.
func fresh(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}
