package resolver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tqserver/tqserver/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const main = "package main\n\nfunc main() {}\n"

func TestTrees(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string // path -> content; "-> x": a symlink to x; path with "/" at the end: a directory
		skip  []string
		want  []string // path page source
		diags []string // "error|warning: part of the message"
	}{
		"both layouts": {
			files: map[string]string{"index/main.go": main, "api/users/main.go": main, "blog/src/main.go": main, "blog/views/x.html": ""},
			want:  []string{"/ index index", "/api/users api/users api/users", "/blog blog blog/src"},
		},
		"index at any depth": {
			files: map[string]string{"blog/index/main.go": main, "index/x/main.go": main, "a/b/index/src/main.go": main},
			want:  []string{"/a/b a/b/index a/b/index/src", "/blog blog/index blog/index", "/index/x index/x index/x"},
		},
		"page in a page": {
			files: map[string]string{"api/main.go": main, "api/users/main.go": main, "api/db/db.go": "package db"},
			want:  []string{"/api api api", "/api/users api/users api/users"},
		},
		"two for one route": {
			files: map[string]string{"blog/main.go": main, "blog/index/main.go": main},
			want:  []string{"/blog blog blog"},
			diags: []string{"error: ROOT/blog and ROOT/blog/index are both pages for /blog"},
		},
		"two sources": {
			files: map[string]string{"blog/main.go": main, "blog/src/main.go": main},
			want:  []string{"/blog blog blog"},
			diags: []string{"warning: ROOT/blog and its src both hold"},
		},
		"any language": {
			files: map[string]string{"node/page.yaml": "run: [node]", "node/src/main.go": main, "node/admin/main.go": main, "both/page.yaml": "", "both/main.go": main,
				"link/page.yaml": "-> ../node/page.yaml", "d/page.yaml/": "", "gone/page.yaml": "-> nowhere", "yml/page.yml": ""},
			want: []string{"/both both both", "/link link link", "/node node node", "/node/admin node/admin node/admin"},
		},
		"src that is not a source": {
			files: map[string]string{"src/main.go": main, "x/src/lib/lib.go": "package lib", "x/src/page/main.go": main, "y/src": "a file", "y/main.go": main},
			want:  []string{"/src src src", "/x/src/page x/src/page x/src/page", "/y y y"},
		},
		"below a source is no page": {
			files: map[string]string{"x/src/main.go": main, "x/src/cmd/tool/main.go": main},
			want:  []string{"/x x x/src"},
		},
		"skipped": {
			files: map[string]string{".git/main.go": main, "_old/main.go": main, "a/testdata/main.go": main, "vendor/x/main.go": main,
				"node_modules/x/main.go": main, "public/main.go": main, "internal/tool/main.go": main, "ok/main.go": main,
				"drafts/x/main.go": main, "deep/drafts/main.go": main, "one/two/main.go": main, "one/main.go": main},
			skip: []string{"drafts", "one/*"},
			want: []string{"/ok ok ok", "/one one one"},
		},
		"no page": {
			files: map[string]string{"lib/lib.go": "package lib", "tests/main_test.go": main, "gen/gen.go": "//go:build ignore\n\n" + main,
				"other/main_plan9.go": main, "text/main.txt": main, "hid/.main.go": main, "hid/_main.go": main, "d/main.go/": ""},
			diags: []string{"warning: no page in ROOT: a page is"},
		},
		"constraints that hold": {
			files: map[string]string{"a/main.go": "//go:build !plan9\n\n" + main, "b/main.go": "/* licence */\n// Package main serves.\n" + main,
				"c/main.go": "package main\n\nimport \"C\"\n", "d/gen.go": "//go:build ignore\n\npackage gen", "d/app.go": main},
			want: []string{"/a a a", "/b b b", "/c c c", "/d d d"},
		},
		"half-written": {
			files: map[string]string{"empty/main.go": "", "half/main.go": "pack", "comment/main.go": "// soon", "other/main.go": "", "other/util.go": main,
				"nomain/app.go": "", "lib/main.go": "", "lib/lib.go": "package lib", "src/x/src/main.go": "", "mixed/a.go": "package a", "mixed/b.go": main},
			want: []string{"/comment comment comment", "/empty empty empty", "/half half half", "/mixed mixed mixed", "/other other other", "/src/x src/x src/x/src"},
		},
		"page at the root": {
			files: map[string]string{"main.go": main, "a/main.go": main},
			want:  []string{"/a a a"},
			diags: []string{"warning: a page directly in the pages directory has no name and is not served: move it to index/"},
		},
		"names": {
			files: map[string]string{"Caps/main.go": main, "caps/main.go": main, "a b%41é?/main.go": main, "back\\slash/main.go": main, "tab\t/main.go": main, "bad\xff/main.go": main},
			want:  []string{"/Caps Caps Caps", "/a b%41é? a b%41é? a b%41é?", "/caps caps caps"},
			diags: []string{`error: directory "back\\slash" in ROOT is not served`, `error: directory "bad\xff"`, `error: directory "tab\t"`},
		},
		"links": {
			files: map[string]string{"real/main.go": main, "real/sub/main.go": main, "alias": "-> real", "up/back": "-> ..", "self": "-> self", "gone": "-> nowhere",
				"out": "-> ../outside", "../outside/main.go": main, "../outside/more": "-> ../outside2", "../outside2/main.go": main, "file/main.go": "-> ../real/main.go", "top": "-> /"},
			want: []string{"/alias alias alias", "/alias/sub alias/sub alias/sub", "/file file file", "/out out out", "/real real real", "/real/sub real/sub real/sub"},
			diags: []string{"error: symlink ROOT/self leads to itself", "error: symlink ROOT/top leads back to /",
				"error: symlink ROOT/up/back leads back to ROOT, which it is in"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, c.files)
			f := NewFS()
			if err := f.Configure(t.Context(), Config{Skip: c.skip}); err != nil {
				t.Fatal(err)
			}
			table := start(t, f).resolve(root)
			if got := lines(root, table); !slices.Equal(got, c.want) {
				t.Errorf("routes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			diagnosed(t, root, table, c.diags)
			if !table.AllowEmpty {
				t.Error("everything was read, yet an empty table would not be meant")
			}
		})
	}
}

