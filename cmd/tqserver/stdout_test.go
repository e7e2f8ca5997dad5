//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// stdoutLine is a line of the rotator builtin:stdout.
type stdoutLine struct{ Stream, Source, Page, Worker, Release, Text string }

func parseStdout(t *testing.T, text string) (lines []stdoutLine) {
	t.Helper()
	text = text[:strings.LastIndexByte(text, '\n')+1] // of a line that is being read
	for line := range strings.Lines(text) {
		var l stdoutLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("a line of standard output is no JSON: %q: %v", line, err)
		}
		lines = append(lines, l)
	}
	return lines
}

// talkingPage logs a line for each request.
func talkingPage() string {
	return strings.Replace(plainPage("ok"), `fmt.Fprintln(w, "ok")`, `fmt.Println("asked for", r.URL.Path); fmt.Fprintln(w, "ok")`, 1)
}

// TestLogsOnStandardOutput: with and without the console, standard output has the log and nothing else.
func TestLogsOnStandardOutput(t *testing.T) {
	for _, args := range [][]string{{"run"}, {"run", "--quiet"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			s := newSite(t, map[string]string{"pages/index/main.go": talkingPage()})
			s.configure("", "", "plugins:\n  rotator: {use: builtin:stdout}\n")
			stdout := &output{}
			s.stdout = stdout
			s.start(args...)
			s.awaitBody("/some/path", "ok")
			release := s.page("index").Release
			s.await("the lines on standard output", func() error {
				lines := parseStdout(t, stdout.String())
				page := func(l stdoutLine) bool {
					return l.Stream == "index" && l.Source == "stdout" && l.Page == "index" && l.Worker != "" && l.Release == release && l.Text == "asked for /some/path"
				}
				request := func(l stdoutLine) bool {
					return l.Stream == "server" && l.Source == "kernel" && l.Page == "" && strings.Contains(l.Text, "GET /some/path - 200 ")
				}
				if !slices.ContainsFunc(lines, page) || !slices.ContainsFunc(lines, request) {
					return fmt.Errorf("it has %q", stdout.String())
				}
				return nil
			})
			s.stop()
			if lines := parseStdout(t, stdout.String()); !slices.ContainsFunc(lines, func(l stdoutLine) bool { return strings.Contains(l.Text, "stopping") }) {
				t.Errorf("the last lines before the end are missing: %q", tail(stdout.String(), 1000))
			}
			if strings.Contains(s.out.String(), "asked for") == (len(args) > 1) {
				t.Errorf("the console has %q", s.out.String())
			}
		})
	}
}

// TestStandardOutputThatNobodyReads: requests go on, and what was logged meanwhile arrives when somebody reads.
func TestStandardOutputThatNobodyReads(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": strings.Replace(talkingPage(), "asked for", "asked for"+strings.Repeat(".", 5000), 1)})
	s.configure("", "", "plugins:\n  rotator: {use: builtin:stdout}\n")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.stdout = w
	s.start("run", "--quiet")
	w.Close()
	const requests = 50
	for i := range requests { // more than fits into a pipe
		s.awaitBody(fmt.Sprint("/", i), "ok")
	}
	s.awaitLog("nothing reads it")
	s.awaitBody("/last", "ok")
	stdout := &output{}
	done := make(chan struct{})
	go func() { defer close(done); _, _ = r.WriteTo(stdout) }()
	s.await("the lines that waited", func() error {
		if !strings.Contains(stdout.String(), " /last\"}") {
			return errors.New("they do not come")
		}
		return nil
	})
	if d := s.status().Logs.Dropped; d != 0 {
		t.Errorf("%d lines were dropped", d)
	}
	s.stop()
	<-done
	next := 0
	for _, l := range parseStdout(t, stdout.String()) {
		if l.Page == "index" && strings.HasSuffix(l.Text, fmt.Sprint(" /", next)) {
			next++
		}
	}
	if next != requests {
		t.Errorf("%d lines of requests in order, want %d", next, requests)
	}
}
