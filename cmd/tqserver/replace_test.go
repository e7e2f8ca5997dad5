//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/kernel/control"
)

var builtinOf = map[string]string{"resolver": "fs", "builder": "go", "watcher": "fsnotify", "checker": "http", "rotator": "file"}

// script writes a plugin of a site: a file that becomes the default plugin of a stage. What is in it counts: turn
// makes two of them differ.
func (s *site) script(stage, turn string) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("plugins/"+stage, fmt.Sprintf("#!/bin/sh\n# %s\nexec %s plugin run %s/%s\n", turn, self, stage, builtinOf[stage]))
	if err := os.Chmod(s.path("plugins/"+stage), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

// scripted configures a site to take the plugins of the named stages from files.
func (s *site) scripted(more string, stages ...string) {
	s.t.Helper()
	yaml := "plugins:\n" + more
	for _, stage := range stages {
		s.script(stage, "first")
		yaml += fmt.Sprintf("  %s: {use: ./plugins/%s}\n", stage, stage)
	}
	s.configure("", "", yaml)
}

// replaced waits until a stage runs in another process.
func (s *site) replaced(stage string, before int) control.Stage {
	s.t.Helper()
	s.await("another "+stage, func() error {
		if st := s.stage(stage); st.State != "running" || st.PID == before {
			return fmt.Errorf("it is %s, pid %d", st.State, st.PID)
		}
		return nil
	})
	return s.stage(stage)
}

// TestPluginFilesAreReplacedUnderLoad saves the file of each stage's plugin, then restarts all by command, and no
// request fails.
func TestPluginFilesAreReplacedUnderLoad(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.scripted("", allStages...)
	s.start()
	l := s.startLoad([]client{{name: "GET", path: "/"}, {name: "new connection", path: "/", newConn: true}}, nil)
	for _, stage := range allStages {
		before := s.stage(stage).PID
		s.script(stage, "second")
		if st := s.replaced(stage, before); st.Restarts != 0 || st.Probation.IsZero() || st.Fallback == "" {
			t.Errorf("%s: %+v", stage, st)
		}
	}
	if r := s.status().Reload; r != nil {
		t.Errorf("a plugin's file made the server reload its configuration: %+v", r)
	}
	before := map[string]int{}
	for _, stage := range allStages {
		before[stage] = s.stage(stage).PID
	}
	stdout, stderr, err := s.run("plugin", "reload", "--json")
	var outcomes []control.PluginOutcome
	if err != nil || json.Unmarshal([]byte(stdout), &outcomes) != nil || len(outcomes) != 5 {
		t.Fatalf("plugin reload: %v\n%s%s", err, stdout, stderr)
	}
	for _, stage := range allStages {
		s.replaced(stage, before[stage])
	}
	s.write("pages/index/main.go", textPage("two"))
	s.awaitBody("/", "two")
	l.mustHold()
	if out, _, err := s.run("status"); err != nil || !strings.Contains(out, "running, on probation for ") {
		t.Errorf("status: %v\n%s", err, out)
	}
}

// TestPluginThatFailsOnProbation replaces the resolver by one that ends a while later: the one before comes back, and
// the other is tried again by force only.
func TestPluginThatFailsOnProbation(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.scripted("", "resolver")
	s.start()
	l := s.startLoad([]client{{name: "GET", path: "/"}}, nil)
	good := s.stage("resolver")
	self, _ := os.Executable()
	s.write("plugins/resolver", fmt.Sprintf("#!/bin/sh\n(while [ ! -e %s ]; do sleep 0.05; done; kill -9 $$) &\nexec %s plugin run resolver/fs\n", s.path("die"), self))
	s.replaced("resolver", good.PID)
	s.write("die", "")
	s.await("the one before", func() error {
		if st := s.stage("resolver"); st.State != "running" || !strings.Contains(st.Note, "went back to ./plugins/resolver (") {
			return fmt.Errorf("it is %s, %q", st.State, st.Note)
		}
		return nil
	})
	s.awaitLog("the replacement failed on probation")
	back := s.stage("resolver").PID
	if _, stderr, err := s.run("reload"); err != nil || s.stage("resolver").PID != back {
		t.Errorf("reload: %v %s, pid %d, was %d", err, stderr, s.stage("resolver").PID, back)
	}
	if out, _, err := s.run("plugin", "list"); err != nil || !strings.Contains(out, "went back to") {
		t.Errorf("plugin list: %v\n%s", err, out)
	}
	if out, stderr, err := s.run("plugin", "reload", "resolver"); err == nil || !strings.Contains(out, "FAILED") || !strings.Contains(stderr, "tqserver plugin reload resolver --force") {
		t.Errorf("plugin reload: %v\n%s%s", err, out, stderr)
	}
	if err := os.Remove(s.path("die")); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := s.run("plugin", "reload", "resolver", "--force"); err != nil {
		t.Errorf("plugin reload --force: %v %s", err, stderr)
	}
	if st := s.stage("resolver"); st.Note != "" || st.Probation.IsZero() {
		t.Errorf("%+v", st)
	}
	s.write("pages/two/main.go", textPage("two"))
	s.awaitBody("/two", "two")
	l.mustHold()
}

// TestPluginFileThatIsNotReady writes a plugin's file as a linker does: it is there before it can be executed.
func TestPluginFileThatIsNotReady(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.scripted("", "checker")
	s.start()
	before := s.stage("checker").PID
	if err := os.Chmod(s.path("plugins/checker"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.write("plugins/checker", "half of it")
	s.awaitLog("the changed plugin is not used, the one before stays")
	if st := s.stage("checker"); st.PID != before || st.State != "running" {
		t.Errorf("%+v", st)
	}
	s.script("checker", "second")
	s.replaced("checker", before)
}

// TestResolverThatLosesRoutes changes to a resolver that knows a third of the pages.
func TestResolverThatLosesRoutes(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one"), "pages/a/main.go": textPage("a"), "pages/b/main.go": textPage("b")})
	s.start()
	before := s.stage("resolver").PID
	s.configure("", "", "plugins: {resolver: {env: {OTHER: \"1\"}, config: {skip: [a, b]}}}\n")
	s.await("the refusal", func() error {
		if r := s.status().Reload; r == nil || !strings.Contains(r.Error, "it has 1 of the 3 routes in force") || !strings.Contains(r.Error, "tqserver plugin reload resolver --force") {
			return fmt.Errorf("the status says %+v", r)
		}
		return nil
	})
	if len(s.status().Pages) != 3 || s.stage("resolver").PID != before {
		t.Error("it had an effect")
	}
	if _, stderr, err := s.run("plugin", "reload", "resolver", "--force"); err != nil {
		t.Fatalf("by force: %v %s", err, stderr)
	}
	s.await("one page", func() error {
		if st := s.status(); len(st.Pages) != 1 || st.Reload.Error != "" {
			return errors.New("the status shows another")
		}
		return nil
	})
}
