package builder

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// newLaneSite is a site whose lanes are prepared at once.
func newLaneSite(t *testing.T, files ...string) *site {
	t.Helper()
	s := newSite(t, files...)
	s.g.lanes.background.quiet = time.Millisecond
	return s
}

// settle waits until nothing is done in the background for a page.
func (s *site) settle(page string) {
	s.t.Helper()
	src := s.source(page)
	if src == nil {
		return
	}
	f := &src.fast
	eventually(s.t, "the background work for "+page+" is done", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.pending
	})
}

func (s *site) source(page string) *source {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	return s.g.sources[s.path("pages/"+page)]
}

// lane builds a page without a fault, and tells what it prints and whether it was on the fast lane.
func (s *site) lane(page string) (out string, fast bool) {
	s.t.Helper()
	r, e := s.build(page)
	if !r.OK {
		s.t.Fatalf("build %s: diagnostics %v, log %q", page, e.diagnostics, e.logs)
	}
	text, err := exec.CommandContext(s.t.Context(), r.Artifact).CombinedOutput()
	if err != nil {
		s.t.Fatalf("run %s: %v: %s", page, err, text)
	}
	s.settle(page)
	return strings.TrimSpace(string(text)), slices.Contains(e.steps, "link")
}

// edits is a list of edits of one page: file, content, what it prints then, and whether the lane makes it.
type edit struct {
	file, content, prints string
	fast                  bool
}

func (s *site) follow(page string, edits ...edit) {
	s.t.Helper()
	for _, e := range edits {
		if e.content == "" {
			if err := os.Remove(s.path(e.file)); err != nil {
				s.t.Fatal(err)
			}
		} else {
			s.write(e.file, e.content)
		}
		if out, fast := s.lane(page); out != e.prints || fast != e.fast {
			s.t.Errorf("%s with %q: prints %q, want %q; fast %v, want %v", e.file, e.content, out, e.prints, fast, e.fast)
		}
	}
}

func TestEditsThatKeepThePlanAreFast(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"one"`))
	if out, fast := s.lane("a"); out != "one" || fast {
		t.Fatalf("first build: prints %q, fast %v", out, fast)
	}
	s.follow("a",
		edit{"pages/a/main.go", program(`"two"`), "two", true},
		edit{"pages/a/main.go", "// a comment\n" + program(`"three"`), "three", true},
		edit{"pages/a/main.go", program(`len(os.Args)`, `"os"`), "1", false}, // os is not there yet
		edit{"pages/a/main.go", program(`len(os.Args)+1`, `"os"`), "2", true},
		edit{"pages/a/main.go", program(`"four"`), "four", true},                         // without os
		edit{"pages/a/main.go", program(`sync.OnceFunc != nil`, `"sync"`), "true", true}, // which os needs
		edit{"pages/a/other.go", "package main\n\nconst five = 5\n", "true", false},      // a new file
		edit{"pages/a/main.go", program(`five`), "5", true},
		edit{"pages/a/other.go", "//go:build linux\n\npackage main\n\nconst five = 6\n", "6", false},
		edit{"pages/a/main.go", program(`"seven"`), "seven", true},
		edit{"pages/a/other.go", "", "seven", true}, // that plan was there before
	)
}

func TestSwitchTurnsTheLaneOff(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"one"`))
	s.configure(func(c *GoConfig) { c.Fast = "off" })
	s.follow("a", edit{"pages/a/main.go", program(`"two"`), "two", false}, edit{"pages/a/main.go", program(`"three"`), "three", false})
	if _, err := os.Stat(filepath.Join(s.out, storeName)); !os.IsNotExist(err) {
		t.Errorf("the store is there: %v", err)
	}
}

var _ = fmt.Sprint
var _ = context.Background
var _ = hclog.Debug
