//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"
)

// TestWithoutFileEventsAndHealth: builtin:poll notices saves, new pages and the configuration, and builtin:tcp has
// nothing against a page that is ill by its own account, which builtin:http replaces.
func TestWithoutFileEventsAndHealth(t *testing.T) {
	ill := strings.Replace(textPage("one"), `http.HandleFunc("/",`, `http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "ill", 500) })
	http.HandleFunc("/",`, 1)
	const tcp = "  checker: {use: builtin:tcp, config: {interval_ms: 20, failures: 1}}\n"
	const plugins = "plugins:\n  watcher: {use: builtin:poll, config: {interval_ms: 50}}\n"
	s := newSite(t, map[string]string{"pages/index/main.go": ill})
	s.configure("", "", plugins+tcp)
	s.start()
	s.awaitBody("/", "one")
	pid := s.page("index").Workers[0].PID
	s.write("pages/more/main.go", textPage("more"))
	s.awaitBody("/more", "more")
	for _, page := range []string{"index", "more"} {
		s.await("a connection to "+page, func() error {
			if w := s.page(page).Workers; len(w) == 0 || w[0].Healthy == nil || !*w[0].Healthy {
				return errors.New("it was not found healthy")
			}
			return nil
		})
	}
	s.write("pages/more/main.go", textPage("other"))
	s.awaitBody("/more", "other")
	if now := s.page("index").Workers[0].PID; now != pid {
		t.Errorf("worker %d was replaced by %d", pid, now)
	}
	s.configure("", "", plugins+strings.Replace(tcp, "tcp", "http", 1))
	s.awaitLog("/health answered 500")
}
