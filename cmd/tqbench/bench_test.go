//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCheapParts runs those that need no tqserver, whose start takes longest.
func TestCheapParts(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	o := testOptions(t, "-quick", "-peers", "reverse", "-only", "cpu,routes,memory", "-round", "100ms", "-rounds", "1", "-idle", "600", "-json")
	var told, progress strings.Builder
	o.results, o.narration = &told, &progress
	if err := bench(t.Context(), o); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var r results
	if err := json.Unmarshal([]byte(told.String()), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 || r.CPU == nil || len(r.CPU.Series) != 2 || len(r.Routes) != 2 || len(r.Memory) != 3 {
		t.Fatalf("%s\n%s", progress.String(), told.String())
	}
	for _, s := range append(r.CPU.Series, r.Routes[1].Series...) {
		if s.Requests == 0 || s.Errors > 0 {
			t.Errorf("%+v", s)
		}
	}
	for _, m := range r.Memory {
		if m.PSS <= 0 || m.Connections != m.Wanted {
			t.Errorf("memory: %+v", m)
		}
	}
	nothingLeft(t)
}

// TestQuickRun has tqserver beside the proxy that needs no installation.
func TestQuickRun(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	out := t.TempDir()
	var told, progress strings.Builder
	o := testOptions(t, "-quick", "-peers", "tqserver,reverse", "-only", "latency,reload", "-round", "100ms", "-rounds", "1", "-routes", "3", "-idle", "600", "-out", out)
	o.results, o.narration = &told, &progress
	if err := bench(t.Context(), o); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var r results
	data, err := os.ReadFile(filepath.Join(out, "results.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	if errs := r.incomplete(); len(errs) > 0 {
		t.Errorf("%q\n%s\n%s", errs, progress.String(), told.String())
	}
	for _, name := range []string{"latency-1.svg", "reload.svg"} {
		svg, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		wellFormed(t, name, string(svg))
	}
	if !strings.Contains(told.String(), "## The goals") || !strings.Contains(progress.String(), "measuring takes about") {
		t.Error("the run does not tell what it is to tell")
	}
	nothingLeft(t)
}

// incomplete tells what a run of these parts has to have and has not. A round may be too short for CPU time to show.
func (r *results) incomplete() (all []string) {
	if len(r.Peers) < 3 || r.Cores == nil || len(r.Latency) != 1 {
		return []string{"parts are missing"}
	}
	for _, c := range []*comparison{r.Cores, &r.Latency[0].comparison} {
		for _, s := range c.Series {
			if s.Requests == 0 || s.Errors > 0 || len(s.Rate) == 0 || s.P99[0] < s.P50[0] {
				all = append(all, fmt.Sprintf("%s: %s: %+v", c.Title, s.Peer, s))
			}
		}
	}
	for _, x := range r.Reload {
		if x.Reloads+int(x.During.Requests) == 0 || x.Quiet.Requests == 0 || x.Quiet.Errors+x.During.Errors > 0 {
			all = append(all, fmt.Sprintf("reload: %+v", x))
		}
	}
	if len(r.Reload) != 2 {
		all = append(all, "not both ways to reload")
	}
	return append(all, r.Problems...)
}

func testOptions(t *testing.T, args ...string) options {
	t.Helper()
	o, err := parseOptions(args, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// nothingLeft looks for processes and files of a run that is over.
func nothingLeft(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		pids, err := tree(os.Getpid(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the run has left the processes %d", pids[1:])
		}
		time.Sleep(10 * time.Millisecond) // between two looks at other processes
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "tqbench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("the run has left %q, %v", left, err)
	}
}

// interrupter cancels a run when it tells of a certain step.
type interrupter struct {
	at     string
	cancel context.CancelFunc
}

func (i interrupter) Write(p []byte) (int, error) {
	if strings.Contains(string(p), i.at) {
		i.cancel()
	}
	return len(p), nil
}

// TestInterrupted: a run that is ended at any of its steps says so, and leaves nothing.
func TestInterrupted(t *testing.T) {
	for _, at := range []string{"building worker", "round 1 of", "with 600 idle"} {
		t.Setenv("TMPDIR", t.TempDir())
		ctx, cancel := context.WithCancel(t.Context())
		o := testOptions(t, "-quick", "-peers", "reverse", "-only", "cpu,memory", "-round", "50ms", "-rounds", "1", "-idle", "600")
		o.narration, o.results = interrupter{at, cancel}, &strings.Builder{}
		begin := time.Now()
		err := bench(ctx, o)
		cancel()
		if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Errorf("interrupted at %q after %v: %v", at, time.Since(begin), err)
		}
		nothingLeft(t)
	}
}

// TestMissingPeers: who is not installed is named, with how to change that.
func TestMissingPeers(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	b := &bencher{o: options{narration: &strings.Builder{}}, results: newResults(options{}), dir: t.TempDir()}
	for _, name := range []string{"haproxy", "caddy"} {
		if err := b.find(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.peers) != 0 || len(b.results.Missing) != 2 {
		t.Fatalf("%d found, missing: %v", len(b.peers), b.results.Missing)
	}
	if report := b.results.files()["results.md"]; !strings.Contains(report, "apt-get install -y haproxy") || !strings.Contains(report, "go install github.com/caddyserver") {
		t.Error(report)
	}
}

func TestFleetLeavesOutWhatDoesNotStart(t *testing.T) {
	bad := &peer{name: "bad", start: func(ctx context.Context, p *peer, s setup) (*server, error) {
		return launch(ctx, p, s, "127.0.0.1:1", command{argv: []string{"/bin/sh", "-c", "echo no such option; exit 3"}})
	}}
	b := &bencher{o: options{narration: &strings.Builder{}}, results: newResults(options{}), dir: t.TempDir()}
	err := b.withFleet(t.Context(), []*peer{bad}, 1, 1, func(_ context.Context, fleet []*server) error {
		if len(fleet) != 0 {
			t.Errorf("%d servers run", len(fleet))
		}
		return nil
	})
	if err != nil || !slices.ContainsFunc(b.results.Problems, func(p string) bool { return strings.Contains(p, "no such option") }) {
		t.Errorf("%v, problems %q", err, b.results.Problems)
	}
}