func TestRootMissing(t *testing.T) {
	root := filepath.Join(t.TempDir(), "pages")
	r := start(t, NewFS())
	table := r.resolve(root)
	diagnosed(t, root, table, []string{"error: pages directory ROOT does not exist: create it or set pages.directory"})
	if len(table.Routes) != 0 || table.AllowEmpty {
		t.Errorf("an empty table must not count: %+v", table)
	}
	put(t, root+"/a/main.go", main)
	if got := r.routes(root); !slices.Equal(got, []string{"/a a a"}) {
		t.Errorf("routes: %q", got)
	}
	if err := os.Rename(root, root+"2"); err != nil {
		t.Fatal(err)
	}
	table = r.resolve(root)
	if got := lines(root, table); !slices.Equal(got, []string{"/a a a"}) || table.AllowEmpty {
		t.Errorf("root gone: routes %q, allow empty %v", got, table.AllowEmpty)
	}
	put(t, root, "a file")
	diagnosed(t, root, r.resolve(root), []string{"error: pages directory ROOT is not a directory"})
	if got := r.routes(root + "2"); !slices.Equal(got, []string{"/a a a"}) {
		t.Errorf("another root: %q", got)
	}
	if got := r.routes(root + "3"); len(got) != 0 {
		t.Errorf("routes of another root are kept: %q", got)
	}
}

