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

// newLaneSite is a site whose lanes are prepared at once.
func newLaneSite(t *testing.T, files ...string) *site {
	t.Helper()
	s := newSite(t, files...)
	s.g.lanes.background.quiet = time.Millisecond
	return s
}

// settle waits until nothing is done in the background for a page.
func (s *site) settle(page string) {
	s.t.Helper()
	src := s.source(page)
	if src == nil {
		return
	}
	f := &src.fast
	eventually(s.t, "the background work for "+page+" is done", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.pending
	})
}

func (s *site) source(page string) *source {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	return s.g.sources[s.path("pages/"+page)]
}

// lane builds a page without a fault, and tells what it prints and whether it was on the fast lane.
func (s *site) lane(page string) (out string, fast bool) {
	s.t.Helper()
	r, e := s.build(page)
	if !r.OK {
		s.t.Fatalf("build %s: diagnostics %v, log %q", page, e.diagnostics, e.logs)
	}
	text, err := exec.CommandContext(s.t.Context(), r.Artifact).CombinedOutput()
	if err != nil {
		s.t.Fatalf("run %s: %v: %s", page, err, text)
	}
	s.settle(page)
	return strings.TrimSpace(string(text)), e.fast()
}

// fast tells whether a build was made on the lane.
func (e events) fast() bool { return len(e.steps) > 0 && e.steps[len(e.steps)-1] == "link" }

// edit is one edit of a page: file, content, what it prints then, and whether the lane makes it.
type edit struct {
	file, content, prints string
	fast                  bool
}

func (s *site) follow(page string, edits ...edit) {
	s.t.Helper()
	for _, e := range edits {
		if e.content == "" {
			if err := os.Remove(s.path(e.file)); err != nil {
				s.t.Fatal(err)
			}
		} else {
			s.write(e.file, e.content)
		}
		if out, fast := s.lane(page); out != e.prints || fast != e.fast {
			s.t.Errorf("%s with %q: prints %q, want %q; fast %v, want %v", e.file, e.content, out, e.prints, fast, e.fast)
		}
	}
}

func TestEditsThatKeepThePlanAreFast(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"one"`))
	if out, fast := s.lane("a"); out != "one" || fast {
		t.Fatalf("first build: prints %q, fast %v", out, fast)
	}
	s.follow("a",
		edit{"pages/a/main.go", program(`"two"`), "two", true},
		edit{"pages/a/main.go", "// a comment\n" + program(`"three"`), "three", true},
		edit{"pages/a/main.go", program(`len(os.Args)`, `"os"`), "1", false}, // os is not there yet
		edit{"pages/a/main.go", program(`len(os.Args)+1`, `"os"`), "2", true},
		edit{"pages/a/main.go", program(`"four"`), "four", true},                         // without os
		edit{"pages/a/main.go", program(`sync.OnceFunc != nil`, `"sync"`), "true", true}, // which os needs
		edit{"pages/a/other.go", "package main\n\nconst five = 5\n", "true", false},      // a new file
		edit{"pages/a/main.go", program(`five`), "5", true},
		edit{"pages/a/other.go", "//go:build linux\n\npackage main\n\nconst five = 6\n", "6", false},
		edit{"pages/a/main.go", program(`"seven"`), "seven", true},
		edit{"pages/a/other.go", "", "seven", true}, // that plan was there before
	)
}

func TestLaneIsReadyAfterARestart(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"one"`))
	s.lane("a")
	s.drain()
	s.g = NewGo()
	s.g.lanes.background.quiet = time.Millisecond
	s.lane("a")
	s.follow("a", edit{"pages/a/main.go", program(`"two"`), "two", true})
}

