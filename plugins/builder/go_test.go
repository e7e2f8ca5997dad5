package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tqserver/tqserver/sdk"
)

func TestMain(m *testing.M) {
	for key, value := range map[string]string{"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOWORK": "", "GOTOOLCHAIN": "local"} {
		os.Setenv(key, value)
	}
	goleak.VerifyTestMain(m)
}

func TestSameSourceIsBuiltOnceAndAnEditMakesAnotherRelease(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	first, out := s.good("a")
	if out != "one" || first.Cached || first.Duration <= 0 || len(first.Release) != releaseLen {
		t.Fatalf("first build: %+v, prints %q", first, out)
	}
	s.checkInputs(first, "go.mod", "pages/a/main.go")
	if again, _ := s.good("a"); !again.Cached || again.Release != first.Release || again.SHA256 != first.SHA256 {
		t.Errorf("second build: %+v, want the first one's release from the cache", again)
	}
	s.write("pages/a/main.go", program(`"two"`))
	second, out := s.good("a")
	if out != "two" || second.Cached || second.Release == first.Release {
		t.Errorf("after an edit: %+v, prints %q", second, out)
	}
	s.write("pages/a/main.go", "// a comment\n"+program(`"two"`))
	if third, _ := s.good("a"); third.Release == second.Release {
		t.Error("a comment moves the lines of panics: want another release")
	}
	s.write("pages/a/main.go", program(`"one"`))
	s.drain()
	s.g = NewGo() // which knows nothing
	if back, out := s.good("a"); !back.Cached || back.Release != first.Release || out != "one" {
		t.Errorf("edit taken back: %+v, prints %q; want the first release", back, out)
	}
}

