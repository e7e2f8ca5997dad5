//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// plainPage is a page without the SDK.
func plainPage(text string) string {
	return fmt.Sprintf(`package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) })
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, %q) })
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("TQ_PORT"), nil))
}
`, text)
}

// envPage is a plain page that answers with one of its variables.
func envPage(name string) string {
	return strings.Replace(plainPage("x"), `"x"`, fmt.Sprintf("os.Getenv(%q)", name), 1)
}

func (s *site) awaitStatus(path string, want int) {
	s.t.Helper()
	s.await(fmt.Sprintf("%s to answer %d", path, want), func() error {
		status, body, err := s.get(path)
		if err == nil && status != want {
			err = fmt.Errorf("it answers %d %q", status, body)
		}
		return err
	})
}

// TestRouting covers places in the file system: nested pages, both layouts, boundaries, what is no page.
func TestRouting(t *testing.T) {
	s := newSite(t, map[string]string{
		"pages/api/main.go":          plainPage("api"),
		"pages/api/users/main.go":    plainPage("users"),
		"pages/blog/index/main.go":   plainPage("blog"),
		"pages/old/src/main.go":      plainPage("old layout"),
		"pages/lib/lib.go":           "package lib\n",
		"pages/_draft/main.go":       plainPage("draft"),
		"pages/.hidden/main.go":      plainPage("hidden"),
		"pages/a/testdata/x/main.go": plainPage("testdata"),
		"pages/a/public/x/main.go":   plainPage("public"),
	})
	s.start()
	for path, want := range map[string]string{
		"/api": "api", "/api/": "api", "/api/x?y=/api/users": "api", "/api/users": "users", "/api/users/7": "users",
		"/api/usersx": "api", "/blog": "blog", "/old": "old layout", "/old/x": "old layout",
	} {
		if status, body, err := s.get(path); err != nil || status != 200 || strings.TrimSpace(body) != want {
			t.Errorf("%s: %d %q, %v; want %q", path, status, body, err, want)
		}
	}
	for _, path := range []string{"/", "/apix", "/api-v2", "/lib", "/_draft", "/.hidden", "/a/testdata/x", "/a/public/x", "/old/src", "/blog2"} {
		want := 404
		if status, body, err := s.get(path); err != nil || status != want || strings.TrimSpace(body) != "Worker not found" {
			if path != "/old/src" { // below the page old
				t.Errorf("%s: %d %q, %v; want 404", path, status, body, err)
			}
		}
	}
}

// TestPagesComeAndGo adds, renames and removes pages while the server runs.
func TestPagesComeAndGo(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("index")})
	s.start()
	l := s.startLoad(everyKind("/")[:4], nil)
	s.write("pages/new/deep/main.go", plainPage("new"))
	s.awaitBody("/new/deep", "new")
	if err := os.Rename(s.path("pages/new"), s.path("pages/renamed")); err != nil {
		t.Fatal(err)
	}
	s.awaitBody("/renamed/deep", "new")
	// No page /new/deep any more: the page at / answers.
	s.awaitBody("/new/deep", "index")
	if err := os.RemoveAll(s.path("pages/renamed")); err != nil {
		t.Fatal(err)
	}
	s.awaitBody("/renamed/deep", "index")
	s.await("the workers of removed pages to be gone", func() error {
		if st := s.status(); len(st.Pages) != 1 {
			return fmt.Errorf("%d pages", len(st.Pages))
		}
		return nil
	})
	if strings.Contains(s.out.String(), "build failed") {
		t.Error("a page that was removed was built once more")
	}
	l.mustHold()
}