func TestSwitchTurnsTheLaneOff(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"one"`))
	s.configure(func(c *GoConfig) { c.Fast = "off" })
	s.follow("a", edit{"pages/a/main.go", program(`"two"`), "two", false}, edit{"pages/a/main.go", program(`"three"`), "three", false})
	if _, err := os.Stat(filepath.Join(s.out, storeName)); !os.IsNotExist(err) {
		t.Errorf("the store is there: %v", err)
	}
}

// TestWhatChangesThePlanIsSeen has edits outside of the page's Go files that make another plan.
func TestWhatChangesThePlanIsSeen(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program("loops()"), "pages/a/loops.go", "package main\n\nfunc loops() (sum int) {\n"+
		"\tvar all []func() int\n\tfor i := 0; i < 3; i++ {\n\t\tall = append(all, func() int { return i })\n\t}\n"+
		"\tfor _, f := range all {\n\t\tsum += f()\n\t}\n\treturn sum\n}\n")
	dir := s.wrapper(`export GOENV="$dir/env" GOFLAGS=; exec "$go" "$@"`)
	setEnv := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "env"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.lane("a")
	s.follow("a",
		edit{"pages/a/main.go", program("loops()+10"), "13", true},
		edit{"go.mod", "module site\n\ngo 1.21\n", "19", false}, // loops have one variable for all rounds
		edit{"pages/a/main.go", program("loops()+20"), "29", true},
		edit{"go.mod", "module site\n\ngo 1.26\n", "23", true}, // by the lane of before
		edit{"pages/a/main.go", program("loops()+30"), "33", true})
	s.write("pages/a/tagged.go", "//go:build x\n\npackage main\n\nfunc init() { print(\"x \") }\n")
	s.lane("a")
	setEnv("GOFLAGS=-tags=x\n")
	s.follow("a", edit{"pages/a/main.go", program("loops()+40"), "x 43", false}, edit{"pages/a/main.go", program("loops()+50"), "x 53", true})
	s.follow("a", edit{"go.work", "go 1.26\n\nuse .\n", "x 53", false})
	s.follow("a", edit{"pages/a/main.go", program("loops()+60"), "x 63", true})
}

func TestEmbeddedContentIsFastAndNewFilesAreNot(t *testing.T) {
	page := "package main\n\n%s\n//go:embed web\nvar fs embed.FS\n\nfunc main() {\n" +
		"\te, _ := fs.ReadDir(\"web\")\n\tb, _ := fs.ReadFile(\"web/x\")\n\tprintln(len(e), string(b))\n}\n"
	s := newLaneSite(t, "pages/a/main.go", fmt.Sprintf(page, "import \"embed\"\n"), "pages/a/web/x", "x1")
	s.lane("a")
	s.follow("a", edit{"pages/a/web/x", "x2", "1 x2", true}, edit{"pages/a/web/y", "y", "2 x2", false}, edit{"pages/a/web/x", "x3", "2 x3", true})
	s.write("pages/a/main.go", fmt.Sprintf(page, "")) // go list sees no embedding any more
	s.bad("a")
	s.write("pages/a/web/x", "x4")
	s.follow("a", edit{"pages/a/main.go", fmt.Sprintf(page, "import \"embed\"\n"), "2 x4", true})
}

func TestFirstEmbedImportIsSeen(t *testing.T) {
	page := "package main\n\n%s\n//go:embed x\nvar x string\n\nfunc main() { println(x) }\n"
	s := newLaneSite(t, "pages/a/main.go", fmt.Sprintf(page, ""), "pages/a/x", "x1")
	s.bad("a")
	s.follow("a", edit{"pages/a/main.go", fmt.Sprintf(page, "import _ \"embed\"\n"), "x1", false}, edit{"pages/a/x", "x2", "x2", true})
}

// tools puts a script in the place of the compiler of all lanes that are there; "$tool" is the real one in it, and
// $dir a directory for its files.
func (s *site) compiler(page, script string) (dir string) {
	s.t.Helper()
	dir = s.t.TempDir()
	f := &s.source(page).fast
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lanes) == 0 {
		s.t.Fatal("there is no lane")
	}
	for i, l := range f.lanes {
		changed := *l
		changed.compiler = s.script(filepath.Join(dir, "compile"), "tool='"+l.compiler+"'\ndir='"+dir+"'\n"+script)
		f.lanes[i] = &changed
	}
	return dir
}

func (s *site) calls(dir string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	if err == nil {
		if err := os.Remove(filepath.Join(dir, "calls")); err != nil {
			s.t.Fatal(err)
		}
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

// logCalls is a script for compiler that notes which packages are compiled.
const logCalls = `for a; do [ "$last" = -p ] && echo "$a" >>"$dir/calls"; last=$a; done
exec "$tool" "$@"`

func TestSharedPackageIsCompiledOnceAndItsImportersOnlyIfTheySeeTheChange(t *testing.T) {
	low := "package low\n\n//go:noinline\nfunc F() int { return %d }\n%s"
	files := []string{"low/low.go", fmt.Sprintf(low, 1, ""), "high/high.go", "package high\n\nimport \"site/low\"\n\nfunc G() int { return low.F() }\n"}
	pages := []string{"a", "b", "c"}
	for _, p := range pages {
		files = append(files, "pages/"+p+"/main.go", program("high.G()", `"site/high"`))
	}
	s := newLaneSite(t, files...)
	dirs := map[string]string{}
	for _, p := range pages {
		s.lane(p)
		dirs[p] = s.compiler(p, logCalls)
	}
	for _, step := range []struct {
		what, content, prints string
		first, others         string
	}{
		{"body", fmt.Sprintf(low, 2, ""), "2", "site/low", ""},
		{"what importers see", fmt.Sprintf(low, 2, "\nconst New = 1\n"), "2", "site/low site/high", ""},
		{"what is inlined everywhere", strings.Replace(fmt.Sprintf(low, 3, ""), "//go:noinline\n", "", 1), "3", "site/low site/high main", "main"},
		{"taken back to the beginning", fmt.Sprintf(low, 1, ""), "1", "", ""},
	} {
		s.write("low/low.go", step.content)
		for i, p := range pages {
			want := step.others
			if i == 0 {
				want = step.first
			}
			out, _ := s.lane(p)
			if got := s.calls(dirs[p]); out != step.prints || got != want {
				t.Errorf("%s: page %s prints %q and compiles %q, want %q and %q", step.what, p, out, got, step.prints, want)
			}
		}
	}
}

func TestWhatKeepsAPageOffTheLane(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		plan plan
		fits bool
	}{
		"nothing":       {plan{}, true},
		"cgo":           {plan{cgo: true}, false},
		"known flags":   {plan{env: map[string]string{"GOFLAGS": "-mod=mod -trimpath -tags=x"}}, true},
		"unknown flags": {plan{env: map[string]string{"GOFLAGS": "-mod=mod -toolexec=env"}}, false},
		"profile":       {plan{source: dir}, false},
	} {
		if err := os.WriteFile(filepath.Join(dir, "default.pgo"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		b := &build{}
		if err := b.laneFits(&c.plan); (err == nil) != c.fits {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, flag := range []string{"-gcflags=-l", "-race", "-cover", "-overlay=x", "-buildmode=pie", "-compiler=gccgo", "-pgo=x", "-asmflags=-x", "-unheard-of"} {
		b := &build{task: task[GoConfig]{config: GoConfig{Flags: []string{flag}}}}
		if err := b.laneFits(&plan{}); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestRefusedLaneIsNotPreparedAgain(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"one"`))
	dir := s.wrapper(`echo "$1" >>"$dir/calls"; exec "$go" "$@"`)
	s.configure(func(c *GoConfig) { c.Go, c.Flags = filepath.Join(dir, "go"), []string{"-gcflags=-l"} })
	s.follow("a", edit{"pages/a/main.go", program(`"two"`), "two", false}, edit{"pages/a/main.go", program(`"three"`), "three", false})
	if got := s.calls(dir); !strings.HasSuffix(got, "list build build") { // no list after a build
		t.Errorf("ran go %q", got)
	}
}

