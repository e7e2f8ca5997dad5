package sdk

import (
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// unwatched are names that are never watched: version control and the like (hidden files), foreign trees, and what
// editors leave beside a file while they save it.
var unwatched = []string{".*", "node_modules", "*~", "#*#", "4913", "*.swp", "*.swx", "*.swo", "*___jb_tmp___", "*___jb_old___", "*.tmp"}

// watchScope tells which paths a set means. All paths are clean and absolute.
type watchScope struct {
	roots, dirs, ignore []string
	known               map[string]string // what the kernel acts on is wanted, whatever its name
}

func newWatchScope(set WatchSet) *watchScope {
	return &watchScope{roots: each(set.Roots, filepath.Clean), dirs: each(set.Dirs, filepath.Clean), ignore: set.Ignore, known: set.Known}
}

// file tells whether a file is watched.
func (s *watchScope) file(path string) bool {
	name := filepath.Base(path)
	if !utf8.ValidString(path) || leftOut(name) && s.known[path] == "" {
		return false
	}
	dir := filepath.Dir(path)
	if slices.Contains(s.dirs, dir) && !s.ignores(name) {
		return true
	}
	return slices.ContainsFunc(s.roots, func(root string) bool {
		rel, ok := below(root, path)
		return ok && rel != "." && s.deep(dir) && !s.ignores(rel)
	})
}

// deep tells whether a directory is watched with what is below it.
func (s *watchScope) deep(dir string) bool {
	return slices.ContainsFunc(s.roots, func(root string) bool {
		rel, ok := below(root, dir)
		if !ok || rel == "." {
			return ok
		}
		for i, c := range rel + string(filepath.Separator) {
			if c == filepath.Separator && (s.ignores(rel[:i]) || leftOut(filepath.Base(rel[:i]))) {
				return false
			}
		}
		return true
	})
}

func (s *watchScope) ignores(rel string) bool {
	return slices.ContainsFunc(s.ignore, func(pattern string) bool { return Match(pattern, rel) })
}

func leftOut(name string) bool {
	return slices.ContainsFunc(unwatched, func(pattern string) bool { return Match(pattern, name) })
}

// below gives path relative to dir, "." for dir itself, if it is not outside.
func below(dir, path string) (rel string, ok bool) {
	rel, err := filepath.Rel(dir, path)
	return rel, err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
