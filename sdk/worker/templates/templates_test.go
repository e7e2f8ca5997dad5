package templates

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/tqserver/tqserver/sdk/worker"
)

//go:embed testdata
var embedded embed.FS

// tree writes files, given as name -> text, and gives their directory.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		save(t, dir, name, text)
	}
	return dir
}

func save(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	next := path + ".next~"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func mustNew(t testing.TB, dir string, options ...Option) *Set {
	t.Helper()
	s, err := New(nil, Dir(dir), options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func want(t *testing.T, s *Set, name string, data any, text string) {
	t.Helper()
	var b bytes.Buffer
	if err := s.Execute(&b, name, data); err != nil || strings.TrimSpace(b.String()) != text {
		t.Errorf("%s: %q, %v; want %q", name, b.String(), err, text)
	}
}

var shop = map[string]string{
	"layout.html":       `<title>{{block "title" .}}Shop{{end}}</title>{{template "partials/nav.html" .}}<main>{{template "content" .}}</main>`,
	"home.html":         `{{template "layout.html" .}}{{define "content"}}home of {{.}}{{end}}`,
	"about.html":        `{{template "layout.html" .}}{{define "title"}}About{{end}}{{define "content"}}{{template "row" .}}{{end}}`,
	"cart/index.html":   `{{template "section.html" .}}{{define "inner"}}cart{{end}}`,
	"section.html":      `{{template "layout.html" .}}{{define "content"}}[{{block "inner" .}}none{{end}}]{{end}}`,
	"partials/nav.html": `<nav>{{.}}</nav>`,
	"partials/all.tmpl": `{{define "row"}}<i>{{.}}</i>{{end}}`,
	"notes.txt":         `{{ no template`,
	".hidden.html":      `{{ no template`,
	".git/x.html":       `{{ no template`,

	"node_modules/x/y.html": `{{ no template`,
}

func TestLayouts(t *testing.T) {
	s := mustNew(t, tree(t, shop))
	want(t, s, "home.html", "<b>", "<title>Shop</title><nav>&lt;b&gt;</nav><main>home of &lt;b&gt;</main>")
	want(t, s, "about.html", "x", "<title>About</title><nav>x</nav><main><i>x</i></main>")
	want(t, s, "cart/index.html", "x", "<title>Shop</title><nav>x</nav><main>[cart]</main>")
	want(t, s, "section.html", "x", "<title>Shop</title><nav>x</nav><main>[none]</main>")
	want(t, s, "partials/nav.html", "x", "<nav>x</nav>")
	want(t, s, "row", "x", "<i>x</i>") // one file alone defines it
	for name, why := range map[string]string{
		"nope.html":   "no such template in " + s.where,
		"content":     "no such template", // three files define it
		"layout.html": `template "content" is defined in about.html and home.html`,
	} {
		if err := s.Execute(io.Discard, name, nil); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", name, err, why)
		}
	}
}

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		files   map[string]string
		file    string
		line    int
		message string
	}{
		"syntax":      {map[string]string{"sub/a.html": "one\n{{if}}\n"}, "sub/a.html", 2, "missing value for if"},
		"unclosed":    {map[string]string{"a.html": "{{if .}}"}, "a.html", 1, "unexpected EOF"},
		"function":    {map[string]string{"a.html": "\n\n{{shout .}}"}, "a.html", 3, `function "shout" not defined`},
		"call":        {map[string]string{"a.html": "\n{{if .}}{{else}}{{range .}}{{with .}}{{template \"b.html\"}}{{end}}{{end}}{{end}}"}, "a.html", 2, `template "b.html" is neither a file nor defined`},
		"call in two": {map[string]string{"a.html": `{{template "b.html"}}`, "b.html": "\n{{template \"x/c.html\"}}"}, "b.html", 2, `template "x/c.html" is neither`},
		"context":     {map[string]string{"a.html": "<p>\n{{if .}}<a href='{{end}}'>"}, "a.html", 2, "branches end in different contexts"},
		"open end":    {map[string]string{"a.html": "<p>\n<a href='"}, "a.html", 0, "it ends within a tag"},
		"called":      {map[string]string{"a.html": `{{template "b.html"}}`, "b.html": "<p>\n<script>{{if .}}\"{{end}}</script>"}, "b.html", 2, "branches end in different contexts"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, c.files)
			_, err := New(nil, Dir(dir))
			var fault worker.Fault
			if !errors.As(err, &fault) {
				t.Fatalf("got %v, want a fault", err)
			}
			file, line, message := fault.Fault()
			if file != filepath.Join(dir, c.file) || line != c.line || !strings.Contains(message, c.message) || strings.Contains(message, c.file) {
				t.Errorf("%s, line %d: %q; want %s, line %d: %q", file, line, message, c.file, c.line, c.message)
			}
			if text := strings.Replace(fmt.Sprintf("%s:%d: %s", file, line, message), ":0: ", ": ", 1); !strings.Contains(err.Error(), text) {
				t.Errorf("%q does not say %q", err, text)
			}
		})
	}
}

