//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReloadExchangesEveryPlugin saves a configuration that needs other processes for all stages at once, the watcher
// that reports the save among them.
func TestReloadExchangesEveryPlugin(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.start()
	for i := range 2 {
		before := map[string]int{}
		plugins := "plugins:\n"
		for _, name := range allStages {
			before[name] = s.stage(name).PID
			use := map[string]string{"resolver": "fs", "builder": "go", "watcher": "fsnotify", "checker": "http", "rotator": "file"}[name]
			plugins += fmt.Sprintf("  %s: {use: builtin:%s, env: {TURN: \"%d\"}}\n", name, use, i)
		}
		s.configure("", "", plugins)
		s.await("other plugins", func() error {
			st := s.status()
			if st.Reload == nil {
				return errors.New("not reloaded")
			}
			if st.Reload.Error != "" {
				return errors.New(st.Reload.Error)
			}
			for _, now := range st.Stages {
				if now.State != "running" || now.PID == before[now.Stage] {
					return fmt.Errorf("%s is %s, pid %d", now.Stage, now.State, now.PID)
				}
			}
			return nil
		})
	}
	s.write("pages/index/main.go", textPage("two"))
	s.awaitBody("/", "two")
}

// importing is a page that answers with shared.Text.
func importing(path string) string {
	page := strings.Replace(textPage("x"), `const text = "x"`, "const text = shared.Text", 1)
	return strings.Replace(page, `"github.com/tqserver/tqserver/sdk/worker"`, "\"github.com/tqserver/tqserver/sdk/worker\"\n\n\t\""+path+"\"", 1)
}

// TestPackageThatComesLater saves the import of a package before the package is there, removes it, and puts it back:
// each time the page follows, without a save of its own.
func TestPackageThatComesLater(t *testing.T) {
	const shared = "package shared\n\nconst Text = %q\n"
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.start()
	s.write("pages/index/main.go", importing("site/internal/shared"))
	fails := func() error {
		if p := s.page("index"); !strings.Contains(p.Error, "internal/shared") {
			return fmt.Errorf("the status says %q", p.Error)
		}
		return nil
	}
	s.await("the build to fail", fails)
	s.write("internal/shared/shared.go", fmt.Sprintf(shared, "came"))
	s.awaitBody("/", "came")
	if err := os.Remove(s.path("internal/shared/shared.go")); err != nil {
		t.Fatal(err)
	}
	s.await("the build to fail", fails)
	s.write("internal/shared/shared.go", fmt.Sprintf(shared, "came back"))
	s.awaitBody("/", "came back")
	if err := os.RemoveAll(s.path("internal")); err != nil {
		t.Fatal(err)
	}
	s.await("the build to fail", fails)
	s.write("internal/shared/shared.go", fmt.Sprintf(shared, "came again"))
	s.awaitBody("/", "came again")
}
