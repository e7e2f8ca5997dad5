package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

// diagnosticCases are pages with a fault. SITE and GOROOT stand for the directories.
var diagnosticCases = map[string]struct {
	files []string
	want  []sdk.Diagnostic // File relative to the site
}{
	"types": {
		[]string{"pages/a/main.go", "package main\n\ntype I interface{ M() }\ntype T struct{}\n\nfunc (T) M(int) {}\n\nvar _ I = T{}\n\nfunc main() { undefined() }\n"},
		[]sdk.Diagnostic{
			{File: "pages/a/main.go", Line: 8, Column: 11, Message: "cannot use T{} (value of struct type T) as I value in variable declaration: T does not implement I (wrong type for method M)\n\t\thave M(int)\n\t\twant M()"},
			{File: "pages/a/main.go", Line: 10, Column: 15, Message: "undefined: undefined"}},
	},
	"syntax": {
		[]string{"pages/a/main.go", "package main\n\nfunc main() {\n\tx :=\n}\n"},
		[]sdk.Diagnostic{{File: "pages/a/main.go", Line: 5, Column: 1, Message: "syntax error: unexpected }, expected expression"}},
	},
	"syntax of the imports": {
		[]string{"pages/a/main.go", "package main\n\nimport \"fmt\n\nfunc main() {}\n"},
		[]sdk.Diagnostic{{File: "pages/a/main.go", Line: 3, Column: 8, Message: "string literal not terminated"}},
	},
	"shared package": {
		[]string{"pages/a/main.go", program("shared.X", `"site/shared"`), "shared/x.go", "package shared\n\nconst X int = \"s\"\n"},
		[]sdk.Diagnostic{{File: "shared/x.go", Line: 3, Column: 15, Message: "cannot use \"s\" (untyped string constant) as int value in constant declaration"}},
	},
	"missing imports": {
		[]string{"pages/a/main.go", program("nope.X", `"site/nope"`, `_ "nostd"`)},
		[]sdk.Diagnostic{
			{File: "pages/a/main.go", Line: 3, Column: 8, Message: "package nostd is not in std (GOROOT/src/nostd)"},
			{File: "pages/a/main.go", Line: 2, Column: 8, Message: "no package site/nope: there are no Go files in SITE/nope"}},
	},
	"missing package of a module with a dot": {
		[]string{"pages/a/main.go", program("nope.X", `"example.com/site/nope"`), "go.mod", "module example.com/site\n\ngo 1.26\n"},
		[]sdk.Diagnostic{{File: "pages/a/main.go", Line: 2, Column: 8, Message: "no package example.com/site/nope: there are no Go files in SITE/nope"}},
	},
	"import cycle": {
		[]string{"pages/a/main.go", program("x.X", `"site/x"`), "x/x.go", "package x\n\nimport \"site/y\"\n\nconst X = y.Y\n", "y/y.go", "package y\n\nimport (\n\t\"site/x\"\n)\n\nconst Y = x.X\n"},
		[]sdk.Diagnostic{{File: "y/y.go", Line: 4, Column: 2, Message: "import cycle not allowed: site/pages/a imports site/x imports site/y imports site/x"}},
	},
	"no function main": {
		[]string{"pages/a/main.go", "package main\n\nfunc mian() {}\n"},
		[]sdk.Diagnostic{{Message: "runtime.main_main·f: function main is undeclared in the main package"}},
	},
	"no program": {
		[]string{"pages/a/main.go", "// Package a is none.\npackage a\n"},
		[]sdk.Diagnostic{{File: "pages/a/main.go", Line: 2, Column: 9, Message: "a page is a program: want package main, got package a"}},
	},
	"two packages": {
		[]string{"pages/a/main.go", program("1"), "pages/a/other.go", "package other\n"},
		[]sdk.Diagnostic{{File: "pages/a/other.go", Message: "found packages main (main.go) and other (other.go) in SITE/pages/a"}},
	},
	"no files": {
		[]string{"pages/a/README", ""},
		[]sdk.Diagnostic{{Message: "no Go files in SITE/pages/a"}},
	},
	"broken go.mod": {
		[]string{"pages/a/main.go", program("1"), "go.mod", "module site\n\nfoo bar\n"},
		[]sdk.Diagnostic{{File: "go.mod", Line: 3, Message: "unknown directive: foo"}},
	},
}

func TestDiagnostics(t *testing.T) {
	for name, c := range diagnosticCases {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, c.files...)
			r := s.checkDiagnostics(c.want)
			for _, in := range []string{"go.mod", "pages/a/main.go"} {
				if isFile(s.path(in)) && !slices.ContainsFunc(r.Inputs, func(i sdk.Input) bool { return i.Path == s.path(in) }) {
					t.Errorf("%s is not among the inputs %v", in, r.Inputs)
				}
			}
		})
	}
}

