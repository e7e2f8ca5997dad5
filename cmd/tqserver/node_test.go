//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk/stagetest"
)

// npmPatience bounds the fetching of the packages that the plugin is made of.
const npmPatience = 5 * time.Minute

// TestNodePlugin builds the example in docs/plugins/node as its README says, and puts it to work.
func TestNodePlugin(t *testing.T) {
	t.Parallel()
	plugin := buildNodePlugin(t)
	t.Run("description", func(t *testing.T) {
		out, errs, err := newSite(t, nil).run("plugin", "describe", plugin)
		for _, want := range []string{"jsonfile", "javascript", "rotator", "log-level", "old files that are kept"} {
			if !strings.Contains(out, want) {
				t.Errorf("plugin describe has no %q: %v %s\n%s", want, err, errs, out)
			}
		}
	})
	t.Run("service", func(t *testing.T) { testNodeRotator(t, plugin) })
	t.Run("conformance", func(t *testing.T) {
		stagetest.Test(t, "rotator", stagetest.Plugin{Path: plugin, Config: "{file: all.log, max_size_mb: 1, keep: 100}", Output: []string{"all.log*"}})
	})
}

// testNodeRotator: lines of a page are in the file, in order, across rotation and a killed plugin. The package.json is
// there because Node takes a file without an extension for a module below one like it.
func testNodeRotator(t *testing.T, plugin string) {
	const bursts, each = 12, 1000
	page := strings.Replace(textPage("ok"), `	http.HandleFunc("/", `, `	next := 0
	http.HandleFunc("/burst", func(w http.ResponseWriter, r *http.Request) {
		for range `+fmt.Sprint(each)+` {
			fmt.Printf("burst line %06d of the page, long enough to be like a real one\n", next)
			next++
		}
		fmt.Fprintln(w, "done")
	})
	http.HandleFunc("/", `, 1)
	s := newSite(t, map[string]string{"pages/index/main.go": page, "package.json": `{"type": "module"}`})
	s.configure("", "", fmt.Sprintf("plugins:\n  rotator: {use: %s, config: {file: logs/all.jsonl, fsync: true, max_size_mb: 1, keep: 30}}\n", plugin))
	s.start("run", "--quiet")
	for i := range bursts {
		s.awaitBody("/burst", "done")
		if i == bursts/2 {
			s.await("lines in the file", func() error { _, err := burstLines(s.path("logs")); return err })
			s.killStage("rotator")
		}
	}
	s.await("all lines in the files", func() error {
		n, err := burstLines(s.path("logs"))
		if err == nil && n != bursts*each {
			err = fmt.Errorf("%d lines", n)
		}
		return err
	})
	if st := s.stage("rotator"); st.Version != "1.0.0" || st.Restarts != 1 {
		t.Errorf("the plugin is version %s and was started again %d times, want 1.0.0 and once", st.Version, st.Restarts)
	}
	if d := s.status().Logs.Dropped; d != 0 {
		t.Errorf("%d lines were dropped", d)
	}
	if old, err := os.Stat(s.path("logs/all.jsonl.1")); err != nil || old.Size() > 1<<20 {
		t.Errorf("the first old file: %v, %v; want at most 1 MiB", old, err)
	}
}

var burstLine = regexp.MustCompile(`^burst line (\d{6}) of the page`)

// burstLines counts the lines of the page in all.jsonl and what it was rotated to, oldest first. A line may be there
// again, as it is after a batch that was not acknowledged. A line that comes before one that belongs before it, and
// one that is no JSON unless it is the last before a kill, is an error.
func burstLines(dir string) (int, error) {
	next := 0
	for n := 40; n >= 0; n-- {
		name := filepath.Join(dir, fmt.Sprintf("all.jsonl.%d", n))
		if n == 0 {
			name = filepath.Join(dir, "all.jsonl")
		}
		text, err := os.ReadFile(name)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && n > 0) {
			return 0, err
		}
		for line := range bytes.Lines(text) {
			var l struct{ Stream, Source, Worker, Text string }
			if err := json.Unmarshal(line, &l); err != nil {
				continue // torn by the kill: it was not acknowledged, and is there again
			}
			m := burstLine.FindStringSubmatch(l.Text)
			switch want := fmt.Sprintf("%06d", next); {
			case m == nil || m[1] < want:
			case m[1] > want:
				return next, fmt.Errorf("%s: line %s comes where %s belongs", name, m[1], want)
			case l.Stream != "index" || l.Source != "stdout" || !strings.HasPrefix(l.Worker, "index#"):
				return next, fmt.Errorf("%s: line %s has stream %q, source %q, worker %q", name, m[1], l.Stream, l.Source, l.Worker)
			default:
				next++
			}
		}
	}
	if next == 0 {
		return 0, errors.New("no lines of the page yet")
	}
	return next, nil
}

// buildNodePlugin makes the plugin in a copy of its directory and gives its path.
func buildNodePlugin(t *testing.T) string {
	t.Helper()
	needNode(t)
	root := t.TempDir()
	for _, pattern := range []string{"docs/plugins/node/*", "docs/plugins/node/.npmrc", "sdk/proto/tqserver/*/v1/*.proto"} {
		copyFiles(t, filepath.Join("..", ".."), root, pattern)
	}
	dir := filepath.Join(root, "docs/plugins/node")
	if out, err := npm(t, dir, "ci", "--no-audit", "--no-fund"); err != nil {
		if regexp.MustCompile(`ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH`).MatchString(out) {
			notTested(t, "the packages of the plugin in Node cannot be fetched: "+tail(out, 500))
		}
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if out, err := npm(t, dir, "run", "build"); err != nil {
		t.Fatalf("npm run build: %v\n%s", err, out)
	}
	return filepath.Join(dir, "dist/rotator.cjs")
}

// needNode skips the test where Node is missing or too old, and fails it on a machine that is for tests.
func needNode(t *testing.T) {
	t.Helper()
	const check = `typeof process.getBuiltinModule === "function" || process.exit(1)`
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if exec.CommandContext(ctx, "node", "-e", check).Run() != nil {
		notTested(t, "Node 20.16 or later is not installed, so the plugin in Node was not tested")
	}
	if _, err := exec.LookPath("npm"); err != nil {
		notTested(t, "npm is not installed, so the plugin in Node was not tested")
	}
}

func notTested(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func npm(t *testing.T, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), npmPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", args...)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// copyFiles copies the regular files that a pattern below from names to the same places below to.
func copyFiles(t *testing.T, from, to, pattern string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(from, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: nothing found, %v", pattern, err)
	}
	for _, name := range found {
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