func TestFlagsThatTheLaneFollows(t *testing.T) {
	for name, change := range map[string]func(*GoConfig){
		"dwarf": func(c *GoConfig) { c.Dwarf = true },
		"others": func(c *GoConfig) {
			c.Ldflags, c.Flags, c.Tags = `-X "main.v=a b"`, []string{"-trimpath"}, []string{"x", "y"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newLaneSite(t, "pages/a/main.go", program("v, n, file()"), "pages/a/file.go",
				"package main\n\nimport \"runtime\"\n\nvar v string\n\nfunc file() string {\n\t_, f, _, _ := runtime.Caller(0)\n\treturn f\n}\n",
				"pages/a/x.go", "//go:build x && y\n\npackage main\n\nconst n = 1\n", "pages/a/y.go", "//go:build !x || !y\n\npackage main\n\nconst n = 2\n")
			s.configure(change)
			s.lane("a")
			e := &editor{site: s, bin: filepath.Join(t.TempDir(), "page")}
			s.write("pages/a/main.go", program("v, n, file(), 1"))
			r, ev := s.build("a")
			if !r.OK || !ev.fast() {
				t.Fatalf("ok %v, steps %q, log %q", r.OK, ev.steps, ev.logs)
			}
			if out, err := e.goBuild("a"); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			e.sameBinaries(name, r.Artifact)
		})
	}
}