func TestBrokenReleaseIsBuiltAgain(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	first, _ := s.good("a")
	record := filepath.Join(s.out, first.Release, recordName)
	for name, damage := range map[string]func() error{
		"binary cut off": func() error { return os.Truncate(first.Artifact, 100) },
		"no record":      func() error { return os.Remove(record) },
		"broken record":  func() error { return os.WriteFile(record, []byte("{"), 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if r, out := s.good("a"); r.Cached || r.Release != first.Release || out != "one" {
			t.Errorf("%s: %+v, prints %q", name, r, out)
		}
	}
}

func TestLeftoversOfAKilledProcessAreRemoved(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	s.configure(func(c *GoConfig) { c.TimeoutMS = 60_000 })
	old, recent := filepath.Join(s.out, ".tmp-old"), filepath.Join(s.out, ".tmp-recent")
	for dir, age := range map[string]time.Duration{old: 3 * time.Minute, recent: time.Second} {
		if err := os.MkdirAll(filepath.Join(dir, "work"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, time.Now(), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	s.good("a")
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("old leftover: %v", err)
	}
	if _, err := os.Stat(recent); err != nil {
		t.Errorf("directory of what may be a build of another process: %v", err)
	}
}

func TestSharedPackageRebuildsExactlyThePagesThatImportIt(t *testing.T) {
	s := newSite(t, "shared/x.go", "package shared\n\nconst X = \"x1\"\n", "shared/x_test.go", "package shared\n",
		"pages/a/main.go", program("shared.X", `"site/shared"`), "pages/b/main.go", program(`"b"`))
	a, _ := s.good("a")
	b, _ := s.good("b")
	s.checkInputs(a, "go.mod", "pages/a/main.go", "shared/x.go")
	s.checkInputs(b, "go.mod", "pages/b/main.go")
	s.write("shared/x.go", "package shared\n\nconst X = \"x2\"\n")
	if a2, out := s.good("a"); a2.Release == a.Release || out != "x2" {
		t.Errorf("importing page: release %s, prints %q", a2.Release, out)
	}
	if b2, _ := s.good("b"); b2.Release != b.Release || !b2.Cached {
		t.Errorf("other page: %+v, want %s from the cache", b2, b.Release)
	}
	s.write("pages/a/main.go", program(`"alone"`))
	alone, _ := s.good("a")
	s.checkInputs(alone, "go.mod", "pages/a/main.go")
}

func TestEmbeddedFiles(t *testing.T) {
	page := "package main\n\nimport \"embed\"\n\n//go:embed web note.txt\nvar fs embed.FS\n\nfunc main() {\n" +
		"\te, _ := fs.ReadDir(\"web\")\n\tb, _ := fs.ReadFile(\"note.txt\")\n\tprintln(len(e), string(b))\n}\n"
	s := newSite(t, "pages/a/main.go", page, "pages/a/note.txt", "n1", "pages/a/web/index.html", "<p>", "pages/a/web/.hidden", "")
	first, out := s.good("a")
	if out != "1 n1" {
		t.Errorf("prints %q", out)
	}
	s.checkInputs(first, "go.mod", "pages/a/main.go", "pages/a/note.txt", "pages/a/web/index.html")
	s.write("pages/a/note.txt", "n2")
	second, out := s.good("a")
	if second.Release == first.Release || out != "1 n2" {
		t.Errorf("embedded file edited: release %s, prints %q", second.Release, out)
	}
	if !s.matches(first, "pages/a/web/sub/new.css") {
		t.Errorf("globs %q match no new file in the embedded directory", first.Globs)
	}
	s.write("pages/a/web/new.css", "p{}")
	if third, out := s.good("a"); third.Release == second.Release || out != "2 n2" {
		t.Errorf("file added to the embedded directory: release %s, prints %q", third.Release, out)
	}
	if err := os.Remove(s.path("pages/a/note.txt")); err != nil {
		t.Fatal(err)
	}
	r, found := s.bad("a")
	want := sdk.Diagnostic{File: s.path("pages/a/main.go"), Line: 5, Column: 16, Message: "pattern note.txt: no matching files found"}
	if found[0] != want || !s.matches(r, "pages/a/note.txt") {
		t.Errorf("diagnostics %v, want %v; globs %q", found, want, r.Globs)
	}
}

func TestFilesOfAPackageComeAndGo(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	first, _ := s.good("a")
	for _, name := range []string{"pages/a/other.go", "pages/a/x.s", "go.sum", "go.work", "pages/a/go.mod", "pages/a/default.pgo"} {
		if !s.matches(first, name) {
			t.Errorf("globs %q do not match a new %s", first.Globs, name)
		}
	}
	if s.matches(first, "pages/b/main.go") || s.matches(first, "pages/a/data.db") {
		t.Errorf("globs %q match what does not matter", first.Globs)
	}
	s.write("pages/a/other.go", "package main\n\nfunc init() { println(\"init\") }\n")
	added, out := s.good("a")
	if added.Release == first.Release || out != "init\none" {
		t.Errorf("file added: release %s, prints %q", added.Release, out)
	}
	s.checkInputs(added, "go.mod", "pages/a/main.go", "pages/a/other.go")
	s.write("pages/a/other.go", "//go:build never\n\npackage main\n\nfunc init() { println(\"init\") }\n")
	constrained, out := s.good("a")
	if out != "one" {
		t.Errorf("file excluded by its constraint: prints %q", out)
	}
	s.checkInputs(constrained, "go.mod", "pages/a/main.go", "pages/a/other.go")
	s.configure(func(c *GoConfig) { c.Tags = []string{"never"} })
	if tagged, out := s.good("a"); out != "init\none" || tagged.Release == constrained.Release {
		t.Errorf("with the tag: release %s, prints %q", tagged.Release, out)
	}
	s.configure(func(*GoConfig) {})
	if err := os.Remove(s.path("pages/a/other.go")); err != nil {
		t.Fatal(err)
	}
	if removed, _ := s.good("a"); !removed.Cached || removed.Release != first.Release {
		t.Errorf("file removed: %+v, want the first release", removed)
	}
}

func TestModuleFilesAndFlagsCount(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	seen := map[string]string{}
	check := func(what string) {
		t.Helper()
		r, _ := s.good("a")
		if before, ok := seen[r.Release]; ok {
			t.Errorf("%s: the release is that of %s", what, before)
		}
		seen[r.Release] = what
	}
	check("the beginning")
	s.write("go.mod", "module site\n\ngo 1.25\n")
	check("an edit of go.mod")
	s.configure(func(c *GoConfig) { c.Dwarf = true })
	check("dwarf")
	s.configure(func(c *GoConfig) { c.Ldflags = "-X main.v=1" })
	check("ldflags")
	s.configure(func(c *GoConfig) { c.Flags = []string{"-gcflags=-l"} })
	check("flags")
}

func TestReplacedModule(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("lib.X", `"example.com/lib"`), "../lib/go.mod", "module example.com/lib\n\ngo 1.26\n",
		"../lib/lib.go", "package lib\n\nconst X = \"l1\"\n",
		"go.mod", "module site\n\ngo 1.26\n\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => ../lib\n")
	first, out := s.good("a")
	if out != "l1" {
		t.Errorf("prints %q", out)
	}
	s.checkInputs(first, "../lib/go.mod", "../lib/lib.go", "go.mod", "pages/a/main.go")
	s.write("../lib/lib.go", "package lib\n\nconst X = \"l2\"\n")
	if second, out := s.good("a"); out != "l2" || second.Release == first.Release {
		t.Errorf("after an edit of the replaced module: %s, prints %q", second.Release, out)
	}
}

func TestWorkspace(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("lib.X", `"example.com/lib"`), "lib/go.mod", "module example.com/lib\n\ngo 1.26\n",
		"lib/lib.go", "package lib\n\nconst X = \"l1\"\n", "other/go.mod", "module example.com/other\n\ngo 1.26\n",
		"go.work", "go 1.26\n\nuse (\n\t. // the site\n\t./lib\n)\nuse ./other\n")
	s.plainFlags()
	first, out := s.good("a")
	if out != "l1" {
		t.Errorf("prints %q", out)
	}
	s.checkInputs(first, "go.mod", "go.work", "lib/go.mod", "lib/lib.go", "other/go.mod", "pages/a/main.go")
	s.write("lib/lib.go", "package lib\n\nconst X = \"l2\"\n")
	if second, out := s.good("a"); out != "l2" || second.Release == first.Release {
		t.Errorf("after an edit of the other module: %s, prints %q", second.Release, out)
	}
}

// plainFlags has a go command without -mod=mod, which has no meaning in a workspace or with vendored modules.
func (s *site) plainFlags() { s.wrapper(`GOFLAGS= exec "$go" "$@"`) }

func TestVendoredModule(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("lib.X", `"example.com/lib"`), "vendor/example.com/lib/lib.go", "package lib\n\nconst X = \"v1\"\n",
		"vendor/modules.txt", "# example.com/lib v1.0.0\n## explicit; go 1.26\nexample.com/lib\n",
		"go.mod", "module site\n\ngo 1.26\n\nrequire example.com/lib v1.0.0\n")
	s.plainFlags()
	first, out := s.good("a")
	if out != "v1" {
		t.Errorf("prints %q", out)
	}
	s.checkInputs(first, "go.mod", "pages/a/main.go", "vendor/example.com/lib/lib.go", "vendor/modules.txt")
}

func TestPathsOfASymlinkedSiteStayAsGiven(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("shared.X", `"site/shared"`), "shared/x.go", "package shared\n\nconst X = \"x1\"\n")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(s.dir, link); err != nil {
		t.Fatal(err)
	}
	s.dir = link
	r, _ := s.good("a")
	s.checkInputs(r, "go.mod", "pages/a/main.go", "shared/x.go")
	s.write("shared/x.go", "package shared\n\nconst X = nothing\n")
	if _, found := s.bad("a"); found[0].File != s.path("shared/x.go") {
		t.Errorf("diagnostics %v", found)
	}
}

