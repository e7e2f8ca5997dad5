package dev

import (
	"fmt"
	"html"
	"net/http"
	"strings"
)

// buildHeader tells a client that is no browser that what it gets is not of the newest source.
const buildHeader = "X-TQ-Build"

// faultHeader is where the proxy says why it, and no worker, has answered.
const faultHeader = "X-TQ-Error"

// serveDocument has a document answered: after a build that is under way, whole and readable, so that the script can
// be put into it, and with a page of the hub's own in place of an error of the proxy.
func (h *Hub) serveDocument(w http.ResponseWriter, r *http.Request, page string, next http.Handler) {
	e := h.await(r.Context(), page) // before a worker is chosen: what it answers is no older than this says
	in := r.WithContext(r.Context())
	in.Header = r.Header.Clone()
	in.Header.Set("Accept-Encoding", "identity")
	for _, name := range [...]string{"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range", "Range"} {
		in.Header.Del(name)
	}
	d := &document{ResponseWriter: w, hub: h, host: r.Host, entry: e}
	next.ServeHTTP(d, in)
	d.finish()
}

// document is the answer to a request that opens one.
type document struct {
	http.ResponseWriter
	hub   *Hub
	host  string
	entry *entry
	began bool   // the head was passed on
	mode  mode   // from then on
	tag   string // while looking
	held  []byte // while looking: what the script may come before
}

// mode is what happens to the body.
type mode int

const (
	passing mode = iota // nothing, or nothing any more
	looking             // for the place of the script
	dropped             // another one was sent in its place
)

var (
	_ http.ResponseWriter = (*document)(nil)
	_ http.Flusher        = (*document)(nil)
)

// Unwrap lets http.ResponseController reach what document does not have.
func (d *document) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// WriteHeader decides what becomes of the answer.
func (d *document) WriteHeader(status int) {
	if d.began || status < 200 {
		d.ResponseWriter.WriteHeader(status)
		return
	}
	d.began = true
	head := d.Header()
	if d.entry.Failed {
		head.Set(buildHeader, "failed")
	}
	if kind := head.Get(faultHeader); kind != "" && status >= 500 {
		d.mode = dropped
		d.hub.apologise(d.ResponseWriter, d.entry, status, kind)
		return
	}
	if takesScript(status, head) {
		d.prepare(head)
	} else if status == http.StatusOK {
		d.warnUnreadable(head)
	}
	d.ResponseWriter.WriteHeader(status)
}

// takesScript tells whether an answer is a document that a browser shows, and that can be read on its way.
func takesScript(status int, head http.Header) bool {
	kind := strings.ToLower(head.Get("Content-Type"))
	encoding := strings.ToLower(head.Get("Content-Encoding"))
	switch {
	case status >= 300 && status < 400, status == http.StatusNoContent, status == http.StatusResetContent, status == http.StatusPartialContent:
		return false
	case !isHTML(kind), strings.Contains(kind, "utf-16"), strings.Contains(kind, "utf-32"):
		return false
	case encoding != "" && encoding != "identity":
		return false
	}
	return !strings.HasPrefix(strings.ToLower(strings.TrimSpace(head.Get("Content-Disposition"))), "attachment")
}

func isHTML(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/html")
}

// warnUnreadable tells why a document that may be HTML gets no script.
func (d *document) warnUnreadable(head http.Header) {
	switch kind := head.Get("Content-Type"); {
	case kind == "" && head.Get("Content-Length") != "0":
		d.hub.warn(d.entry.Name, "it has answered without a Content-Type: what the browser takes for HTML then does not reload by itself")
	case isHTML(kind) && head.Get("Content-Encoding") != "":
		d.hub.warn(d.entry.Name, "it has sent HTML compressed though it was asked not to: that does not reload by itself")
	}
}

// prepare changes the head for a body with the script in it. What names or dates the body is not true of that, and a
// copy that is kept would name an old release.
func (d *document) prepare(head http.Header) {
	nonce, ok := permit(head, ownSource(d.host))
	if !ok {
		d.hub.warn(d.entry.Name, "its Content-Security-Policy lets no script of dev mode run (a sandbox, or 'strict-dynamic' without a nonce): the page does not reload by itself")
		return
	}
	d.mode, d.tag = looking, d.entry.tag(nonce, "")
	for _, name := range [...]string{"Content-Length", "Etag", "Last-Modified", "Accept-Ranges", "Content-Md5", "Digest", "Repr-Digest", "Content-Digest"} {
		head.Del(name)
	}
	head.Set("Cache-Control", "no-store")
}

// tag is the script element. until is what the document waits for, besides a newer one of itself.
func (e *entry) tag(nonce, until string) string {
	var more strings.Builder
	for _, attr := range [...][2]string{{"nonce", nonce}, {"data-until", until}} {
		if attr[1] != "" {
			fmt.Fprintf(&more, ` %s="%s"`, attr[0], html.EscapeString(attr[1]))
		}
	}
	return fmt.Sprintf(`<script async src="%sclient.js?%s" data-page="%s" data-boot="%d" data-reloads="%d" data-styles="%d"%s></script>`,
		Prefix, edition, html.EscapeString(e.Name), e.Boot, e.Reloads, e.Styles.Version, more.String())
}

func (d *document) Write(p []byte) (int, error) {
	if !d.began {
		d.WriteHeader(http.StatusOK)
	}
	switch d.mode {
	case dropped:
		return len(p), nil
	case looking:
		d.held = append(d.held, p...)
		at, found := place(d.held)
		if !found && len(d.held) < maxHeld {
			return len(p), nil
		}
		if err := d.insert(at); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return d.ResponseWriter.Write(p)
}

// insert sends what was held, with the script at a place in it, unless it begins as UTF-16 does.
func (d *document) insert(at int) error {
	held := d.held
	if held[0] >= 0xfe {
		d.tag = ""
	}
	d.mode, d.held = passing, nil
	out := make([]byte, 0, len(held)+len(d.tag))
	out = append(append(append(out, held[:at]...), d.tag...), held[at:]...)
	_, err := d.ResponseWriter.Write(out)
	return err
}

// Flush is FlushError without its error.
func (d *document) Flush() { _ = d.FlushError() }

// FlushError sends what there is, except for what is held: that shows nothing yet.
func (d *document) FlushError() error {
	if !d.began {
		d.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(d.ResponseWriter).Flush()
}

// finish sends what is held when nothing more comes.
func (d *document) finish() {
	if d.mode == looking && len(d.held) > 0 {
		at, _ := place(d.held)
		_ = d.insert(at) // the browser is gone
	}
}

// marked is w for a request that opens no document: all that it gets is the header of a page whose build has failed.
func (h *Hub) marked(w http.ResponseWriter, page string) http.ResponseWriter {
	if e, _ := h.state(page); e.Failed {
		return &marker{ResponseWriter: w}
	}
	return w
}

type marker struct {
	http.ResponseWriter
	began bool
}

func (m *marker) Unwrap() http.ResponseWriter { return m.ResponseWriter }

func (m *marker) WriteHeader(status int) {
	m.began = m.began || status >= 200
	m.Header().Set(buildHeader, "failed")
	m.ResponseWriter.WriteHeader(status)
}

func (m *marker) Write(p []byte) (int, error) {
	if !m.began {
		m.WriteHeader(http.StatusOK)
	}
	return m.ResponseWriter.Write(p)
}
