//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

// templatePage renders templates/page.html, and takes as long as ?ms= says. It reads pages/shop/colour at the start and
// whenever that changes.
const templatePage = `package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
	"github.com/tqserver/tqserver/sdk/worker/templates"
)

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	pages, err := templates.New(runtime, templates.Dir("templates"))
	if err != nil {
		log.Fatal(err)
	}
	var colour atomic.Pointer[string]
	read := func([]string) error {
		text, err := os.ReadFile(filepath.Join(runtime.PageDir, "data", "colour"))
		if err != nil {
			return fmt.Errorf("read the colour: %w", err)
		}
		s := string(text)
		colour.Store(&s)
		return nil
	}
	runtime.OnChange("data", read)
	if err := read(nil); err != nil {
		log.Fatal(err)
	}
	http.Handle("GET /shop/static/", http.StripPrefix("/shop/static/", http.FileServer(http.Dir(filepath.Join(runtime.PageDir, "static")))))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if ms, _ := strconv.Atoi(r.FormValue("ms")); ms > 0 {
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
		pages.Render(w, "page.html", map[string]any{"Colour": *colour.Load(), "Read": n, "Post": r.Method == http.MethodPost})
	})
	if err := runtime.StartServer(nil); err != nil {
		log.Fatal(err)
	}
}
`

func shopFiles() map[string]string {
	return map[string]string{
		"pages/shop/main.go":               templatePage,
		"pages/shop/templates/page.html":   `{{template "layout.html" .}}{{define "content"}}one{{end}}`,
		"pages/shop/templates/layout.html": `{{template "content" .}} {{.Colour}}{{if .Post}} {{.Read}}{{end}}`,
		"pages/shop/data/colour":           "red",
		"pages/shop/static/style.css":      "p{}",
	}
}

// sameWorker gives a check that a page has still the worker and the build that it has now.
func (s *site) sameWorker(name string) func() {
	s.t.Helper()
	before := s.page(name)
	return func() {
		s.t.Helper()
		now := s.page(name)
		if len(now.Workers) != 1 || now.Workers[0].PID != before.Workers[0].PID || !now.Build.At.Equal(before.Build.At) {
			s.t.Errorf("built or restarted: before %+v, now %+v", before, now)
		}
	}
}

// awaitPage waits until the status of a page is as check wants it.
func (s *site) awaitPage(name, what string, check func(p control.Page) bool) {
	s.t.Helper()
	s.await(what, func() error {
		if p := s.page(name); !check(p) {
			return fmt.Errorf("the status is %+v, update %+v", p, p.Update)
		}
		return nil
	})
}

// TestEditsWithoutABuild edits templates, data and static files: nothing is built and no worker is restarted.
func TestEditsWithoutABuild(t *testing.T) {
	s := newSite(t, shopFiles())
	s.start()
	s.awaitBody("/shop", "one red")
	for _, c := range []struct {
		name string
		test func(s *site)
	}{{"under load", editUnderLoad}, {"while the watcher is away", editUnwatched}, {"of a release that does not start", editForRelease}} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			c.test(s)
		})
		s.t = t
	}
}

// editUnderLoad: no request fails, and a mistake is shown until it is mended.
func editUnderLoad(s *site) {
	unchanged := s.sameWorker("shop")
	l := s.startLoad(everyKind("/shop")[:4], nil)
	begin := time.Now()
	s.write("pages/shop/templates/page.html", `{{template "layout.html" .}}{{define "content"}}two{{end}}`)
	s.awaitBody("/shop", "two red")
	s.t.Logf("live after %v", time.Since(begin))
	s.awaitPage("shop", "the update in the status", func(p control.Page) bool { return p.Update != nil && p.Update.OK && p.Update.Files > 0 })
	s.write("pages/shop/data/colour", "blue")
	s.awaitBody("/shop", "two blue")
	s.write("pages/shop/static/style.css", "i{}")
	s.awaitBody("/shop/static/style.css", "i{}")

	s.write("pages/shop/templates/page.html", "three\n{{end}}")
	s.awaitPage("shop", "the mistake in the status", func(p control.Page) bool {
		return strings.HasPrefix(p.Error, `update failed: pages/shop/templates/page.html:2: unexpected {{end}}`) && p.State == "serving" &&
			len(p.Update.Diagnostics) == 1 && p.Update.Diagnostics[0].File == s.path("pages/shop/templates/page.html") && p.Update.Diagnostics[0].Line == 2
	})
	s.awaitLog("update failed: pages/shop/templates/page.html:2: unexpected {{end}}")
	s.write("pages/shop/data/colour", "green") // the other one's mistake stays
	s.awaitBody("/shop", "two green")
	if e := s.page("shop").Error; !strings.Contains(e, "page.html:2") {
		s.t.Errorf("the status forgets a mistake that is not mended: %q", e)
	}
	s.write("pages/shop/templates/page.html", `three {{template "layout.html" .}}{{define "content"}}{{end}}`)
	s.awaitBody("/shop", "three  green")
	s.awaitPage("shop", "the mistake to be gone", func(p control.Page) bool { return p.Error == "" && p.Update.OK })

	if err := os.Rename(s.path("pages/shop/data/colour"), s.path("pages/shop/data/none")); err != nil {
		s.t.Fatal(err)
	}
	s.awaitPage("shop", "the missing file in the status", func(p control.Page) bool {
		return strings.HasPrefix(p.Error, "update failed: read the colour: open ")
	})
	s.write("pages/shop/data/colour", "white")
	s.awaitBody("/shop", "three  white")
	s.awaitPage("shop", "the mistake to be gone", func(p control.Page) bool { return p.Error == "" })
	unchanged()
	l.mustHold()
}

// editUnwatched: what was changed is found when the watcher is back, a removed template included.
func editUnwatched(s *site) {
	s.write("pages/shop/templates/nav.html", "nav")
	s.write("pages/shop/templates/page.html", `{{template "nav.html"}} {{template "layout.html" .}}{{define "content"}}{{end}}`)
	s.awaitBody("/shop", "nav  white")
	unchanged := s.sameWorker("shop")
	s.killStage("watcher")
	s.write("pages/shop/data/colour", "black")
	if err := os.Remove(s.path("pages/shop/templates/nav.html")); err != nil {
		s.t.Fatal(err)
	}
	s.awaitBody("/shop", "nav  black")
	s.awaitPage("shop", "the removed file in the status", func(p control.Page) bool { return strings.Contains(p.Error, `template "nav.html" is neither`) })
	s.write("pages/shop/templates/nav.html", "new")
	s.awaitBody("/shop", "new  black")
	unchanged()
}

// editForRelease: a release that a broken template holds back is started when that is mended, without a build.
func editForRelease(s *site) {
	s.write("pages/shop/templates/page.html", "{{")
	s.awaitPage("shop", "the mistake in the status", func(p control.Page) bool { return strings.Contains(p.Error, "page.html:1: unclosed action") })
	s.write("pages/shop/main.go", templatePage+"\nvar edited = os.Args\n")
	s.awaitPage("shop", "the release to be refused", func(p control.Page) bool {
		return p.Build.OK && p.Build.Release != p.Release && strings.Contains(p.Error, "does not start") && strings.Contains(p.Error, "page.html:1: unclosed action")
	})
	s.awaitBody("/shop", "new  black")
	s.write("pages/shop/templates/page.html", "mended")
	s.awaitBody("/shop", "mended")
	s.awaitPage("shop", "the release to be live", func(p control.Page) bool { return p.Build.Release == p.Release && p.Error == "" })
}
