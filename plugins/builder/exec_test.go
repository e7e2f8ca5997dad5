package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

// execSite is a site for Exec; its only page is p.
type execSite struct {
	*site
	e  *Exec
	on func(sdk.Event) // sees events first; may be nil
}

func newExecSite(t *testing.T, files ...string) *execSite {
	t.Helper()
	return &execSite{site: newSite(t, files...), e: NewExec()}
}

func (s *execSite) try(ctx context.Context) (r sdk.Result, e events, err error) {
	r, err = s.e.Build(ctx, s.job("p"), func(v sdk.Event) {
		if s.on != nil {
			s.on(v)
		}
		switch {
		case v.Diagnostic != nil:
			e.diagnostics = append(e.diagnostics, *v.Diagnostic)
		case v.Step != "":
			e.steps = append(e.steps, v.Step)
		default:
			e.logs = append(e.logs, v.Log)
		}
	})
	return r, e, err
}

// good builds the page, which has no fault.
func (s *execSite) good() sdk.Result {
	s.t.Helper()
	r, e, err := s.try(s.t.Context())
	if err != nil || !r.OK || len(e.diagnostics) > 0 {
		s.t.Fatalf("build: %v, ok %v, diagnostics %v, log %q", err, r.OK, e.diagnostics, e.logs)
	}
	if sum, _, err := checksum(r.Artifact); err != nil || sum != r.SHA256 || r.Artifact != filepath.Join(s.out, r.Release, "page") {
		s.t.Fatalf("artifact %s has sum %s, %v; result says %s", r.Artifact, sum, err, r.SHA256)
	}
	s.tidy()
	return r
}

// bad builds the page, which has a fault, and gives the diagnostics as lines.
func (s *execSite) bad() (sdk.Result, string) {
	s.t.Helper()
	r, e, err := s.try(s.t.Context())
	if err != nil || r.OK || len(e.diagnostics) == 0 {
		s.t.Fatalf("build: %v, ok %v, diagnostics %v; want a failure with diagnostics", err, r.OK, e.diagnostics)
	}
	var lines []string
	for _, d := range e.diagnostics {
		lines = append(lines, strings.TrimPrefix(d.String(), s.path("pages/p")+"/"))
	}
	s.tidy()
	return r, strings.Join(lines, "\n")
}

// tidy makes sure that nothing but releases is left.
func (s *execSite) tidy() {
	s.t.Helper()
	if left, err := filepath.Glob(filepath.Join(s.out, ".*")); err != nil || len(left) > 0 {
		s.t.Errorf("left behind: %v, %v", left, err)
	}
}

