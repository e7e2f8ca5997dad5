//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestConfigChangesUnderLoad changes the configuration on disk: the workers that it concerns are replaced, and only
// they; nobody notices.
func TestConfigChangesUnderLoad(t *testing.T) {
	s := newSite(t, map[string]string{
		"pages/a/main.go": envPage("GOMAXPROCS"),
		"pages/b/main.go": textPage("b"),
	})
	s.start()
	before := s.page("b").Workers[0].PID
	l := s.startLoad(append(everyKind("/b"), client{name: "a", path: "/a"}, client{name: "a, new connection", path: "/a", newConn: true}), nil)
	for i := 2; i <= 11; i++ {
		s.configure("", fmt.Sprintf("paths:\n  \"/a\": {go_max_procs: %d}", i), "")
		s.awaitBody("/a", fmt.Sprint(i))
	}
	if now := s.page("b").Workers[0].PID; now != before {
		t.Errorf("the worker of b was replaced (pid %d, then %d) by changes that concern a", before, now)
	}
	s.configure("read_timeout_seconds: 20\nidle_timeout_seconds: 50", "default: {go_max_procs: 3}", "")
	s.awaitBody("/a", "3")
	s.await("the worker of b to be replaced", func() error {
		if s.page("b").Workers[0].PID == before {
			return errors.New("it is the same")
		}
		return nil
	})
	l.mustHold()
}

// TestMaxRequestsUnderLoad replaces a worker each time it has served its number.
func TestMaxRequestsUnderLoad(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.configure("", "default: {max_requests: 100}", "")
	s.start()
	l := s.startLoad(everyKind("/"), nil)
	s.await("ten replacements", func() error {
		if n := strings.Count(s.out.String(), `why="max_requests reached"`); n < 10 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	l.mustHold()
}

// TestBadReleasesNeverGoLive tries everything that a save can break: the old worker serves on, the fault is in the log
// and in the status, and the next good save goes live.
func TestBadReleasesNeverGoLive(t *testing.T) {
	t.Parallel()
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("good 0")})
	s.configure("", "ready_timeout_ms: 1500", "")
	s.start()
	l := s.startLoad(everyKind("/")[:4], func(_ client, body string) error {
		if !strings.HasPrefix(body, "good") {
			return fmt.Errorf("answered by a bad release: %q", body)
		}
		return nil
	})
	for i, c := range []struct{ name, source, want string }{
		{"compile error", strings.Replace(textPage("bad"), "const text", "const text int", 1), "pages/index/main.go:14:"},
		{"syntax error", "package main\n\nfunc main() {\n", "pages/index/main.go:4:1: syntax error"},
		{"unknown import", "package main\n\nimport _ \"example.com/nowhere\"\n\nfunc main() {}\n", "pages/index/main.go:3:"},
		{"panic at start", "package main\n\nfunc main() {\n\tvar m map[string]int\n\tm[\"x\"] = 1\n}\n", "pages/index/main.go:5"},
		{"exits at once", "package main\n\nimport \"os\"\n\nfunc main() { os.Stderr.WriteString(\"no database\\n\"); os.Exit(3) }\n", "no database"},
		{"never ready", "package main\n\nfunc main() { select {} }\n", "all goroutines are asleep"},
		{"never listens", "package main\n\nimport \"time\"\n\nfunc main() { time.Sleep(time.Hour) }\n", "not ready within 1.5s"},
		{"unhealthy", strings.Replace(plainPage("bad"), "http.StatusOK", "http.StatusServiceUnavailable", 1), "503"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.write("pages/index/main.go", c.source)
			s.await("the fault in the status", func() error {
				p := s.page("index")
				text := p.Error
				if p.Build != nil {
					for _, d := range p.Build.Diagnostics {
						text += "\n" + d.String()
					}
				}
				if !strings.Contains(text, c.want) || p.State != "serving" {
					return fmt.Errorf("state %s: %s", p.State, text)
				}
				return nil
			})
			s.awaitLog(c.want)
			if _, body, err := s.get("/"); err != nil || !strings.HasPrefix(body, "good") {
				t.Errorf("the old release does not serve: %q, %v", body, err)
			}
			good := fmt.Sprintf("good %d", i+1)
			s.write("pages/index/main.go", textPage(good))
			s.awaitBody("/", good)
			s.await("the status to be clean", func() error {
				if p := s.page("index"); p.Error != "" || p.Build.LiveMS == 0 {
					return fmt.Errorf("it says %+v", p)
				}
				return nil
			})
		})
	}
	l.mustHold()
}