// Faults of several files come together, each once.
func TestFaultsOfSeveralFiles(t *testing.T) {
	_, err := New(nil, Dir(tree(t, map[string]string{"a.html": "{{if}}", "b.html": "{{end}}", "c.html": ""})))
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 2 {
		t.Errorf("got %v", err)
	}
	files := map[string]string{"bad.html": `{{template "nope.html"}}`}
	for _, name := range []string{"a", "b", "c"} {
		files[name+".html"] = `{{template "bad.html"}}`
	}
	if _, err := New(nil, Dir(tree(t, files))); strings.Count(err.Error(), "nope") != 1 {
		t.Errorf("got %v", err)
	}
}

// What makes sense only where it is called is no fault of the set.
func TestPartialsOfAnyContext(t *testing.T) {
	s := mustNew(t, tree(t, map[string]string{
		"page.html": `{{template "head.html"}}var x = {{template "value.html" .}};{{template "foot.html"}}`,
		"head.html": `<script>`, "value.html": `{{.}}`, "foot.html": `</script>`,
	}))
	want(t, s, "page.html", "</script>", `<script>var x = "\u003c/script\u003e";</script>`)
	if err := s.Execute(io.Discard, "head.html", nil); err == nil || !strings.Contains(err.Error(), "head.html: it ends within a tag") {
		t.Errorf("half a page is rendered: %v", err)
	}
}

// A layout that no page calls, as yet or any more, is no fault of the set.
func TestLayoutWithoutAPage(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"nobody defines its blocks": {"layout.html": `<a href="{{template "content" .}}">`, "a.html": "A"},
		"several do":                {"layout.html": `{{template "content" .}}`, "b.html": `{{define "content"}}{{end}}`, "c.html": `{{define "content"}}{{end}}`, "a.html": "A"},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustNew(t, tree(t, files))
			want(t, s, "a.html", nil, "A")
			if err := s.Execute(io.Discard, "layout.html", nil); err == nil || !strings.Contains(err.Error(), `layout.html:1: template "content" is`) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestSource(t *testing.T) {
	sub := fstest.MapFS{"a.html": {Data: []byte("A")}, "mail/b.txt": {Data: []byte("{{.}}")}, "c.txt": {Data: []byte("{{")}}
	for name, c := range map[string]struct {
		source  Source
		options []Option
		render  string
		want    string
	}{
		"default patterns": {FS(sub), nil, "a.html", "A"},
		"a path":           {FS(sub, "mail/*.txt"), nil, "mail/b.txt", "&lt;&amp;"},
		"text":             {FS(sub, "mail/*.txt"), []Option{Text()}, "mail/b.txt", "<&"},
		"embedded":         {FS(embedded), nil, "testdata/hello.html", "Hello, &lt;&amp;!"},
		"next to the page": {Dir("testdata"), nil, "hello.html", "Hello, &lt;&amp;!"},
		"delims":           {FS(fstest.MapFS{"a.html": {Data: []byte("{{[[shout .]]{{")}}), []Option{Delims("[[", "]]"), Funcs(FuncMap{"shout": func(s string) string { return s + "!" }})}, "a.html", "{{&lt;&amp;!{{"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(nil, c.source, c.options...)
			if err != nil {
				t.Fatal(err)
			}
			want(t, s, c.render, "<&", c.want)
		})
	}
	for _, source := range []Source{FS(fstest.MapFS{}), FS(sub, "*.nope"), Dir(filepath.Join(t.TempDir(), "none"))} {
		if _, err := New(nil, source); err == nil {
			t.Error("a set without a template")
		}
	}
}