func TestPackageWithAssembly(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program("asm.F() + asm.N", `"site/asm"`),
		"asm/f.go", "package asm\n\nconst N = 1\n\nfunc F() int\n", "asm/f_amd64.s", "#include \"textflag.h\"\n\nTEXT ·F(SB), NOSPLIT, $0-8\n\tMOVQ $40, ret+0(FP)\n\tRET\n",
		"asm/f_arm64.s", "#include \"textflag.h\"\n\nTEXT ·F(SB), NOSPLIT, $0-8\n\tMOVD $40, R0\n\tMOVD R0, ret+0(FP)\n\tRET\n")
	s.lane("a")
	s.follow("a",
		edit{"pages/a/main.go", program("asm.F() + asm.N + 100", `"site/asm"`), "141", true},
		edit{"asm/f.go", "package asm\n\nconst N = 2\n\nfunc F() int\n", "142", false},
		edit{"pages/a/main.go", program("asm.F() + asm.N + 200", `"site/asm"`), "242", true})
}

func TestLaneMendsItself(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"0"`))
	s.lane("a")
	store := filepath.Join(s.out, storeName)
	truncate := func() error {
		all, err := filepath.Glob(filepath.Join(store, "[0-9a-f]*"))
		for _, path := range all {
			if strings.HasSuffix(path, ".cfg") {
				continue
			}
			// the file is one with that of the go command's cache, so not cut off but replaced
			if err := os.Remove(path); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte("!<arch>\n"), 0o600); err != nil {
				return err
			}
		}
		return err
	}
	for i, damage := range []func() error{func() error { return os.RemoveAll(store) }, truncate} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		s.follow("a",
			edit{"pages/a/main.go", program(fmt.Sprint(100 + i)), fmt.Sprint(100 + i), false},
			edit{"pages/a/main.go", program(fmt.Sprint(200 + i)), fmt.Sprint(200 + i), true})
	}
}

func TestToolThatDiesIsNoFaultOfTheSource(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"0"`))
	for i, script := range []string{"kill -9 $$", "echo 'panic: internal compiler error'; exit 2", "exit 1", "echo 'main.go:1:1: could not import x'; exit 2"} {
		s.lane("a")
		s.compiler("a", script)
		s.follow("a", edit{"pages/a/main.go", program(fmt.Sprint(10 + i)), fmt.Sprint(10 + i), false})
	}
}

