package dev

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// testHub serves one page, x, at /.
func testHub(t *testing.T, s State) *Hub {
	t.Helper()
	h := New(Options{
		Page:  func(_, path string) string { return map[bool]string{true: "x"}[!strings.HasPrefix(path, "/none")] },
		Known: func(host string) bool { return host == "site.example" },
		Wait:  func() time.Duration { return time.Second },
	})
	t.Cleanup(h.Close)
	s.Name = "x"
	h.Set(s)
	return h
}

// opening is a request as a browser sends it that opens a document.
func opening(path string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = "127.0.0.1:8080"
	for name, value := range map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html", "Accept-Encoding": "gzip, br",
		"If-None-Match": `"1"`, "If-Modified-Since": "Mon, 02 Jan 2006 15:04:05 GMT", "Range": "bytes=0-1"} {
		r.Header.Set(name, value)
	}
	return r
}

const doc = `<!doctype html><html><head><title>x</title></head><body>y</body></html>`

// htmlPage answers with doc, in one piece.
func htmlPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", fmt.Sprint(len(doc)))
	w.Header().Set("ETag", `"1"`)
	io.WriteString(w, doc)
}

func serve(h *Hub, r *http.Request, page http.HandlerFunc) *http.Response {
	w := httptest.NewRecorder()
	h.Handler(page).ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDocumentGetsTheScript(t *testing.T) {
	h := testHub(t, State{Serving: true, Reloads: 7, Styles: Styles{Version: 3}})
	resp := serve(h, opening("/"), func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"If-None-Match", "If-Modified-Since", "Range"} {
			if r.Header.Get(name) != "" {
				t.Errorf("the page is asked with %s", name)
			}
		}
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("the page is asked for %s", got)
		}
		htmlPage(w, r)
	})
	text := body(t, resp)
	tag := fmt.Sprintf(`<script async src="/_tqserver/dev/client.js?%s" data-page="x" data-boot="%d" data-reloads="7" data-styles="3"></script>`, edition, h.boot)
	if want := strings.Replace(doc, "<head>", "<head>"+tag, 1); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	for _, name := range []string{"Content-Length", "ETag", "X-TQ-Build"} {
		if resp.Header.Get(name) != "" {
			t.Errorf("%s: %s", name, resp.Header.Get(name))
		}
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control: %s", got)
	}
}

func TestDocumentInPieces(t *testing.T) {
	h := testHub(t, State{Serving: true})
	for name, marked := range places {
		resp := serve(h, opening("/"), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			for _, c := range []byte(strings.Replace(marked, "|", "", 1)) {
				w.Write([]byte{c})
				http.NewResponseController(w).Flush()
			}
		})
		e, _ := h.state("x")
		if got, want := body(t, resp), strings.Replace(marked, "|", e.tag("", ""), 1); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

// TestDocumentIsNotHeldBack covers a page that sends its first part and goes on later.
func TestDocumentIsNotHeldBack(t *testing.T) {
	h := testHub(t, State{Serving: true})
	w := httptest.NewRecorder()
	h.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		io.WriteString(rw, "<!doctype html><title>x</title><p>first")
		http.NewResponseController(rw).Flush()
		if got := w.Body.String(); !w.Flushed || !strings.HasSuffix(got, "<p>first") {
			t.Errorf("so far %q, flushed: %v", got, w.Flushed)
		}
		long := "<!--" + strings.Repeat("x", 2*maxHeld)
		io.WriteString(rw, long)
		if got := w.Body.String(); !strings.HasSuffix(got, long) {
			t.Errorf("the rest is held back: %d bytes so far", len(got))
		}
	})).ServeHTTP(w, opening("/"))
}

