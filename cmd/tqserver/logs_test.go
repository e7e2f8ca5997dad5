//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

// TestBurstOfLogLines: 100,000 lines at once are all stored, in order, and requests go on meanwhile.
func TestBurstOfLogLines(t *testing.T) {
	page := strings.Replace(textPage("ok"), `	http.HandleFunc("/", `, `	http.HandleFunc("/burst", func(w http.ResponseWriter, r *http.Request) {
		for i := range 100000 {
			fmt.Printf("burst line %06d of the page, long enough to be like a real one\n", i)
		}
		fmt.Fprintln(w, "done")
	})
	http.HandleFunc("/", `, 1)
	s := newSite(t, map[string]string{"pages/index/main.go": page})
	s.start("run", "--quiet")
	l := s.startLoad(everyKind("/")[:4], nil)
	s.awaitBody("/burst", "done")
	l.mustHold()
	s.await("all lines in the log", func() error {
		next := 0
		for line := range strings.Lines(readAll(t, s.path("logs/index"))) {
			if _, rest, ok := strings.Cut(line, "burst line "); ok {
				if want := fmt.Sprintf("%06d", next); !strings.HasPrefix(rest, want) {
					t.Fatalf("line %q comes where %s belongs", line, want)
				}
				next++
			}
		}
		if next != 100000 {
			return fmt.Errorf("%d lines", next)
		}
		return nil
	})
	if d := s.status().Logs.Dropped; d != 0 {
		t.Errorf("%d lines were dropped", d)
	}
}

// TestLogsOfPagesAndServer end up where the configuration says, with the worker and the release; null turns one off.
func TestLogsOfPagesAndServer(t *testing.T) {
	page := strings.Replace(plainPage("ok"), `fmt.Fprintln(w, "ok")`, `fmt.Println("hello from the page"); fmt.Fprintln(w, "ok")`, 1)
	s := newSite(t, map[string]string{"pages/api/users/main.go": page, "pages/off/main.go": page})
	s.configure("log_file: logs/main_{date}.log", "default: {log_file: \"logs/{path}/w_{date}.log\"}\npaths:\n  \"/off\": {log_file: null}", "")
	s.start()
	s.awaitBody("/api/users", "ok")
	s.awaitBody("/off", "ok")
	w := s.page("api/users").Workers[0]
	s.await("the line in the page's log", func() error {
		text := readAll(t, s.path("logs/api/users"))
		if !strings.Contains(text, "hello from the page") || !strings.Contains(text, w.ID) || !strings.Contains(text, w.Release[:8]) {
			return fmt.Errorf("it has %q", text)
		}
		return nil
	})
	s.await("the request in the server's log", func() error {
		text := readAll(t, s.path("logs"))
		if !strings.Contains(text, "GET /api/users - 200 ") {
			return fmt.Errorf("it has %q", tail(text, 500))
		}
		return nil
	})
	if text := readAll(t, s.path("logs/off")); text != "" {
		t.Errorf("a log that is turned off has %q", text)
	}
	out, _, err := s.run("logs", "off", "--json")
	var l control.LogLine
	if err != nil || json.Unmarshal([]byte(out), &l) != nil || l.Text != "hello from the page" || l.Worker == "" {
		t.Errorf("tqserver logs off: %q, %v", out, err)
	}
	if _, stderr, err := s.run("logs", "nopage"); err == nil || !strings.Contains(stderr, "api/users") {
		t.Errorf("logs of a page that is not there: %v, %q", err, stderr)
	}
	if _, err := os.Stat(s.path("logs/main_" + time.Now().Format(time.DateOnly) + ".log")); err != nil {
		t.Error(err)
	}
}
