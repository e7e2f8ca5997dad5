//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/tqserver/tqserver/kernel"
)

// TestHangupReloads: SIGHUP applies the configuration, also when the watcher is down.
func TestHangupReloads(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": envPage("GOMAXPROCS"), "pages/b/main.go": textPage("one")})
	s.start()
	watcher := s.running("watcher").PID
	s.signal(watcher, syscall.SIGSTOP)
	s.configure("", "default: {go_max_procs: 5}", "")
	s.write("pages/b/main.go", textPage("two"))
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.awaitBody("/", "5")
	s.awaitBody("/b", "two")
	s.configure("log_level: debug", "default: {go_max_procs: 5}", "")
	if _, stderr, err := s.run("reload"); err != nil {
		t.Errorf("reload: %v: %s", err, stderr)
	}
	s.write("pages/b/main.go", textPage("three"))
	if _, stderr, err := s.run("reload"); err != nil {
		t.Errorf("reload: %v: %s", err, stderr)
	}
	s.awaitLog("[DEBUG]")
	_ = syscall.Kill(watcher, syscall.SIGCONT)
}

// TestSecondSignalHurries: the first waits for a request that never ends, the second does not.
func TestSecondSignalHurries(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.configure("shutdown_timeout_seconds: 600", "", "")
	s.start()
	ended := make(chan error, 1)
	go func() {
		_, _, err := s.get("/?ms=3600000")
		ended <- err
	}()
	s.await("the request to be in flight", func() error {
		if w := s.page("index").Workers; len(w) == 0 || w[0].InFlight == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	pid := s.page("index").Workers[0].PID
	_ = s.cmd.Process.Signal(syscall.SIGINT)
	s.await("the server to stop", func() error {
		if st := s.status(); st.State != "stopping" {
			return fmt.Errorf("it is %s", st.State)
		}
		return nil
	})
	_ = s.cmd.Process.Signal(syscall.SIGINT)
	<-s.exited
	<-ended
	if alive(pid) {
		t.Error("the worker lives")
	}
	s.stop()
}

// TestBuildCommand builds all pages beside a running server, and tells which one does not build.
func TestBuildCommand(t *testing.T) {
	s := newSite(t, map[string]string{"pages/a/main.go": textPage("a"), "pages/b/main.go": textPage("b")})
	out, stderr, err := s.run("build", "--json")
	var built []kernel.Built
	if err != nil || json.Unmarshal([]byte(out), &built) != nil || len(built) != 2 || !built[0].OK || built[0].Cached {
		t.Fatalf("build: %v\n%s%s", err, out, stderr)
	}
	s.start()
	if out, _, err = s.run("build"); err != nil || strings.Count(out, "cached") != 2 {
		t.Errorf("build beside a server: %v\n%s", err, out)
	}
	s.write("pages/b/main.go", "package main\n\nfunc main() { undefined() }\n")
	out, stderr, err = s.run("build")
	if err == nil || !strings.Contains(out, "pages/b/main.go:3:15: undefined: undefined") || !strings.Contains(stderr, "1 of 2 pages do not build") {
		t.Errorf("build with a broken page: %v\n%s%s", err, out, stderr)
	}
	s.awaitBody("/a", "a")
}