// A document that says with its first bytes that it is UTF-16 would be spoilt by a script in ASCII.
func TestDocumentInUTF16(t *testing.T) {
	h := testHub(t, State{Serving: true})
	for _, text := range []string{"\xff\xfe<\x00p\x00", "\xfe\xff\x00<\x00p", "\xff\xfe"} {
		resp := serve(h, opening("/"), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			for _, c := range []byte(text) {
				w.Write([]byte{c})
			}
		})
		if got := body(t, resp); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

func TestDocumentWithALongBeginning(t *testing.T) {
	h := testHub(t, State{Serving: true})
	resp := serve(h, opening("/"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<!doctype html><!--"+strings.Repeat("x", 2*maxHeld))
		io.WriteString(w, "--><head>")
	})
	e, _ := h.state("x")
	if got := body(t, resp); !strings.HasPrefix(got, "<!doctype html>"+e.tag("", "")+"<!--xxx") || !strings.HasSuffix(got, "--><head>") {
		t.Errorf("got %.300q", got)
	}
}

// TestLeftAlone covers everything that is no document: it goes through byte for byte, with every header.
func TestLeftAlone(t *testing.T) {
	requests := map[string]func(*http.Request){
		"HEAD":           func(r *http.Request) { r.Method = http.MethodHead },
		"POST":           func(r *http.Request) { r.Method = http.MethodPost },
		"fetch":          func(r *http.Request) { r.Header.Set("Sec-Fetch-Mode", "cors"); r.Header.Set("Sec-Fetch-Dest", "empty") },
		"htmx":           func(r *http.Request) { r.Header.Set("HX-Request", "true") },
		"XMLHttpRequest": func(r *http.Request) { r.Header.Set("X-Requested-With", "XMLHttpRequest") },
		"turbo":          func(r *http.Request) { r.Header.Set("Turbo-Frame", "x") },
		"image": func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Mode", "no-cors")
			r.Header.Set("Sec-Fetch-Dest", "image")
		},
		"curl":              func(r *http.Request) { r.Header = http.Header{"Accept": {"*/*"}} },
		"foreign host":      func(r *http.Request) { r.Host = "evil.example" },
		"foreign host port": func(r *http.Request) { r.Host = "127.0.0.1.evil.example:8080" },
		"no page":           func(r *http.Request) { r.URL.Path = "/none" },
	}
	h := testHub(t, State{Serving: true})
	for name, change := range requests {
		r := opening("/")
		change(r)
		before := r.Header.Clone()
		resp := serve(h, r, func(w http.ResponseWriter, r *http.Request) {
			if fmt.Sprint(r.Header) != fmt.Sprint(before) {
				t.Errorf("%s: the page is asked with %v", name, r.Header)
			}
			htmlPage(w, r)
		})
		if got := body(t, resp); got != doc || resp.Header.Get("ETag") != `"1"` || resp.Header.Get("Content-Length") == "" || len(resp.Header) != 3 {
			t.Errorf("%s: %v\n%s", name, resp.Header, got)
		}
	}
}