func TestPagesComeAndGo(t *testing.T) {
	root := tree(t, map[string]string{"a/main.go": main})
	r := start(t, NewFS())
	step := func(what string, want ...string) {
		t.Helper()
		if got := r.routes(root); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	step("at first", "/a a a")
	put(t, root+"/b/main.go", main)
	step("added", "/a a a", "/b b b")
	put(t, root+"/b/main.go", "package bbbb\n\nfunc main() {}\n"[:len(main)])
	step("no main any more, same size", "/a a a")
	old := time.Now().Add(-time.Hour)
	put(t, root+"/b/main.go", main)
	if err := os.Chtimes(root+"/b/main.go", old, old); err != nil {
		t.Fatal(err)
	}
	step("main again, with an old time", "/a a a", "/b b b")
	step("from the cache", "/a a a", "/b b b")
	if err := os.Rename(root+"/a", root+"/c"); err != nil {
		t.Fatal(err)
	}
	step("renamed", "/b b b", "/c c c")
	if err := os.RemoveAll(root + "/b"); err != nil {
		t.Fatal(err)
	}
	step("removed", "/c c c")
}

func TestResolveStream(t *testing.T) {
	root := tree(t, map[string]string{"a/main.go": main, "b/main.go": main})
	f := NewFS()
	r := start(t, f)
	if got := r.routes(root); len(got) != 2 {
		t.Fatalf("routes: %q", got)
	}
	if err := f.Configure(t.Context(), Config{Skip: []string{"b"}}); err != nil {
		t.Fatal(err)
	}
	if table := r.next(); len(table.Routes) != 1 || table.Revision != r.revision {
		t.Errorf("after a change of the configuration: %+v", table)
	}
}

func TestConfigSchema(t *testing.T) {
	sdk.Config(NewFS().Configure) // panics at a wrong tag
}

func TestResolveEnds(t *testing.T) {
	root := t.TempDir()
	trees := make(chan sdk.Tree, 2)
	trees <- sdk.Tree{Root: root, Revision: 1}
	trees <- sdk.Tree{Root: root, Revision: 2}
	var seen []uint64
	broken := errors.New("broken")
	err := NewFS().Resolve(t.Context(), trees, func(table sdk.Table) error {
		seen = append(seen, table.Revision)
		if table.Revision == 1 {
			return &sdk.RefusedError{Reason: "no"}
		}
		return broken
	})
	if err != broken || !slices.Equal(seen, []uint64{1, 2}) {
		t.Errorf("error %v after tables %v", err, seen)
	}
	close(trees)
	if err := NewFS().Resolve(t.Context(), trees, nil); err != nil {
		t.Errorf("no more trees: %v", err)
	}
}

func TestManyPages(t *testing.T) {
	root := memory(t)
	put(t, root+"/lib/lib.go", main)
	for i := range 10_000 {
		dir := fmt.Sprintf("%s/g%d/p%d", root, i/100, i)
		if i%100 == 0 {
			put(t, filepath.Dir(dir)+"/", "")
		}
		if err := errors.Join(os.Mkdir(dir, 0o777), os.Link(root+"/lib/lib.go", dir+"/main.go")); err != nil {
			t.Fatal(err)
		}
	}
	r := start(t, NewFS())
	for _, temperature := range []string{"cold", "warm"} {
		begin := time.Now()
		if got := len(r.resolve(root).Routes); got != 10_001 {
			t.Fatalf("%d routes", got)
		}
		t.Logf("%s: %v", temperature, time.Since(begin))
	}
}

// memory gives a temporary directory that is not on a disk, if there is such a place: thousands of files take long there.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tqserver-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// stream runs a resolver.
type stream struct {
	t        *testing.T
	trees    chan sdk.Tree
	tables   chan sdk.Table
	revision uint64
}

func start(t *testing.T, f sdk.Resolver, run ...func(func())) *stream {
	s := &stream{t: t, trees: make(chan sdk.Tree), tables: make(chan sdk.Table)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	resolve := func() {
		err := f.Resolve(ctx, s.trees, func(table sdk.Table) error {
			select {
			case s.tables <- table:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if ctx.Err() == nil {
			t.Errorf("Resolve returned early: %v", err)
		}
	}
	go func() {
		defer close(done)
		if len(run) > 0 {
			run[0](resolve)
			return
		}
		resolve()
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *stream) resolve(root string) sdk.Table {
	s.t.Helper()
	s.revision++
	s.trees <- sdk.Tree{Root: root, Revision: s.revision}
	table := s.next()
	if table.Revision != s.revision {
		s.t.Fatalf("table of revision %d, want %d", table.Revision, s.revision)
	}
	return table
}

func (s *stream) routes(root string) []string {
	s.t.Helper()
	return lines(root, s.resolve(root))
}

func (s *stream) next() sdk.Table {
	s.t.Helper()
	select {
	case table := <-s.tables:
		return table
	case <-time.After(20 * time.Second):
		s.t.Fatal("no table")
	}
	panic("unreachable")
}

// lines gives "path page source" of each route, the host before the path, and sees to what holds for all of them.
func lines(root string, table sdk.Table) []string {
	var all []string
	for _, r := range table.Routes {
		source, err := filepath.Rel(root, r.Source)
		if err != nil || r.Dir != filepath.Join(root, r.Page) || !within(r.Source, r.Dir) {
			source = fmt.Sprintf("BAD %+v", r)
		}
		all = append(all, r.Host+r.Path+" "+r.Page+" "+source)
	}
	return all
}

func diagnosed(t *testing.T, root string, table sdk.Table, want []string) {
	t.Helper()
	var got []string
	for _, d := range table.Diagnostics {
		severity := "error: "
		if d.Warning {
			severity = "warning: "
		}
		got = append(got, severity+strings.ReplaceAll(d.Message, root, "ROOT"))
		if !strings.HasPrefix(d.File, root) {
			t.Errorf("diagnostic without its place: %+v", d)
		}
	}
	slices.Sort(got)
	if len(got) != len(want) {
		t.Fatalf("diagnostics: %q, want %q", got, want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("diagnostic %q, want %q", got[i], want[i])
		}
	}
}

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "pages")
	if err := os.MkdirAll(root, 0o777); err != nil {
		t.Fatal(err)
	}
	for path, content := range files {
		put(t, root+"/"+path, content)
	}
	return root
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	target, link := strings.CutPrefix(content, "-> ")
	var err error
	switch {
	case link:
		err = os.Symlink(target, path)
	case strings.HasSuffix(path, "/"):
		err = os.MkdirAll(path, 0o777)
	default:
		err = os.WriteFile(path, []byte(content), 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
}