func TestDirIsRelativeToThePage(t *testing.T) {
	dir := tree(t, map[string]string{"templates/a.html": "here"})
	s, err := New(&worker.Runtime{PageDir: dir}, Dir("templates"))
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, "a.html", nil, "here")
	t.Chdir(filepath.Dir(dir))
	if s, err = New(&worker.Runtime{PageDir: filepath.Base(dir)}, Dir("templates")); err != nil || !filepath.IsAbs(s.where) {
		t.Errorf("a set of %v, %v", s, err)
	}
}

func TestRender(t *testing.T) {
	s := mustNew(t, tree(t, map[string]string{
		"a.html": "<p>{{.}}", "half.html": "sent {{.Nope}}", "never.html": `{{template "never.html"}}`,
	}))
	w := httptest.NewRecorder()
	s.RenderStatus(w, http.StatusNotFound, "a.html", "x")
	if w.Code != 404 || w.Body.String() != "<p>x" || w.Header().Get("Content-Type") != "text/html; charset=utf-8" || w.Header().Get("Content-Length") != "4" {
		t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
	}
	w = httptest.NewRecorder()
	w.Header().Set("Content-Type", "text/vnd.turbo-stream.html")
	s.Render(w, "a.html", "x")
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/vnd.turbo-stream.html" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for _, name := range []string{"half.html", "nope.html", "never.html"} {
		w = httptest.NewRecorder()
		s.Render(w, name, struct{}{})
		if w.Code != 500 || w.Body.String() != "Internal Server Error\n" {
			t.Errorf("%s: %d %q", name, w.Code, w.Body)
		}
	}
	text, err := New(nil, FS(fstest.MapFS{"feed.xml": {Data: []byte("<x/>")}, "motd": {Data: []byte("hi")}}, "*"), Text())
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]string{"feed.xml": "xml", "motd": "text/plain; charset=utf-8"} {
		w = httptest.NewRecorder()
		if text.Render(w, name, nil); !strings.Contains(w.Header().Get("Content-Type"), kind) {
			t.Errorf("%s is %s", name, w.Header())
		}
	}
}

func TestParseAgain(t *testing.T) {
	dir := tree(t, shop)
	s := mustNew(t, dir)
	before := s.now.Load()
	again := func(wrong string) {
		t.Helper()
		if err := s.parse(); (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("got %v, want %q", err, wrong)
		}
	}
	save(t, dir, "home.html", `{{template "layout.html" .}}{{define "content"}}new{{end}}`)
	save(t, dir, "about.html", "{{")
	again("about.html:1: unclosed action")
	want(t, s, "home.html", "x", "<title>Shop</title><nav>x</nav><main>home of x</main>") // all or nothing
	again("about.html:1: unclosed action")
	save(t, dir, "about.html", shop["about.html"])
	again("")
	want(t, s, "home.html", "x", "<title>Shop</title><nav>x</nav><main>new</main>")
	if now := s.now.Load(); now.entries["about.html"] != before.entries["about.html"] {
		t.Error("a page that has not changed was made again")
	}
	save(t, dir, "partials/nav.html", "<hr>")
	again("")
	want(t, s, "about.html", "x", "<title>About</title><hr><main><i>x</i></main>")
	if err := os.Remove(filepath.Join(dir, "partials/nav.html")); err != nil {
		t.Fatal(err)
	}
	again(`template "partials/nav.html" is neither a file nor defined`)
	want(t, s, "about.html", "x", "<title>About</title><hr><main><i>x</i></main>")
}

