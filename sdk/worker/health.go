package worker

import (
	"net/http"
	"strings"
)

const healthPath = "/health"

// withHealth answers the checker for a page that does not do so itself, as far
// as that can be known: only a *http.ServeMux tells what it would match.
func withHealth(handler http.Handler) http.Handler {
	if handler == nil {
		handler = http.DefaultServeMux
	}
	mux, ok := handler.(*http.ServeMux)
	if !ok {
		return handler
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isProbe(r) || ownsHealth(mux, r) {
			mux.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte("OK"))
	})
}

func isProbe(r *http.Request) bool {
	return r.URL.Path == healthPath && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// ownsHealth reports whether the page has a pattern that names /health, with
// or without a method and a host. Catch-alls such as "/" and "/{path...}" don't
// count: they would answer a probe with whatever the page shows for lost
// visitors.
func ownsHealth(mux *http.ServeMux, r *http.Request) bool {
	_, pattern := mux.Handler(r)
	path := pattern[max(0, strings.Index(pattern, "/")):]
	return strings.HasPrefix(path, healthPath)
}