// TestTwoDirectoriesForOneRoute is reported with both names; the first in order serves.
func TestTwoDirectoriesForOneRoute(t *testing.T) {
	s := newSite(t, map[string]string{"pages/blog/main.go": plainPage("first"), "pages/blog/index/main.go": plainPage("second")})
	s.start()
	s.awaitBody("/blog", "first")
	s.await("the conflict in the status", func() error {
		text := strings.Join(s.status().Problems, "\n")
		if !strings.Contains(text, s.path("pages/blog")) || !strings.Contains(text, "pages/blog/index") {
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
}

// TestEnvironmentOfWorkers gives a page what the specification lists, what the configuration names, and no secret of
// the server.
func TestEnvironmentOfWorkers(t *testing.T) {
	dump := strings.Replace(plainPage("x"), `"x"`, `strings.Join(os.Environ(), "\n")`, 1)
	dump = strings.Replace(dump, `"os"`, "\"os\"\n\t\"strings\"", 1)
	s := newSite(t, map[string]string{"pages/api/env/main.go": dump})
	s.environ = []string{"SECRET=1", "SHARED=kept"}
	s.configure("", `default: {max_requests: 50000, go_mem_limit: 64MiB, env: {MODE: test, SHARED: }}
paths:
  "/api": {read_timeout_seconds: 7, env: {MODE: api}}
shutdown_grace_period_ms: 700`, "")
	s.start()
	_, body, err := s.get("/api/env")
	if err != nil {
		t.Fatal(err)
	}
	got := "\n" + body
	w := s.page("api/env").Workers[0]
	for _, want := range []string{fmt.Sprintf("TQ_PORT=%d", w.Port), "TQ_MAX_REQUESTS=50000", "TQ_READ_TIMEOUT_SECONDS=7",
		"TQ_WRITE_TIMEOUT_SECONDS=30", "TQ_IDLE_TIMEOUT_SECONDS=120", "TQ_SHUTDOWN_GRACE_PERIOD_MS=700", "TQ_LOG_FILE=" + s.dir + "/logs/api/env/worker_",
		"GOMAXPROCS=1", "GOMEMLIMIT=64MiB", "TQ_ROUTE=/api/env", "TQ_PAGE_DIR=" + s.path("pages/api/env"), "MODE=api", "SHARED=kept"} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("no %s in the environment", want)
		}
	}
	if strings.Contains(got, "SECRET") {
		t.Error("a variable of the server reached the worker")
	}
	if t.Failed() {
		t.Log(got)
	}
}

// TestPortsRunOut: with a range of two, the third page answers 503 and says why; when a port is free, it serves.
func TestPortsRunOut(t *testing.T) {
	s := newSite(t, map[string]string{"pages/a/main.go": textPage("a"), "pages/b/main.go": textPage("b"), "pages/c/main.go": textPage("c")})
	s.pool[1] = s.pool[0] + 1
	s.configure("", "", "")
	s.start()
	var down string
	for _, p := range s.status().Pages {
		if p.State != "serving" {
			down += p.Name
			if !strings.Contains(p.Error, "workers.port_range_") {
				t.Errorf("the status says %q", p.Error)
			}
		}
	}
	if len(down) != 1 {
		t.Fatalf("pages without a worker: %q, want one", down)
	}
	if status, _, err := s.get("/" + down); status != 503 {
		t.Errorf("page without a port: %d, %v", status, err)
	}
	up := map[string]string{"a": "b", "b": "c", "c": "a"}[down]
	if err := os.RemoveAll(s.path("pages/" + up)); err != nil {
		t.Fatal(err)
	}
	s.awaitBody("/"+down, down)
}

// TestTwoPagesWithOneBasename run their own programs.
func TestTwoPagesWithOneBasename(t *testing.T) {
	s := newSite(t, map[string]string{"pages/a/users/main.go": plainPage("a"), "pages/b/users/main.go": plainPage("b")})
	s.start()
	s.awaitBody("/a/users", "a")
	s.awaitBody("/b/users", "b")
	if s.page("a/users").Release == s.page("b/users").Release {
		t.Error("two programs are one release")
	}
}

// TestUndo goes back to an earlier source: nothing is compiled, the old release is live again.
func TestUndo(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.start()
	first := s.page("index").Release
	s.write("pages/index/main.go", textPage("two"))
	s.awaitBody("/", "two")
	s.write("pages/index/main.go", textPage("one"))
	s.awaitBody("/", "one")
	s.await("the status", func() error {
		if p := s.page("index"); p.Release != first || !p.Build.Cached {
			return errors.New("the source was built again")
		}
		return nil
	})
}