// checkDiagnostics builds page a, which has a fault.
func (s *site) checkDiagnostics(want []sdk.Diagnostic) sdk.Result {
	s.t.Helper()
	r, found := s.bad("a")
	want = slices.Clone(want)
	for i := range want {
		want[i].Message = strings.NewReplacer("SITE", s.dir, "GOROOT", goroot(s.t)).Replace(want[i].Message)
		if want[i].File != "" {
			want[i].File = s.path(want[i].File)
		}
	}
	if !slices.Equal(found, want) {
		s.t.Errorf("diagnostics\n%v\nwant\n%v", found, want)
	}
	return r
}

func goroot(t *testing.T) string {
	t.Helper()
	b := &build{Go: NewGo(), task: task[GoConfig]{config: GoConfig{Go: "go"}, job: sdk.Job{Source: t.TempDir()}, event: func(sdk.Event) {}}}
	env, err := b.goEnv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return env["GOROOT"]
}

func TestMissingSumNamesTheDirectoryToTidy(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("1", `_ "rsc.io/quote"`), "go.mod", "module site\n\ngo 1.26\n\nrequire rsc.io/quote v1.5.2\n")
	s.plainFlags()
	_, found := s.bad("a")
	d := found[0]
	if d.File != s.path("pages/a/main.go") || d.Line != 2 || !strings.HasPrefix(d.Message, "missing go.sum entry") || !strings.HasSuffix(d.Message, "run `go mod tidy` in "+s.dir) {
		t.Errorf("diagnostics %v", found)
	}
}

func TestFaultIsMended(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("shared.X", `"site/shared"`))
	r, _ := s.bad("a")
	if !s.matches(r, "shared/x.go") {
		t.Errorf("globs %q do not match the missing package", r.Globs)
	}
	s.write("shared/x.go", "package shared\n\nconst X = nothing\n")
	r, _ = s.bad("a")
	s.checkInputs(r, "go.mod", "pages/a/main.go", "shared/x.go")
	s.write("shared/x.go", "package shared\n\nconst X = \"here\"\n")
	if _, out := s.good("a"); out != "here" {
		t.Errorf("prints %q", out)
	}
}

func TestNoModule(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("1"))
	if err := os.Remove(s.path("go.mod")); err != nil {
		t.Fatal(err)
	}
	r, found := s.bad("a")
	if want := "no Go module for " + s.path("pages/a") + ": run `go mod init NAME` in " + s.dir; found[0].Message != want {
		t.Errorf("diagnostic %q, want %q", found[0].Message, want)
	}
	s.checkInputs(r, "pages/a/main.go")
	if !s.matches(r, "go.mod") {
		t.Errorf("globs %q do not match a new go.mod", r.Globs)
	}
	s.write("go.mod", "module site\n")
	s.good("a")
}

func TestSourceThatIsGone(t *testing.T) {
	s := newSite(t)
	if _, found := s.bad("a"); !strings.Contains(found[0].String(), s.path("pages/a")) {
		t.Errorf("diagnostics %v", found)
	}
}

func TestNoGoCommand(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("1"))
	s.configure(func(c *GoConfig) { c.Go = "no-such-go" })
	_, err := s.g.Build(t.Context(), s.job("a"), func(sdk.Event) {})
	if err == nil || !strings.Contains(err.Error(), "install Go "+minGo+" or newer, or set PATH or the key `go`") {
		t.Errorf("error %v", err)
	}
}

func TestBodyEditRunsNoGoList(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	dir := s.wrapper(`echo "$1" >>"$dir/calls"; exec "$go" "$@"`)
	s.configure(func(c *GoConfig) { c.Go, c.Fast = filepath.Join(dir, "go"), "off" })
	calls := func() string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, "calls"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, "calls"), 0); err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(text)), " ")
	}
	s.good("a")
	calls()
	for _, step := range []struct{ what, source, want string }{
		{"body", program(`"two"`), "build"},
		{"import of the standard library", program("len(os.Args)", `"os"`), "build"},
		{"nothing", program("len(os.Args)", `"os"`), ""},
		{"comment", "// Command a.\n" + program(`"two"`), "build"},
	} {
		s.write("pages/a/main.go", step.source)
		s.good("a")
		if got := calls(); got != step.want {
			t.Errorf("%s: ran go %q, want %q", step.what, got, step.want)
		}
	}
	s.write("pages/a/b.go", "package main\n")
	s.good("a")
	if got := calls(); !strings.Contains(got, "list") {
		t.Errorf("new file: ran go %q, want a list", got)
	}
}

