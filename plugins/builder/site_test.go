package builder

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// site is a module with pages, in a directory of its own.
type site struct {
	t   *testing.T
	dir string
	out string
	g   *Go
}

// newSite writes files, given as name, content, name, content, …, beside a go.mod.
func newSite(t *testing.T, files ...string) *site {
	t.Helper()
	t.Parallel()
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "site"), out: filepath.Join(t.TempDir(), "out"), g: NewGo()}
	if err := os.MkdirAll(s.out, 0o700); err != nil {
		t.Fatal(err)
	}
	s.configure(func(c *GoConfig) { c.Linker = "stock" })
	s.g.lanes.background.quiet = time.Hour // nothing in the background; see newLaneSite
	t.Cleanup(s.drain)
	s.write("go.mod", "module site\n\ngo 1.26\n")
	for i := 0; i < len(files); i += 2 {
		s.write(files[i], files[i+1])
	}
	return s
}

// drain ends what the builder does in the background.
func (s *site) drain() {
	if err := s.g.Drain(context.Background()); err != nil {
		s.t.Error(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *site) write(name, content string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) configure(change func(*GoConfig)) {
	s.t.Helper()
	c := GoConfig{Go: "go", TimeoutMS: 120_000, Cgo: "auto", Fast: "auto", Linker: "stock", CheckMinutes: 10}
	change(&c)
	if err := s.g.Configure(s.t.Context(), c); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) job(page string) sdk.Job {
	return sdk.Job{Page: page, Dir: s.path("pages/" + page), Source: s.path("pages/" + page), OutDir: s.out}
}

// events are what a build told.
type events struct {
	steps, logs []string
	diagnostics []sdk.Diagnostic
}

func (s *site) build(page string) (sdk.Result, events) {
	s.t.Helper()
	var e events
	r, err := s.g.Build(s.t.Context(), s.job(page), func(v sdk.Event) {
		switch {
		case v.Diagnostic != nil:
			e.diagnostics = append(e.diagnostics, *v.Diagnostic)
		case v.Step != "":
			e.steps = append(e.steps, v.Step)
		default:
			e.logs = append(e.logs, v.Log)
		}
	})
	if err != nil {
		s.t.Fatalf("build %s: %v", page, err)
	}
	return r, e
}

// good builds a page that has no fault, and gives what its binary prints.
func (s *site) good(page string) (sdk.Result, string) {
	s.t.Helper()
	r, e := s.build(page)
	if !r.OK || len(e.diagnostics) > 0 {
		s.t.Fatalf("build %s: ok %v, diagnostics %v, log %q", page, r.OK, e.diagnostics, e.logs)
	}
	if want := filepath.Join(s.out, r.Release, "page"); r.Artifact != want {
		s.t.Fatalf("artifact %s, want %s", r.Artifact, want)
	}
	if sum, _, err := checksum(r.Artifact); err != nil || sum != r.SHA256 {
		s.t.Fatalf("artifact has sum %s, %v; result says %s", sum, err, r.SHA256)
	}
	out, err := exec.CommandContext(s.t.Context(), r.Artifact).CombinedOutput()
	if err != nil {
		s.t.Fatalf("run %s: %v: %s", page, err, out)
	}
	return r, strings.TrimSpace(string(out))
}

// bad builds a page with a fault, and gives the diagnostics.
func (s *site) bad(page string) (sdk.Result, []sdk.Diagnostic) {
	s.t.Helper()
	r, e := s.build(page)
	if r.OK || len(e.diagnostics) == 0 {
		s.t.Fatalf("build %s: ok %v, diagnostics %v; want a failure with diagnostics", page, r.OK, e.diagnostics)
	}
	if left, _ := filepath.Glob(filepath.Join(s.out, ".tmp-*")); len(left) > 0 {
		s.t.Errorf("left behind: %v", left)
	}
	return r, e.diagnostics
}

// checkInputs compares the inputs with files of the site, and their digests with sdk.FileDigest.
func (s *site) checkInputs(r sdk.Result, want ...string) {
	s.t.Helper()
	var got []string
	for _, in := range r.Inputs {
		name, err := filepath.Rel(s.dir, in.Path)
		if err != nil {
			name = in.Path
		}
		got = append(got, filepath.ToSlash(name))
		if digest, err := sdk.FileDigest(in.Path); err != nil || digest != in.Digest {
			s.t.Errorf("input %s has digest %s, want %s, %v", in.Path, in.Digest, digest, err)
		}
	}
	if slices.Sort(want); !slices.Equal(got, want) {
		s.t.Errorf("inputs %q, want %q", got, want)
	}
}

func (s *site) matches(r sdk.Result, name string) bool {
	return slices.ContainsFunc(r.Globs, func(g string) bool { return sdk.Match(g, filepath.ToSlash(s.path(name))) })
}

// program is a page that prints an expression.
func program(expression string, imports ...string) string {
	text := "package main\n"
	for _, i := range imports {
		text += "import " + i + "\n"
	}
	return text + "func main() { println(" + expression + ") }\n"
}

// wrapper makes a go command of a shell script; "$go" is the real one in it, $dir a directory for its files.
func (s *site) wrapper(script string) (dir string) {
	s.t.Helper()
	real, err := exec.LookPath("go")
	if err != nil {
		s.t.Fatal(err)
	}
	dir = s.t.TempDir()
	s.script(filepath.Join(dir, "go"), fmt.Sprintf("go='%s'\ndir='%s'\n%s", real, dir, script))
	s.configure(func(c *GoConfig) { c.Go = filepath.Join(dir, "go") })
	return dir
}

// script writes a program.
func (s *site) script(path, text string) string {
	s.t.Helper()
	write := exec.CommandContext(s.t.Context(), "sh", "-c", `cat >"$1" && chmod +x "$1"`, "sh", path)
	write.Stdin = strings.NewReader("#!/bin/sh\n" + text + "\n") // by a child: a file that we write is "busy" while another test forks
	if out, err := write.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return path
}

func (s *site) ignore(sdk.Event) {}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
	}
}