func TestAnswersLeftAlone(t *testing.T) {
	h := testHub(t, State{Serving: true})
	for name, answer := range map[string]struct {
		status int
		header map[string]string
		body   string
	}{
		"JSON":        {200, map[string]string{"Content-Type": "application/json"}, `{"a":"<head>"}`},
		"no type":     {200, map[string]string{"Content-Type": ""}, doc},
		"gzip":        {200, map[string]string{"Content-Type": "text/html", "Content-Encoding": "gzip"}, doc},
		"UTF-16":      {200, map[string]string{"Content-Type": "text/html; charset=UTF-16LE"}, doc},
		"download":    {200, map[string]string{"Content-Type": "text/html", "Content-Disposition": "Attachment; filename=x"}, doc},
		"304":         {304, map[string]string{"Content-Type": "text/html"}, ""},
		"302":         {302, map[string]string{"Content-Type": "text/html", "Location": "/x"}, doc},
		"206":         {206, map[string]string{"Content-Type": "text/html"}, doc},
		"204":         {204, map[string]string{"Content-Type": "text/html"}, ""},
		"sandbox":     {200, map[string]string{"Content-Type": "text/html", "Content-Security-Policy": "sandbox"}, doc},
		"empty":       {200, map[string]string{"Content-Type": "text/plain"}, ""},
		"XHTML":       {200, map[string]string{"Content-Type": "application/xhtml+xml"}, doc},
		"plain error": {404, map[string]string{"Content-Type": "text/plain", "X-TQ-Error": "route_not_found"}, "Worker not found"},
	} {
		resp := serve(h, opening("/"), func(w http.ResponseWriter, r *http.Request) {
			for key, value := range answer.header {
				w.Header().Set(key, value)
			}
			w.Header().Set("ETag", `"1"`)
			w.WriteHeader(answer.status)
			io.WriteString(w, answer.body)
		})
		if got := body(t, resp); got != answer.body || resp.StatusCode != answer.status || resp.Header.Get("ETag") != `"1"` || resp.Header.Get("Cache-Control") != "" {
			t.Errorf("%s: %d %v\n%s", name, resp.StatusCode, resp.Header, got)
		}
	}
}

// TestErrorPagesOfAPage get the script, too: one that is mended is to reload.
func TestErrorPagesOfAPage(t *testing.T) {
	h := testHub(t, State{Serving: true})
	resp := serve(h, opening("/"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(500)
		io.WriteString(w, doc)
	})
	if got := body(t, resp); resp.StatusCode != 500 || !strings.Contains(got, "client.js") {
		t.Errorf("%d %s", resp.StatusCode, got)
	}
}

func TestFailedBuildIsMarked(t *testing.T) {
	h := testHub(t, State{Serving: true, Failed: true})
	for _, r := range []*http.Request{opening("/"), httptest.NewRequest(http.MethodPost, "http://localhost/", nil)} {
		resp := serve(h, r, func(w http.ResponseWriter, r *http.Request) {
			clear(w.Header()) // as the proxy does with an error of its own
			htmlPage(w, r)
		})
		if resp.Header.Get("X-TQ-Build") != "failed" || resp.StatusCode != 200 {
			t.Errorf("%s: %d %v", r.Method, resp.StatusCode, resp.Header)
		}
	}
}

func TestApology(t *testing.T) {
	h := testHub(t, State{Failed: true, Route: "/<x>", Problems: []Problem{{Title: "Build failed",
		Findings: []Finding{{Message: "<script>alert(1)</script>", File: "a.go"}}}}})
	refuse := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-TQ-Error", "no_worker")
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "3")
		w.WriteHeader(503)
		if n, err := io.WriteString(w, "bad"); n != 3 || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	resp := serve(h, opening("/"), refuse)
	text := body(t, resp)
	if resp.StatusCode != 503 || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || resp.Header.Get("Retry-After") != "1" ||
		resp.Header.Get("X-TQ-Build") != "failed" || resp.Header.Get("Content-Length") != fmt.Sprint(len(text)) {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if strings.Contains(text, "<script>alert") || !strings.Contains(text, "&lt;script&gt;alert(1)") || !strings.Contains(text, `data-until="serving"`) ||
		!strings.Contains(text, "/&lt;x&gt; cannot be shown") || strings.Contains(text, "bad") {
		t.Errorf("got\n%s", text)
	}
	resp = serve(h, httptest.NewRequest(http.MethodGet, "http://localhost/", nil), refuse)
	if got := body(t, resp); got != "bad" || resp.Header.Get("Content-Type") != "text/plain" || resp.Header.Get("X-TQ-Build") != "failed" {
		t.Errorf("a program gets %v\n%s", resp.Header, got)
	}
}