func TestFileThatChangesDuringTheBuild(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"old"`))
	dir := s.wrapper(`[ "$1" = build ] && ! [ -e "$dir/once" ] && : >"$dir/once" && sed -i s/old/new/ main.go
exec "$go" "$@"`)
	first, out := s.good("a")
	if out != "new" || first.Cached {
		t.Errorf("prints %q, %+v", out, first)
	}
	if again, _ := s.good("a"); !again.Cached || again.Release != first.Release {
		t.Errorf("release %s of the changed file, want %s", again.Release, first.Release)
	}
	s.write("pages/a/main.go", program(`"old"`))
	if err := os.Remove(filepath.Join(dir, "go")); err != nil {
		t.Fatal(err)
	}
	s.wrapper(`[ "$1" = build ] && echo "// again" >>main.go
exec "$go" "$@"`)
	_, found := s.bad("a")
	if !strings.Contains(found[0].Message, "changed during 3 builds") {
		t.Errorf("diagnostics %v", found)
	}
}

func TestGoCommandThatBecomesAnother(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("1"))
	dir := s.wrapper(`echo "$1" >>"$dir/calls"
[ "$1" = build ] && : >"$dir/built"
if [ "$1" = env ] && ! [ -e "$dir/built" ]; then
	"$go" "$@" | sed 's/"GOVERSION": .*/"GOVERSION": "go1.20.1",/'
	exit
fi
exec "$go" "$@"`)
	s.good("a")
	text, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || !strings.HasSuffix(strings.Join(strings.Fields(string(text)), " "), "env list build env list build") {
		t.Errorf("calls %q, %v", text, err)
	}
}

func TestEndOfContextKillsTheWholeTree(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("1"))
	dir := s.wrapper(`[ "$1" = build ] && { sleep 1000 & echo $! >"$dir/part" && mv "$dir/part" "$dir/pid"; wait; }
exec "$go" "$@"`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.g.Build(ctx, s.job("a"), func(sdk.Event) {})
		done <- err
	}()
	eventually(t, "the grandchild runs", func() bool { return isFile(filepath.Join(dir, "pid")) })
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("error %v", err)
	}
	s.checkGone(dir)
}

// checkGone fails if the process whose id is in dir/pid still runs, or if anything is left in the out directory.
func (s *site) checkGone(dir string) {
	s.t.Helper()
	s.checkEnded(filepath.Join(dir, "pid"))
	if left, _ := os.ReadDir(s.out); len(left) > 0 {
		s.t.Errorf("left behind: %v", left)
	}
}

// checkEnded fails if the process whose id is in a file still runs; a zombie does not.
func (s *site) checkEnded(file string) {
	s.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH && !strings.Contains(string(stat), ") Z ") {
		s.t.Errorf("grandchild %d runs: %v, %s", pid, err, stat)
	}
}

func TestTimeout(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("1"))
	dir := s.wrapper(`sleep 1000 & echo $! >"$dir/pid"; wait`)
	s.configure(func(c *GoConfig) { c.Go, c.TimeoutMS = filepath.Join(dir, "go"), 1500 })
	r, found := s.bad("a")
	if found[0].Path != "config.timeout_ms" || !strings.Contains(found[0].Message, "1.5s") {
		t.Errorf("diagnostics %v", found)
	}
	s.checkInputs(r, "go.mod", "pages/a/main.go")
	s.checkGone(dir)
}

func TestGrandchildThatHoldsThePipes(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	dir := s.wrapper(`[ "$1" = build ] && { sleep 1000 & echo $! >"$dir/pid"; }
exec "$go" "$@"`)
	s.good("a")
	s.checkEnded(filepath.Join(dir, "pid"))
}

func TestParseOfOtherOutput(t *testing.T) {
	found := parse("# site/a\nmain.go: In function 'f':\n./main.go:4:5: warning: unused [-Wunused]\n    4 | int x;\n      | ^\n"+
		"$WORK/b001/x.go:1:2: odd\n/usr/bin/ld: cannot find -lnothing\n", "/s/a")
	want := []sdk.Diagnostic{
		{Warning: true, File: "/s/a/main.go", Line: 4, Column: 5, Message: "unused [-Wunused]\n    4 | int x;\n      | ^"},
		{Message: "main.go: In function 'f':\n$WORK/b001/x.go:1:2: odd\n/usr/bin/ld: cannot find -lnothing"}}
	if !slices.Equal(found, want) {
		t.Errorf("got %v, want %v", found, want)
	}
	long := parse(strings.Repeat("line\n", 100), "/s")
	if n := strings.Count(long[0].Message, "\n"); len(long) != 1 || n != maxLoose || !strings.HasSuffix(long[0].Message, "and 70 more lines") {
		t.Errorf("%d diagnostics, the first with %d line ends: %q", len(long), n, long[0].Message)
	}
}
