//go:build linux && bench

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// air is a site whose page is run by air (github.com/air-verse/air) with what it does by default. nil: not installed.
type air struct {
	*site
	asker
	source func(string) string
	took   []time.Duration
	failed int
}

// findAir gives air's path, or "".
func findAir() string {
	if path, err := exec.LookPath("air"); err == nil {
		return path
	}
	out, err := exec.Command("go", "env", "GOPATH").Output()
	if err != nil {
		return ""
	}
	path, err := exec.LookPath(filepath.Join(string(out[:len(out)-1]), "bin", "air"))
	if err != nil {
		return ""
	}
	return path
}

func newAir(t *testing.T, source func(string) string) *air {
	path := findAir()
	if path == "" {
		return nil
	}
	a := &air{site: newSite(t, map[string]string{savedPage: source("warm up")}), source: source}
	a.asker = newAsker(t, a.url("/"))
	a.cmd = exec.CommandContext(context.Background(), path)
	a.cmd.Dir = filepath.Dir(a.path(savedPage))
	a.cmd.Env = append(os.Environ(), "PWD="+a.cmd.Dir, fmt.Sprint("TQ_PORT=", a.port))
	a.cmd.Stdout, a.cmd.Stderr = a.out, a.out
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	a.cmd.WaitDelay = time.Second // its page has the same output
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = a.cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = a.cmd.Process.Signal(syscall.SIGINT) // ends the page as well
		select {
		case <-exited:
		case <-time.After(patience):
			_ = a.cmd.Process.Kill()
			t.Errorf("air did not end:\n%s", tail(a.out.String(), 4000))
		}
	})
	a.until("warm up")
	a.failed = 0
	return a
}

func (a *air) save(text string) {
	a.t.Helper()
	start := time.Now()
	a.write(savedPage, a.source(text))
	a.until(text)
	a.took = append(a.took, time.Since(start))
}

// until asks until the page answers with a text, and counts the requests that fail.
func (a *air) until(text string) {
	a.t.Helper()
	start, tick := time.Now(), time.NewTicker(askEvery)
	defer tick.Stop()
	for ; ; <-tick.C {
		got, err := a.answer()
		if err != nil {
			a.failed++
		} else if got == text {
			return
		}
		if time.Since(start) > patience {
			a.t.Fatalf("air: %q is not live after %v: %v\n%s", text, patience, err, tail(a.out.String(), 4000))
		}
	}
}
