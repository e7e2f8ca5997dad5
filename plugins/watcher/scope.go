package watcher

import (
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tqserver/tqserver/sdk"
)

// ignoredNames are never watched: version control, foreign trees, and what editors leave beside a file while they
// save it. Names that begin with "." are ignored as well.
var ignoredNames = []string{
	"node_modules",
	"*~", "#*#", "4913", "*.swp", "*.swx", "*.swo", // emacs, vim
	"*___jb_tmp___", "*___jb_old___", // JetBrains
	"*.tmp",
}

// scope tells which files and directories a set means.
type scope struct {
	roots, dirs []string // clean
	ignore      []string
	named       map[string]string // files that the kernel acts on are wanted, whatever their name
	deep        map[string]bool   // recursive, remembered
}

func newScope(set sdk.WatchSet) *scope {
	clean := func(paths []string) []string {
		out := make([]string, 0, len(paths))
		for _, p := range paths {
			out = append(out, filepath.Clean(p))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return &scope{roots: clean(set.Roots), dirs: clean(set.Dirs), ignore: set.Ignore, named: set.Known, deep: map[string]bool{}}
}

// anchors are the roots and dirs, parents before what is in them.
func (c *scope) anchors() []string {
	all := slices.Concat(c.roots, c.dirs)
	slices.Sort(all)
	return slices.Compact(all)
}

func (c *scope) anchor(path string) bool {
	_, root := slices.BinarySearch(c.roots, path)
	_, dir := slices.BinarySearch(c.dirs, path)
	return root || dir
}

// dir tells whether a directory is watched.
func (c *scope) dir(path string) bool {
	_, ok := slices.BinarySearch(c.dirs, path)
	return ok || c.recursive(path)
}

// recursive tells whether a directory is watched together with its sub-directories.
func (c *scope) recursive(dir string) bool {
	deep, ok := c.deep[dir]
	if !ok {
		deep = slices.ContainsFunc(c.roots, func(root string) bool {
			rel, below := relative(root, dir)
			return below && (rel == "" || !c.ignoredBelow(rel) && !ignoredBelow(rel))
		})
		c.deep[dir] = deep
	}
	return deep
}

// file tells whether a file is watched.
func (c *scope) file(path string) bool {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	if !utf8.ValidString(path) || ignoredName(name) && c.named[path] == "" {
		return false
	}
	if _, ok := slices.BinarySearch(c.dirs, dir); ok && !c.ignores(name) {
		return true
	}
	return slices.ContainsFunc(c.roots, func(root string) bool {
		rel, below := relative(root, path)
		return below && rel != "" && c.recursive(dir) && !c.ignoredBelow(rel)
	})
}

// ignoredBelow tells whether the set ignores a path relative to a root, or a directory that it is in.
func (c *scope) ignoredBelow(rel string) bool {
	return slices.ContainsFunc(prefixes(rel), c.ignores)
}

func (c *scope) ignores(rel string) bool {
	return slices.ContainsFunc(c.ignore, func(pattern string) bool { return sdk.Match(pattern, rel) })
}

// ignoredBelow tells whether a name of a path relative to a root is ignored always.
func ignoredBelow(rel string) bool {
	return !utf8.ValidString(rel) || slices.ContainsFunc(strings.Split(filepath.ToSlash(rel), "/"), ignoredName)
}

func ignoredName(name string) bool {
	return strings.HasPrefix(name, ".") || slices.ContainsFunc(ignoredNames, func(pattern string) bool {
		return sdk.Match(pattern, name)
	})
}

// prefixes gives a, a/b and a/b/c of a/b/c.
func prefixes(rel string) []string {
	var all []string
	for i, r := range rel {
		if r == filepath.Separator {
			all = append(all, rel[:i])
		}
	}
	return append(all, rel)
}

// relative gives the path of what is at ("") or below a directory.
func relative(dir, path string) (rel string, below bool) {
	if path == dir {
		return "", true
	}
	if !strings.HasSuffix(dir, string(filepath.Separator)) {
		dir += string(filepath.Separator)
	}
	return strings.CutPrefix(path, dir)
}
