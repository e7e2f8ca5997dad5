package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/sdk/worker"
	"github.com/tqserver/tqserver/sdk/worker/templates"
)

// site makes a pages directory and returns a runtime for its index page, which has the files of this one.
func site(t *testing.T, files map[string]string) *worker.Runtime {
	t.Helper()
	root := t.TempDir()
	files = maps.Clone(files)
	if files == nil {
		files = map[string]string{}
	}
	for _, name := range []string{"index.html", "style.css", "icon.svg"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files["index/"+name] = string(text)
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &worker.Runtime{Port: 9123, Route: "/", Release: "c0ffee0123456789", PageDir: filepath.Join(root, "index")}
}

func get(t *testing.T, runtime *worker.Runtime, path string) *httptest.ResponseRecorder {
	t.Helper()
	return ask(t, runtime, "GET", path)
}

func ask(t *testing.T, runtime *worker.Runtime, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	layout, err := templates.New(runtime, templates.Dir("."))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler(runtime, layout).ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestStartPage(t *testing.T) {
	runtime := site(t, map[string]string{
		"index/main.go": "package main\n",
		"blog/main.go":  "// Words & <thoughts>.\npackage main\n",
	})
	w := get(t, runtime, "/")
	if w.Code != http.StatusOK {
		t.Fatalf("GET / = %d", w.Code)
	}
	for _, want := range []string{
		"<h1>" + greeting + "</h1>",
		"index/main.go", "index/index.html", filepath.Dir(runtime.PageDir), // where to edit
		"<dd>9123</dd>", "<dd>c0ffee012345</dd>", fmt.Sprintf("<dd>%d</dd>", os.Getpid()), "<dd>go1.",
		`<a href="/" aria-current="page">`,
		`<a href="/blog"><strong>/blog</strong><span>Words &amp; &lt;thoughts&gt;.</span></a>`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("page lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(w.Body)
	}
}

func TestUnknownPath(t *testing.T) {
	runtime := site(t, map[string]string{"index/main.go": "package main\n", "blog/main.go": "package main\n"})
	w := get(t, runtime, "/nope/%3Cscript%3E")
	body := w.Body.String()
	if w.Code != http.StatusNotFound || !strings.Contains(body, "/nope/&lt;script&gt;") || !strings.Contains(body, `href="/blog"`) {
		t.Errorf("unknown path = %d, want 404 with the path and the pages that exist\n%s", w.Code, body)
	}
	if w = ask(t, runtime, "POST", "/"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST / = %d, want 405", w.Code)
	}
}

func TestPolicy(t *testing.T) {
	runtime := site(t, nil)
	for _, path := range []string{"/", "/nope"} {
		w := get(t, runtime, path)
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("GET %s: policy %q", path, csp)
		}
		if inline := regexp.MustCompile(`<style|<script| style=| on\w+=`).FindString(w.Body.String()); inline != "" {
			t.Errorf("GET %s has %q, which the policy blocks", path, inline)
		}
	}
}

func TestAssets(t *testing.T) {
	runtime := site(t, nil)
	links := regexp.MustCompile(`(?:href|src)="(/[^"]+\.\w+)"`).FindAllStringSubmatch(get(t, runtime, "/").Body.String(), -1)
	if len(links) < 3 {
		t.Errorf("page links %v, want style and icons", links)
	}
	for _, link := range links {
		if w := get(t, runtime, link[1]); w.Code != http.StatusOK || strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("GET %s = %d %q", link[1], w.Code, w.Header().Get("Content-Type"))
		}
	}
}

func TestFindPages(t *testing.T) {
	runtime := site(t, map[string]string{
		"index/main.go":           "// Start.\npackage main\n",
		"api/src/main.go":         "package main\n",
		"api/users/app.go":        "// Copyright of somebody.\n\n// Users of the API.\n// More of it.\npackage main\n",
		"lib/lib.go":              "// Says\n// package main in a comment.\npackage lib\n",
		"tests/main_test.go":      "package main\n",
		"_draft/main.go":          "package main\n",
		".git/main.go":            "package main\n",
		"api/testdata/x/main.go":  "package main\n",
		"shop/public/gen/main.go": "package main\n",
		"blog/index/main.go":      "package main\n",
		"internal/gen/main.go":    "package main\n",
		"notes.txt":               "package main\n",
		"node/page.yaml":          "# In another language.\nrun: [node]\n",
		"node/src/main.go":        "package main\n",
		"php/page.yaml":           "run: [php]\n",
	})
	want := []page{{"/", "Start."}, {"/api", ""}, {"/api/users", "Users of the API."}, {"/blog", ""}, {"/node", "In another language."}, {"/php", ""}}
	if got := findPages(filepath.Dir(runtime.PageDir)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if got := findPages(filepath.Join(runtime.PageDir, "nowhere")); len(got) != 0 {
		t.Errorf("found %v in a directory that is not there", got)
	}
}

// The directory counts from the site's root, the working directory of workers.
func TestLocate(t *testing.T) {
	t.Chdir(t.TempDir())
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dir, source, site string }{
		{filepath.Join(root, "pages", "index"), "pages/index", root},
		{"workers/index", "workers/index", root},
		{"", "pages/index", root},
		{"/elsewhere/pages/index", "index", "/elsewhere/pages"},
	} {
		if source, site := locate(c.dir); source != c.source || site != c.site {
			t.Errorf("locate(%q) = %q, %q; want %q, %q", c.dir, source, site, c.source, c.site)
		}
	}
}