// A file that is no template changes nothing, and mends nothing.
func TestChangeOfAnotherFile(t *testing.T) {
	dir := tree(t, shop)
	s := mustNew(t, dir)
	before := s.now.Load()
	if err := s.changed([]string{filepath.Join(dir, "notes.txt"), filepath.Join(dir, "../x.html~")}); err != nil || s.now.Load() != before {
		t.Errorf("parsed again, %v", err)
	}
	save(t, dir, "home.html", "{{")
	for _, file := range []string{"home.html", "notes.txt"} {
		if err := s.changed([]string{filepath.Join(dir, file)}); err == nil {
			t.Errorf("after %s all is well", file)
		}
	}
	save(t, dir, "home.html", "mended")
	if err := s.changed(nil); err != nil {
		t.Error(err)
	}
	want(t, s, "home.html", nil, "mended")
}

// Requests see one set or the other, and never a mixture: the two files of each say the same.
func TestRenderWhileParsing(t *testing.T) {
	files := func(n int) map[string]string {
		return map[string]string{"layout.html": fmt.Sprintf(`%d {{template "content" .}}`, n), "a.html": fmt.Sprintf(`{{template "layout.html" .}}{{define "content"}}%d{{end}}`, n)}
	}
	dir := tree(t, files(0))
	s := mustNew(t, dir)
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for !stop.Load() {
				var b bytes.Buffer
				if err := s.Execute(&b, "a.html", nil); err != nil {
					t.Error(err)
				}
				if one, two, _ := strings.Cut(b.String(), " "); one != two {
					t.Errorf("mixed: %q", b.String())
				}
			}
		})
	}
	for n := range 50 {
		for name, text := range files(n) {
			save(t, dir, name, text)
		}
		if err := s.parse(); err != nil {
			t.Error(err)
		}
		save(t, dir, "a.html", "{{")
		if err := s.parse(); err == nil {
			t.Error("taken")
		}
		save(t, dir, "a.html", files(n)["a.html"])
	}
	stop.Store(true)
	readers.Wait()
}

// Pages that render HTML link html/template anyway; nothing more is to be linked for this package.
func TestImports(t *testing.T) {
	known := map[string]bool{}
	for _, path := range deps(t, "html/template", "net/http", "os/signal") {
		known[path] = true
	}
	for _, path := range deps(t, ".") {
		if !known[path] && !strings.HasPrefix(path, "github.com/tqserver/tqserver/sdk/worker") {
			t.Errorf("imports %s", path)
		}
	}
}

func deps(t *testing.T, packages ...string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps"}, packages...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// BenchmarkParseAgain is the worst edit: that of a layout that all of 100 pages use.
func BenchmarkParseAgain(b *testing.B) {
	files := map[string]string{
		"layout.html": `<!doctype html><title>{{block "title" .}}x{{end}}</title>{{template "nav.html" .}}<main>{{template "content" .}}</main>`,
		"nav.html":    strings.Repeat(`<a href="/{{.}}" title="{{.}}">{{.}}</a>`, 20),
	}
	for i := range 100 {
		files[fmt.Sprintf("page%d.html", i)] = `{{template "layout.html" .}}{{define "content"}}` + strings.Repeat(`<p class="{{.}}">{{.}}</p>`, 20) + `{{end}}`
	}
	for _, name := range []string{"page7.html", "layout.html"} {
		b.Run(name, func(b *testing.B) {
			dir := tree(b, files)
			s := mustNew(b, dir)
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				save(b, dir, name, files[name]+strings.Repeat(" ", i%2))
				b.StartTimer()
				if err := s.parse(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