// What failed on the release before is shown as what it is: the document is out of date when the page is mended by the
// time it is written.
func TestApologyForAnEarlierRelease(t *testing.T) {
	h := testHub(t, State{Serving: true, Reloads: 7, Problems: []Problem{{Title: "old"}}})
	resp := serve(h, opening("/"), func(w http.ResponseWriter, r *http.Request) {
		h.Set(State{Name: "x", Serving: true, Reloads: 8, Problems: []Problem{{Title: "new"}}})
		w.Header().Set("X-TQ-Error", "worker_closed")
		w.WriteHeader(502)
	})
	if got := body(t, resp); !strings.Contains(got, `data-reloads="7"`) || !strings.Contains(got, "new") || strings.Contains(got, "old") {
		t.Error(got)
	}
}

// What cannot be read is told to the developer, whose page does not reload.
func TestUnreadableDocumentIsTold(t *testing.T) {
	for _, c := range []struct {
		header http.Header
		want   string // in what is told; "" for nothing
	}{
		{http.Header{"Content-Type": {"text/html"}, "Content-Encoding": {"gzip"}}, "compressed"},
		{http.Header{"Content-Type": nil}, "Content-Type"}, // as the proxy does
		{http.Header{"Content-Type": nil, "Content-Length": {"0"}}, ""},
		{http.Header{"Content-Type": {"image/png"}, "Content-Encoding": {"gzip"}}, ""},
	} {
		var told []string
		h := New(Options{Page: func(_, _ string) string { return "x" }, Warn: func(_, text string) { told = append(told, text) }})
		for range 2 {
			serve(h, opening("/"), func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), c.header)
				w.WriteHeader(200)
			})
		}
		if c.want == "" && len(told) > 0 || c.want != "" && (len(told) != 1 || !strings.Contains(told[0], c.want)) {
			t.Errorf("%v: told %q", c.header, told)
		}
	}
}

func TestKnownHosts(t *testing.T) {
	h := testHub(t, State{})
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:8080": true, "app.localhost:1": true, "127.0.0.1": true, "127.0.0.1:8080": true, "[::1]:8080": true, "[::1]": true,
		"192.168.0.7:8080": true, "site.example:8080": true, "Site.Example.": true,
		"evil.example": false, "evil.example:8080": false, "localhost.evil.example": false, "127.0.0.1.nip.example": false, "": false, "notlocalhost": false,
	} {
		if got := h.known(host); got != want {
			t.Errorf("%q is known: %v", host, got)
		}
	}
}

func TestOwnFiles(t *testing.T) {
	h := testHub(t, State{})
	next := func(http.ResponseWriter, *http.Request) { t.Error("a page is asked") }
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
	}{
		"script":           {func(r *http.Request) {}, 200},
		"worker":           {func(r *http.Request) { r.URL.Path = Prefix + "worker.js" }, 200},
		"HEAD":             {func(r *http.Request) { r.Method = http.MethodHead }, 200},
		"own origin":       {func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:8080") }, 200},
		"POST":             {func(r *http.Request) { r.Method = http.MethodPost }, 405},
		"no such file":     {func(r *http.Request) { r.URL.Path = Prefix + "../x" }, 404},
		"foreign host":     {func(r *http.Request) { r.Host = "evil.example" }, 403},
		"foreign origin":   {func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403},
		"another port":     {func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:9999") }, 403},
		"opaque origin":    {func(r *http.Request) { r.Header.Set("Origin", "null") }, 403},
		"cross site":       {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		"same site":        {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
		"stream, foreign":  {func(r *http.Request) { r.URL.Path = Prefix + "events"; r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		"stream, evil DNS": {func(r *http.Request) { r.URL.Path = Prefix + "events"; r.Host = "evil.example:8080" }, 403},
	} {
		r := httptest.NewRequest(http.MethodGet, Prefix+"client.js", nil)
		r.Host = "127.0.0.1:8080"
		c.change(r)
		resp := serve(h, r, next)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, c.status)
		}
		if resp.StatusCode == 200 && resp.Header.Get("Content-Type") != "text/javascript; charset=utf-8" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", name, resp.Header)
		}
	}
}