func TestTwoPagesWithOneBasename(t *testing.T) {
	s := newSite(t, "pages/x/a/main.go", program(`"same"`), "pages/y/a/main.go", program(`"same"`))
	x, _ := s.good("x/a")
	y, _ := s.good("y/a")
	if x.Release == y.Release || y.Cached {
		t.Errorf("releases %s, %s: the paths in panics are different ones", x.Release, y.Release)
	}
}

func TestConcurrentBuildsOfOnePageCompileOnce(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	s.configure(func(c *GoConfig) { c.Parallel = 4 })
	results := make([]sdk.Result, 4)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			var err error
			if results[i], err = s.g.Build(t.Context(), s.job("a"), func(sdk.Event) {}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	built := 0
	for _, r := range results {
		if !r.OK || r.Release != results[0].Release {
			t.Errorf("result %+v", r)
		}
		if !r.Cached {
			built++
		}
	}
	if built != 1 {
		t.Errorf("%d builds compiled, want 1", built)
	}
}

func TestParallelLimitAndDrain(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program(`"a"`), "pages/b/main.go", program(`"b"`))
	dir := s.wrapper(`[ "$1" = build ] && { : >"$dir/begun"; while ! [ -e "$dir/go-on" ]; do sleep 0.01; done; }
exec "$go" "$@"`)
	s.configure(func(c *GoConfig) { c.Go, c.Parallel = filepath.Join(dir, "go"), 1 })
	var wg sync.WaitGroup
	wg.Go(func() {
		if r, err := s.g.Build(t.Context(), s.job("a"), func(sdk.Event) {}); err != nil || !r.OK {
			t.Errorf("build that had its slot before: %+v, %v", r, err)
		}
	})
	eventually(t, "the first build runs", func() bool { return isFile(filepath.Join(dir, "begun")) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.g.Build(ctx, s.job("b"), func(e sdk.Event) { t.Errorf("event %+v of a build without a slot", e) }); err != context.DeadlineExceeded {
		t.Errorf("build while the only slot is taken: %v", err)
	}
	if err := s.g.Drain(ctx); err != context.DeadlineExceeded {
		t.Errorf("drain with a build under way: %v", err)
	}
	if _, err := s.g.Build(t.Context(), s.job("b"), func(sdk.Event) {}); err != ErrDraining {
		t.Errorf("build after drain: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go-on"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.g.Drain(t.Context()); err != nil {
		t.Errorf("drain: %v", err)
	}
	wg.Wait()
}

func TestConfigRefusesFlagsOfTheBuilder(t *testing.T) {
	for flag, ok := range map[string]bool{"-race": true, "-gcflags=all=-N -l": true, "-o=x": false, "--ldflags=-s": false, "-tags=x": false, "x": false, "-": false} {
		if err := (GoConfig{Flags: []string{flag}}).Validate(); (err == nil) != ok {
			t.Errorf("flag %q: %v", flag, err)
		}
	}
}

func TestDefaultsOfTheSchemaAreThoseOfNewGo(t *testing.T) {
	sdk.Config(NewGo().Configure) // panics at a wrong tag
	want := NewGo().config
	for key, value := range map[string]string{"go": want.Go, "timeout_ms": fmt.Sprint(want.TimeoutMS), "cgo": want.Cgo} {
		if !strings.Contains(tags(), key+",default="+value) {
			t.Errorf("schema %s: want the default %s of %s", tags(), value, key)
		}
	}
}

// tags joins the tags of the configuration.
func tags() string {
	var all []string
	for f := range reflect.TypeFor[GoConfig]().Fields() {
		all = append(all, f.Tag.Get("tq"))
	}
	return strings.Join(all, " ")
}