func TestDiagnosticsOfTheLane(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"0"`))
	s.lane("a")
	for i, name := range []string{"types", "syntax", "no function main"} {
		c := diagnosticCases[name]
		s.write("pages/a/main.go", c.files[1])
		s.checkDiagnostics(c.want)
		s.follow("a", edit{"pages/a/main.go", program(fmt.Sprint(i + 1)), fmt.Sprint(i + 1), true})
	}
}

func TestCompileErrorsOfTwoPackages(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program("x.X + y.Y + z.Z", `"site/x"`, `"site/y"`, `"site/z"`),
		"x/x.go", "package x\n\nconst X = 1\n", "y/y.go", "package y\n\nconst Y = 1\n", "z/z.go", "package z\n\nimport \"site/y\"\n\nconst Z = y.Y\n")
	s.lane("a")
	s.write("x/x.go", "package x\n\nconst X = nothing\n")
	s.write("y/y.go", "package y\n\nconst Y = nothing\n\nfunc f() {}\nfunc f() {}\n")
	r, ev := s.build("a")
	e := &editor{site: s, bin: filepath.Join(t.TempDir(), "page")}
	out, err := e.goBuild("a")
	if err == nil || r.OK || ev.fast() || !s.hasLane("a") {
		t.Fatalf("ok %v, steps %q; go build: %v", r.OK, ev.steps, err)
	}
	got, want := ev.diagnostics, parse(out, s.path("pages/a"))
	for _, list := range [][]sdk.Diagnostic{got, want} { // go build tells in any order
		slices.SortStableFunc(list, func(x, y sdk.Diagnostic) int { return strings.Compare(x.File, y.File) })
	}
	if len(got) != 3 || !slices.Equal(got, want) {
		t.Errorf("diagnostics %v, want %v", got, want)
	}
	s.write("x/x.go", "package x\n\nconst X = 2\n")
	s.follow("a", edit{"y/y.go", "package y\n\nconst Y = 2\n", "6", true})
}

func (s *site) hasLane(page string) bool { return (&editor{site: s}).laned(page) }

func TestEditDuringTheCompilation(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"0"`))
	s.lane("a")
	s.compiler("a", `[ -e "$dir/once" ] || { : >"$dir/once"; sed -i s/old/new/ main.go; }
exec "$tool" "$@"`)
	s.follow("a", edit{"pages/a/main.go", program(`"old"`), "new", true})
	if err := os.RemoveAll(s.out); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.out, 0o700); err != nil {
		t.Fatal(err)
	}
	s.follow("a", edit{"pages/a/main.go", program(`"old"`), "old", false})
}

func TestEndOfContextEndsTheLanesTools(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program("1"))
	s.lane("a")
	dir := s.compiler("a", `sleep 1000 & echo $! >"$dir/part" && mv "$dir/part" "$dir/pid"; wait`)
	s.write("pages/a/main.go", program("2"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.g.Build(ctx, s.job("a"), s.ignore)
		done <- err
	}()
	eventually(t, "the compiler's child runs", func() bool { return isFile(filepath.Join(dir, "pid")) })
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("error %v", err)
	}
	s.checkEnded(filepath.Join(dir, "pid"))
	if left, _ := filepath.Glob(filepath.Join(s.out, ".tmp-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSwitchOfTheToolchainIsSeen(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"0"`))
	dir := s.wrapper(`echo "$1" >>"$dir/calls"
if [ "$1" = env ] && [ -e "$dir/other" ]; then rm "$dir/other"; "$go" "$@" | sed 's/"GOVERSION": .*/"GOVERSION": "go1.20.1",/'; exit; fi
exec "$go" "$@"`)
	s.lane("a")
	s.follow("a", edit{"pages/a/main.go", program(`"1"`), "1", true})
	if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.calls(dir)
	s.write("pages/a/main.go", program(`"2"`))
	r, _ := s.build("a")
	if got := s.calls(dir); !r.OK || !strings.HasPrefix(got, "env env list") {
		t.Errorf("ok %v, ran go %q, want the plan made anew", r.OK, got)
	}
}

func TestPathsWithSpaces(t *testing.T) {
	s := newLaneSite(t)
	s.dir, s.out = filepath.Join(t.TempDir(), "my 'site"), filepath.Join(t.TempDir(), `my "out`)
	if err := os.Mkdir(s.out, 0o700); err != nil {
		t.Fatal(err)
	}
	s.write("go.mod", "module site\n\ngo 1.26\n")
	s.write("shared/x.go", "package shared\n\nconst X = 1\n")
	s.write("pages/a/main.go", program("shared.X", `"site/shared"`))
	s.lane("a")
	s.follow("a", edit{"shared/x.go", "package shared\n\nconst X = 2\n", "2", true})
}
