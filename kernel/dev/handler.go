package dev

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Prefix is the path below which dev mode keeps its own files. No page is asked for them.
const Prefix = "/_tqserver/dev/"

const (
	beat       = 15 * time.Second // between two signs of life on a stream
	writeLimit = 10 * time.Second // for a browser to take what was written
)

var (
	//go:embed overlay.js
	overlayJS string
	//go:embed client.js
	clientJS string
	//go:embed worker.js
	workerJS string
)

// pageJS is what runs in documents; it names nothing there.
var pageJS = "(() => {\n\"use strict\";\n" + overlayJS + clientJS + "})();\n"

// edition changes with the scripts, so that a browser never mixes those of two servers.
var edition = func() string {
	sum := sha256.Sum256([]byte(pageJS + workerJS))
	return hex.EncodeToString(sum[:4])
}()

// Handler is next with dev mode in front of it. Only documents that a browser opens are changed: see Options.Known and
// opensDocument for which those are.
func (h *Hub) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := strings.HasPrefix(r.URL.Path, Prefix)
		switch page := ""; {
		case own:
			h.serveOwn(w, r)
		case !h.known(r.Host):
			if opensDocument(r) {
				h.warn("", fmt.Sprintf("pages that are opened as %q do not reload: it is neither a loopback name, an address, nor the host of a route", r.Host))
			}
			next.ServeHTTP(w, r)
		default:
			if page = h.o.Page(r.Host, r.URL.Path); page == "" {
				next.ServeHTTP(w, r)
			} else if opensDocument(r) {
				h.serveDocument(w, r, page, next)
			} else {
				next.ServeHTTP(h.marked(w, page), r)
			}
		}
	})
}

// opensDocument tells whether a browser opens a document with a request: by what it says of itself, or else by what it
// accepts. Scripts that fetch HTML to put it into a document are told apart by the headers that they send.
func opensDocument(r *http.Request) bool {
	h := r.Header
	if r.Method != http.MethodGet || h.Get("HX-Request") != "" || h.Get("X-Requested-With") != "" || h.Get("Turbo-Frame") != "" {
		return false
	}
	if mode := h.Get("Sec-Fetch-Mode"); mode != "" && mode != "navigate" {
		return false
	}
	switch h.Get("Sec-Fetch-Dest") {
	case "document", "iframe", "frame":
		return true
	case "":
		return strings.Contains(h.Get("Accept"), "text/html")
	}
	return false
}

// known tells whether the server is asked under a name of its own. An address cannot be made to lead elsewhere, so it
// needs no list.
func (h *Hub) known(hostport string) bool {
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || h.o.Known != nil && h.o.Known(host)
}

// sameSite tells whether a request comes from a document of this server, as far as the browser tells.
func sameSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// serveOwn answers for what dev mode keeps below Prefix.
func (h *Hub) serveOwn(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cross-Origin-Resource-Policy", "same-origin")
	head.Set("Cache-Control", "no-store")
	switch {
	case !h.known(r.Host) || !sameSite(r):
		http.Error(w, "dev mode answers to its own site only", http.StatusForbidden)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		head.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	switch strings.TrimPrefix(r.URL.Path, Prefix) {
	case "client.js":
		script(w, pageJS)
	case "worker.js":
		script(w, workerJS)
	case "events":
		h.stream(w, r)
	default:
		http.Error(w, "dev mode has no such file", http.StatusNotFound)
	}
}

func script(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=31536000, immutable") // the address has the edition
	_, _ = io.WriteString(w, text)                                 // the browser is gone
}

// stream sends the states of all pages, and each new one, until the browser goes or the hub is closed. Of states that
// come faster than the browser takes them, it gets the newest.
func (h *Hub) stream(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	send := func(text string) error {
		_ = control.SetWriteDeadline(time.Now().Add(writeLimit)) // a writer without deadlines is a test's
		if _, err := w.Write([]byte(text)); err != nil {
			return err
		}
		return control.Flush()
	}
	if send("retry: 500\n\n") != nil || r.Method == http.MethodHead {
		return
	}
	defer h.looking()()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for sent := uint64(0); ; {
		states, version, changed, open := h.newer(sent)
		if !open {
			return
		}
		for _, e := range states {
			if send(event(e)) != nil {
				return
			}
		}
		sent = version
		select {
		case <-changed:
		case <-tick.C:
			if send(": still here\n\n") != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

func event(e *entry) string {
	data, err := json.Marshal(e)
	if err != nil { // numbers and texts: they can always be written
		return fmt.Sprintf(": %q\n\n", err)
	}
	return "data: " + string(data) + "\n\n"
}

// await waits while newer code of a page is on its way, but not for longer than Options.Wait, and gives the state then.
func (h *Hub) await(ctx context.Context, page string) *entry {
	defer h.opening(page)()
	e, changed := h.state(page)
	if !e.Building || h.o.Wait == nil {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, h.o.Wait())
	defer cancel()
	for e.Building && changed != nil {
		select {
		case <-changed:
			e, changed = h.state(page)
		case <-ctx.Done():
			return e
		}
	}
	return e
}
