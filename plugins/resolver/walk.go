package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/tqserver/tqserver/sdk"
)

// skipped directories never hold pages, nor does what is below them. Names that begin with "." or "_" are skipped too.
var skipped = []string{"testdata", "vendor", "node_modules", "public", "internal"}

// walk is one way through a tree.
type walk struct {
	skip        []string
	before      map[string]clause // of the walk before
	last        []sdk.Route       // of the table before
	clauses     map[string]clause
	routes      []sdk.Route
	byPath      map[string]sdk.Route
	diagnostics []sdk.Diagnostic
	complete    bool // everything could be read
}

// place is a directory on the way.
type place struct {
	dir    string // path that is shown and built
	rel    string // slash path relative to the root; "" at the root
	real   string // dir without symlinks
	linked bool   // in a directory that is a symlink
}

func newWalk(r *resolution) *walk {
	return &walk{skip: r.skip, before: r.clauses, last: r.last, clauses: map[string]clause{},
		byPath: map[string]sdk.Route{}, complete: true}
}

// run walks the whole tree and sorts the routes.
func (w *walk) run(root string) {
	root = filepath.Clean(root)
	real, err := filepath.EvalSymlinks(root)
	var entries []fs.DirEntry
	if err == nil {
		entries, err = os.ReadDir(root)
	}
	if err != nil {
		w.keep(root, rootMessage(root, err))
	} else {
		w.visit(place{dir: root, real: real}, entries)
	}
	slices.SortStableFunc(w.routes, func(a, b sdk.Route) int { return strings.Compare(a.Path, b.Path) })
}

// visit takes a directory that could be read: it may be a page, and hold others.
func (w *walk) visit(p place, entries []fs.DirEntry) {
	source, err := w.source(p, entries)
	switch {
	case err != nil:
		w.keepPage(p, err)
	case source != "" && p.rel == "":
		w.warn(p.dir, "a page directly in the pages directory has no name and is not served: move it to index/")
		source = ""
	case source != "":
		w.add(sdk.Route{Path: routePath(p.rel), Page: p.rel, Dir: p.dir, Source: source})
	}
	for _, e := range entries {
		isSource := e.Name() == "src" && (source != "" || err != nil)
		if !isSource && !skips(w.skip, e.Name(), path.Join(p.rel, e.Name())) {
			w.entry(p, e)
		}
	}
}

// source gives the directory of a page's package main: the page itself or its src; "" when it is no page. A page.yaml
// makes a page of the directory that it is in, whatever else that holds.
func (w *walk) source(p place, entries []fs.DirEntry) (string, error) {
	if hasRecipe(p.dir, entries) {
		return p.dir, nil
	}
	own := w.isMain(p.dir, entries)
	if p.rel == "" || !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "src" }) {
		if own {
			return p.dir, nil
		}
		return "", nil
	}
	src := filepath.Join(p.dir, "src")
	inner, err := os.ReadDir(src)
	switch {
	case own && err == nil && w.isMain(src, inner):
		w.warn(src, fmt.Sprintf("%s and its src both hold a package main: the first is served; remove one", printable(p.dir)))
		return p.dir, nil
	case own:
		return p.dir, nil
	case err != nil && !os.IsNotExist(err) && !errors.Is(err, syscall.ENOTDIR):
		return "", err
	case err == nil && w.isMain(src, inner):
		return src, nil
	}
	return "", nil
}

// hasRecipe tells whether a directory has a page.yaml, which says how to build and run a page in any language.
func hasRecipe(dir string, entries []fs.DirEntry) bool {
	const name = "page.yaml"
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name && !e.IsDir() }) {
		return false
	}
	info, err := os.Stat(filepath.Join(dir, name))
	return err == nil && info.Mode().IsRegular()
}

