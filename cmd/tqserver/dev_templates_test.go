//go:build linux

package main

import (
	"strings"
	"testing"
)

// TestDevBrowserTemplates edits a page of this repository that reads its templates while it runs: what cannot be parsed
// shows over the page, what can is there after a reload, a stylesheet without one, and nothing is built.
func TestDevBrowserTemplates(t *testing.T) {
	t.Parallel()
	findChromium(t)
	files := map[string]string{}
	for name, text := range sources(t) {
		if strings.HasPrefix(name, "pages/index/") {
			files[name] = text
		}
	}
	s := newSite(t, files)
	s.start("dev")
	b := openBrowser(t, s)
	b.open("/")
	html, release := files["pages/index/index.html"], s.page("index").Release
	s.write("pages/index/index.html", strings.ReplaceAll(html, "</h1>", "{{ .Nope </h1>"))
	b.awaitOverlay("Update failed", "pages/index/index.html:", "{{ .Nope </h1>", "its release serves on")
	b.shows("template")
	s.write("pages/index/index.html", strings.ReplaceAll(html, "</h1>", " Edited.</h1>"))
	b.awaitText("h1", "Edited.")
	b.awaitNoOverlay()
	b.run("window.same = true")
	s.write("pages/index/style.css", files["pages/index/style.css"]+"\nh1 { color: rgb(1, 2, 3); }\n")
	b.awaitScript("the new colour", `getComputedStyle(document.querySelector("h1")).color`, "rgb(1, 2, 3)")
	b.awaitScript("no reload", "window.same", "true")
	if page := s.page("index"); page.Release != release || len(page.Workers) != 1 || page.Workers[0].ID != "index#1" {
		t.Errorf("release %s was built and serves as %+v", page.Release, page.Workers)
	}
}