// run starts a release as a worker is started, to its end.
func (s *execSite) run(r sdk.Result) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), r.Argv[0], r.Argv[1:]...)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "TQ_PORT=9123", "TQ_PAGE_DIR="+s.path("pages/p"))
	for name, value := range r.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("run %q: %v: %s", r.Argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestExecRelease(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", `# A page.
build:
  - [sh, -c, "echo building $MODE; cat part/*.txt > all.txt"]
  - [sh, -c, "echo built >> all.txt; pwd >&2"]
run: [sh, serve.sh, "127.0.0.1:$TQ_PORT", it's, '$HOME "x"', 8080]
env: {MODE: fast, LEVEL: 3}
`, "pages/p/serve.sh", `cat all.txt; echo "$0 $*"; pwd; echo $MODE $LEVEL`, "pages/p/part/a.txt", "a\n", "pages/p/part/b.txt", "b\n")
	var logs []string
	s.on = func(e sdk.Event) { logs = append(logs, e.Log) }
	r := s.good()
	dir := filepath.Join(s.out, r.Release, "files")
	if got, want := s.run(r), "a\nb\nbuilt\nserve.sh 127.0.0.1:9123 it's $HOME \"x\" 8080\n"+dir+"\nfast 3"; got != want {
		t.Errorf("it prints\n%s\nwant\n%s", got, want)
	}
	if !slices.Contains(logs, "building fast") || r.Cached || r.Duration <= 0 {
		t.Errorf("log %q, cached %v, duration %v", logs, r.Cached, r.Duration)
	}
	s.checkInputs(r, "pages/p/page.yaml", "pages/p/serve.sh", "pages/p/part/a.txt", "pages/p/part/b.txt")
	if !s.matches(r, "pages/p/part/new/c.txt") || s.matches(r, "pages/q/c.txt") {
		t.Errorf("globs %q", r.Globs)
	}
	var note record
	text, err := os.ReadFile(filepath.Join(s.out, r.Release, recordName))
	if err != nil || json.Unmarshal(text, &note) != nil || note.Page != "p" || note.SHA256 != r.SHA256 || note.Run[0] != "sh" {
		t.Errorf("record %s, %v", text, err)
	}
	for what, e := range map[string]*Exec{"the same builder": s.e, "another one": NewExec()} {
		s.e = e
		if again := s.good(); !again.Cached || again.Release != r.Release || again.SHA256 != r.SHA256 || !slices.Equal(again.Argv, r.Argv) {
			t.Errorf("%s, the same source: %+v, before %+v", what, again, r)
		}
	}
}

// TestExecReleaseIsNamedByItsSource changes one thing after the other.
func TestExecReleaseIsNamedByItsSource(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", "run: [cat, text]", "pages/p/text", "one", "pages/p/more", "")
	seen := map[string]string{s.good().Release: "the first"}
	first := s.good()
	for _, c := range []struct {
		what   string
		other  bool
		change func() error
	}{
		{"a hidden file", false, func() error { s.write("pages/p/.git/x", ""); return nil }},
		{"a module", false, func() error { s.write("pages/p/node_modules/x/index.js", ""); return nil }},
		{"an editor's file", false, func() error { s.write("pages/p/text~", ""); return nil }},
		{"a page in it", false, func() error {
			s.write("pages/p/sub/page.yaml", "run: [true]")
			s.write("pages/p/sub/x", "")
			return nil
		}},
		{"another text", true, func() error { s.write("pages/p/text", "two"); return nil }},
		{"a new file", true, func() error { s.write("pages/p/lib/new", ""); return nil }},
		{"a file less", true, func() error { return os.Remove(s.path("pages/p/more")) }},
		{"another name", true, func() error { return os.Rename(s.path("pages/p/lib/new"), s.path("pages/p/lib/newer")) }},
		{"another mode", true, func() error { return os.Chmod(s.path("pages/p/text"), 0o755) }},
		{"a variable", true, func() error { s.write("pages/p/page.yaml", "run: [cat, text]\nenv: {A: b}"); return nil }},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		r := s.good()
		if before, known := seen[r.Release]; known == c.other || c.other == r.Cached {
			t.Errorf("%s: the release is that of %q, cached %v", c.what, before, r.Cached)
		}
		seen[r.Release] = c.what
	}
	if got := s.run(first); got != "one" {
		t.Errorf("the first release prints %q now", got)
	}
	if got := s.run(s.good()); got != "two" {
		t.Errorf("the last release prints %q", got)
	}
}

func TestExecFiles(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", `{run: [find, ".", -type, f], files: ["*.js", public/**, .npmrc]}`, "pages/p/a.js", "", "pages/p/lib/b.js", "",
		"pages/p/public/x/y.css", "", "pages/p/.npmrc", "", "pages/p/notes.md", "", "pages/p/lib/.c.js", "")
	r := s.good()
	s.checkInputs(r, "pages/p/page.yaml", "pages/p/a.js", "pages/p/lib/b.js", "pages/p/public/x/y.css", "pages/p/.npmrc")
	got := strings.Fields(s.run(r))
	if slices.Sort(got); !slices.Equal(got, []string{"./.npmrc", "./a.js", "./lib/b.js", "./page.yaml", "./public/x/y.css"}) {
		t.Errorf("the release has %q", got)
	}
	for name, want := range map[string]bool{"new.js": true, "deep/er/new.js": true, "public/new": true, "page.yaml": true, "new.md": false} {
		if s.matches(r, "pages/p/"+name) != want {
			t.Errorf("a new %s counts: %v, want %v (globs %q)", name, !want, want, r.Globs)
		}
	}
}

func TestExecLinks(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", "run: [cat, file, dir/x, dir/back]", "shared/x", "x", "shared/y", "y")
	for name, to := range map[string]string{"file": "../../shared/y", "dir": "../../shared", "loop": "..", "self": "self", "nowhere": "gone"} {
		if err := os.Symlink(to, s.path("pages/p/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(".", s.path("shared/loop")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("x", s.path("shared/back")); err != nil {
		t.Fatal(err)
	}
	if _, found := s.bad(); !strings.Contains(found, "self: cannot be read: too many levels") {
		t.Errorf("a link to itself: %s", found)
	}
	if err := os.Remove(s.path("pages/p/self")); err != nil {
		t.Fatal(err)
	}
	r := s.good()
	if got := s.run(r); got != "yxx" {
		t.Errorf("it prints %q", got)
	}
	s.checkInputs(r, "pages/p/page.yaml", "pages/p/file", "shared/x", "shared/y", "shared/back") // where a watcher sees them
	if !s.matches(r, "shared/new") || !s.matches(r, "pages/p/new") || s.matches(r, "other/new") {
		t.Errorf("globs %q", r.Globs)
	}
}

// TestExecSourceThatChanges edits a file between the listing and the copy: what is released is one of the two as a whole.
func TestExecSourceThatChanges(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", "run: [cat, text]", "pages/p/text", "one")
	edits := 0
	s.on = func(e sdk.Event) {
		if e.Step == "copy" && edits == 0 {
			edits++
			s.write("pages/p/text", "two")
		}
	}
	if r := s.good(); edits != 1 || s.run(r) != "two" {
		t.Errorf("after %d edits it prints %q", edits, s.run(r))
	}
	s.write("pages/p/text", "three")
	s.on = func(e sdk.Event) {
		if e.Step == "copy" {
			edits++
			s.write("pages/p/text", fmt.Sprint(edits))
		}
	}
	if _, found := s.bad(); !strings.Contains(found, "changed during 3 builds in a row") {
		t.Errorf("found %s", found)
	}
}

func TestExecBrokenReleaseIsMadeAnew(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", "run: [cat, text]", "pages/p/text", "one")
	r := s.good()
	for _, gone := range []string{"files/text", "files", "page"} {
		if err := os.RemoveAll(filepath.Join(s.out, r.Release, gone)); err != nil {
			t.Fatal(err)
		}
		if again := s.good(); again.Cached || again.Release != r.Release || s.run(again) != "one" {
			t.Errorf("without %s: %+v", gone, again)
		}
	}
}

func TestExecFaults(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", "", "pages/p/tool", "")
	for _, c := range []struct{ recipe, want string }{
		{"build: [sh, -c, \"seq 100; echo the cause >&2; exit 3\"]\nrun: [true]", "page.yaml:1:9: build[0]: `sh -c seq 100; echo the cause >&2; exit 3`: exit status 3\n82\n"},
		{"build: [./nothing]\nrun: [true]", "page.yaml:1:9: build[0]: `./nothing`: no such file or directory"},
		{"build: [./tool]\nrun: [true]", "page.yaml:1:9: build[0]: `./tool`: permission denied"},
		{"run: [./tool]", "page.yaml:1:7: run[0]: ./tool is not executable: run chmod +x on it, then `tqserver reload`, or name the program that runs it first"},
		{"run: [bin/made]", "page.yaml:1:7: run[0]: bin/made is no file of the page, and build does not make it"},
		{"", "page.yaml:1:1: run: is missing"},
	} {
		s.write("pages/p/page.yaml", c.recipe)
		r, found := s.bad()
		if !strings.HasPrefix(found, c.want) {
			t.Errorf("%s\ngives\n%s\nwant\n%s", c.recipe, found, c.want)
		}
		if left, _ := os.ReadDir(s.out); len(left) > 0 {
			t.Errorf("%s: leaves %v", c.recipe, left)
		}
		if !slices.ContainsFunc(r.Inputs, func(i sdk.Input) bool { return i.Path == s.path("pages/p/page.yaml") }) || !s.matches(r, "pages/p/page.yaml") {
			t.Errorf("%s: inputs %v, globs %q", c.recipe, r.Inputs, r.Globs)
		}
	}
	if err := os.Remove(s.path("pages/p/page.yaml")); err != nil {
		t.Fatal(err)
	}
	if r, found := s.bad(); !strings.HasPrefix(found, "page.yaml: read page.yaml: no such file") || !s.matches(r, "pages/p/page.yaml") {
		t.Errorf("without it: %s; globs %q", found, r.Globs)
	}
}

// TestExecMissingProgram is no fault of the page: it is a warning.
func TestExecMissingProgram(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", "requires: [sh, no-such-thing, no-such-thing]\nbuild: [/no/compiler]\nrun: [serve]", "pages/p/serve", "")
	r, e, err := s.try(t.Context())
	if err != nil || r.OK || len(e.diagnostics) != 3 || len(r.Inputs) != 2 {
		t.Fatalf("%v, %+v, %v", err, r, e.diagnostics)
	}
	for i, want := range []string{
		"page.yaml:1:16: requires[1]: no-such-thing is not there (executable file not found in $PATH): install it, then run `tqserver reload`",
		"page.yaml:2:9: build[0]: /no/compiler is not there (no such file or directory): install it",
		"page.yaml:3:7: run[0]: serve is not there (executable file not found in $PATH): install it, or write ./serve if you mean the file of the page",
	} {
		if got := strings.TrimPrefix(e.diagnostics[i].String(), s.path("pages/p")+"/"); !strings.HasPrefix(got, want) || !e.diagnostics[i].Warning {
			t.Errorf("got  %s (warning %v)\nwant %s", got, e.diagnostics[i].Warning, want)
		}
	}
}

// TestExecFilesThatCannotBeSource names what is wrong, and does not wait for a writer of a named pipe.
func TestExecFilesThatCannotBeSource(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", "run: [true]", "pages/p/caf\xe9/x", "")
	if _, found := s.bad(); !strings.Contains(found, `pages/p/caf\xe9/x" is not UTF-8: rename it`) {
		t.Errorf("a name in another encoding: %s", found)
	}
	s.write("pages/p/page.yaml", "{run: [true], files: [x.js]}")
	s.good()
	if err := errors.Join(os.Remove(s.path("pages/p/page.yaml")), syscall.Mkfifo(s.path("pages/p/page.yaml"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, found := s.bad(); !strings.HasPrefix(found, "page.yaml: read page.yaml: it is no regular file") {
		t.Errorf("a named pipe: %s", found)
	}
}

// TestExecCancel ends a build command with all that it started, at once.
func TestExecCancel(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", `{build: [sh, -c, "(trap '' TERM; sleep 1000) & echo $! $$ > $TQ_PAGE_DIR/../pids; echo up; wait"], run: [true]}`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.on = func(e sdk.Event) {
		if e.Log == "up" {
			cancel()
		}
	}
	if r, e, err := s.try(ctx); !errors.Is(err, context.Canceled) || r.OK || len(e.diagnostics) > 0 {
		t.Errorf("%+v, %v, %v", r, e.diagnostics, err)
	}
	s.tidy()
	s.gone("pages/pids")
}

// TestExecBackground leaves nothing behind that a command put into the background, also when it built well.
func TestExecBackground(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", `{build: [sh, -c, "sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > $TQ_PAGE_DIR/../pids"], run: [true]}`)
	s.good()
	s.gone("pages/pids")
}

// TestExecTimeout tells which key to raise, and leaves nothing behind either.
func TestExecTimeout(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", `{build: [sh, -c, "echo $$ > $TQ_PAGE_DIR/../pids; sleep 1000"], run: [true]}`)
	if err := s.e.Configure(t.Context(), ExecConfig{Parallel: 1, TimeoutMS: 1500}); err != nil {
		t.Fatal(err)
	}
	r, found := s.bad()
	if !strings.HasPrefix(found, "config.timeout_ms: the build of page p was ended after 1.5s") || len(r.Inputs) != 1 {
		t.Errorf("found %s, inputs %v", found, r.Inputs)
	}
	s.gone("pages/pids")
}

// gone makes sure that the processes which a file names are.
func (s *execSite) gone(name string) {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil || len(strings.Fields(string(text))) == 0 {
		s.t.Fatalf("the command did not run: %q, %v", text, err)
	}
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			s.t.Fatal(err)
		}
		eventually(s.t, "process "+field+" is gone", func() bool {
			stat, _ := os.ReadFile("/proc/" + field + "/stat")
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || strings.Contains(string(stat), ") Z ")
		})
	}
}

func TestExecDrain(t *testing.T) {
	s := newExecSite(t, "pages/p/page.yaml", "run: [true]")
	s.good()
	if err := s.e.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.try(t.Context()); !errors.Is(err, ErrDraining) {
		t.Errorf("a build after Drain: %v", err)
	}
}

func TestExecWantsAbsolutePaths(t *testing.T) {
	if _, err := NewExec().Build(t.Context(), sdk.Job{Page: "p", Source: "pages/p", OutDir: "/tmp"}, nil); err == nil {
		t.Error("a relative path was taken")
	}
	sdk.Config(NewExec().Configure) // panics at a wrong tag
}