// TestBrokenSourceAtStart serves the last good release when the source was broken while the server was down.
func TestBrokenSourceAtStart(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("good")})
	s.start()
	s.awaitBody("/", "good")
	s.stop()
	s.write("pages/index/main.go", "package main\n\nfunc main() { undefined() }\n")
	s.start()
	s.awaitBody("/", "good")
	if p := s.page("index"); !strings.Contains(p.Error, "undefined: undefined") {
		t.Errorf("the status says %q", p.Error)
	}
	s.write("pages/index/main.go", textPage("mended"))
	s.awaitBody("/", "mended")
}

// TestFirstReleaseFails answers 503 at once, and says why in the status, until the page can serve.
func TestFirstReleaseFails(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": "package main\n\nfunc main() { undefined() }\n"})
	s.start()
	status, body, err := s.get("/")
	if err != nil || status != 503 {
		t.Errorf("got %d %q, %v", status, body, err)
	}
	if strings.Contains(body, "undefined") || strings.Contains(body, s.dir) {
		t.Errorf("the answer reveals what is inside: %q", body)
	}
	if p := s.page("index"); p.State != "failed" || !strings.Contains(p.Error, "pages/index/main.go:3:15: undefined: undefined") {
		t.Errorf("status: %s, %q", p.State, p.Error)
	}
	s.write("pages/index/main.go", textPage("ok"))
	s.awaitBody("/", "ok")
}

// TestSharedPackage rebuilds exactly the pages that import it.
func TestSharedPackage(t *testing.T) {
	shared := func(text string) string { return fmt.Sprintf("package shared\n\nconst Text = %q\n", text) }
	user := strings.Replace(textPage("x"), `const text = "x"`, "const text = shared.Text", 1)
	user = strings.Replace(user, `"github.com/tqserver/tqserver/sdk/worker"`, "\"github.com/tqserver/tqserver/sdk/worker\"\n\n\t\"site/internal/shared\"", 1)
	s := newSite(t, map[string]string{
		"internal/shared/shared.go": shared("one"),
		"pages/a/main.go":           user, "pages/b/main.go": user + "// b\n", "pages/c/main.go": textPage("c"),
	})
	s.start()
	s.awaitBody("/a", "one")
	s.awaitBody("/b", "one")
	pid := s.page("c").Workers[0].PID
	built := s.page("c").Build.At
	s.write("internal/shared/shared.go", shared("two"))
	s.awaitBody("/a", "two")
	s.awaitBody("/b", "two")
	if p := s.page("c"); p.Workers[0].PID != pid || !p.Build.At.Equal(built) {
		t.Error("a page that does not import the package was built again")
	}
	s.write("internal/shared/shared.go", "package shared\n\nconst Text = 1 +\n")
	s.await("the error in the status", func() error {
		if e := s.page("a").Error; !strings.Contains(e, "internal/shared/shared.go:") {
			return fmt.Errorf("it says %q", e)
		}
		return nil
	})
	s.write("internal/shared/shared.go", shared("three"))
	s.awaitBody("/a", "three")
	s.awaitBody("/b", "three")
}

// TestEmbeddedFile rebuilds a page when a file that it embeds changes, appears or goes.
func TestEmbeddedFile(t *testing.T) {
	page := strings.Replace(textPage("x"), `const text = "x"`, "//go:embed views\nvar views embed.FS\n\nvar text = func() string {\n\tentries, _ := views.ReadDir(\"views\")\n\tout := \"\"\n\tfor _, e := range entries {\n\t\tb, _ := views.ReadFile(\"views/\" + e.Name())\n\t\tout += string(b)\n\t}\n\treturn out\n}()", 1)
	page = strings.Replace(page, "import (", "import (\n\t\"embed\"", 1)
	s := newSite(t, map[string]string{"pages/index/main.go": page, "pages/index/views/a.txt": "a1"})
	s.start()
	s.awaitBody("/", "a1")
	s.write("pages/index/views/a.txt", "a2")
	s.awaitBody("/", "a2")
	s.write("pages/index/views/b.txt", "b1")
	s.awaitBody("/", "a2b1")
	if err := os.Remove(s.path("pages/index/views/a.txt")); err != nil {
		t.Fatal(err)
	}
	s.awaitBody("/", "b1")
}