// entry goes on into a directory, or a symlink to one.
func (w *walk) entry(p place, e fs.DirEntry) {
	next := place{dir: filepath.Join(p.dir, e.Name()), rel: path.Join(p.rel, e.Name()),
		real: filepath.Join(p.real, e.Name()), linked: p.linked}
	switch {
	case e.Type()&fs.ModeSymlink != 0:
		if p.linked || !w.follow(&next, p) {
			return
		}
	case !e.IsDir():
		return
	}
	if !usable(e.Name()) {
		w.fail(p.dir, fmt.Sprintf("directory %q in %s is not served: its name has a backslash or characters that cannot be shown; rename it", e.Name(), printable(p.dir)))
		return
	}
	entries, err := os.ReadDir(next.dir)
	switch {
	case err == nil:
		w.visit(next, entries)
	case os.IsNotExist(err): // removed meanwhile
	default:
		w.keep(next.dir, fmt.Sprintf("read directory %s: %v; its pages stay as they were", printable(next.dir), cause(err)))
	}
}

// follow resolves a symlink, if it leads to a directory. One that leads to a directory it is in would never end.
func (w *walk) follow(next *place, from place) bool {
	info, err := os.Stat(next.dir)
	switch {
	case errors.Is(err, syscall.ELOOP):
		w.fail(next.dir, fmt.Sprintf("symlink %s leads to itself: not followed; remove it", printable(next.dir)))
		return false
	case os.IsNotExist(err) || err == nil && !info.IsDir():
		return false
	case err == nil:
		next.real, err = filepath.EvalSymlinks(next.dir)
	}
	if err != nil {
		w.keep(next.dir, fmt.Sprintf("follow symlink %s: %v; its pages stay as they were", printable(next.dir), cause(err)))
		return false
	}
	if within(from.real, next.real) {
		w.fail(next.dir, fmt.Sprintf("symlink %s leads back to %s, which it is in: not followed; remove it", printable(next.dir), printable(next.real)))
		return false
	}
	next.linked = true
	return true
}

// add adds a page. The first page of a route is served.
func (w *walk) add(r sdk.Route) {
	if first, ok := w.byPath[r.Path]; ok {
		w.fail(r.Dir, fmt.Sprintf("%s and %s are both pages for %s: the first is served; remove or rename one", printable(first.Dir), printable(r.Dir), printable(r.Path)))
		return
	}
	w.byPath[r.Path] = r
	w.routes = append(w.routes, r)
}

// keep reports that nothing at or below dir can be known at present, and keeps the routes that it had.
func (w *walk) keep(dir, message string) {
	w.fail(dir, message)
	w.complete = false
	for _, r := range w.last {
		if within(r.Dir, dir) {
			w.add(r)
		}
	}
}

// keepPage is keep for a page whose source cannot be read; what else is in its directory can.
func (w *walk) keepPage(p place, err error) {
	src := filepath.Join(p.dir, "src")
	w.fail(src, fmt.Sprintf("read directory %s: %v; its page stays as it was", printable(src), cause(err)))
	w.complete = false
	for _, r := range w.last {
		if r.Dir == p.dir || within(r.Dir, src) {
			w.add(r)
		}
	}
}

func (w *walk) fail(file, message string) {
	w.diagnostics = append(w.diagnostics, sdk.Diagnostic{Message: message, File: strings.ToValidUTF8(file, "\uFFFD")})
}

func (w *walk) warn(file, message string) {
	w.diagnostics = append(w.diagnostics, sdk.Diagnostic{Warning: true, Message: message, File: strings.ToValidUTF8(file, "\uFFFD")})
}

// skips tells whether a directory, of which rel is the path relative to the root, holds no pages.
func skips(patterns []string, name, rel string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || slices.Contains(skipped, name) {
		return true
	}
	return slices.ContainsFunc(patterns, func(pattern string) bool { return sdk.Match(pattern, rel) })
}

// usable tells whether a name can be part of a route and of a message.
func usable(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return r == '\\' || unicode.IsControl(r) })
}

// within tells whether path is dir or below it.
func within(path, dir string) bool {
	rest, below := strings.CutPrefix(path, strings.TrimSuffix(dir, string(filepath.Separator)))
	return below && (rest == "" || rest[0] == filepath.Separator)
}
