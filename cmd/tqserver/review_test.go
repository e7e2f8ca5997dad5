//go:build linux

package main

import (
	"errors"
	"fmt"
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
