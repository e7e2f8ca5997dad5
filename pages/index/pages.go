package main

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// page is one page of the site, as found on disk.
type page struct {
	Route string
	About string // the first line of the comment above "package main", or of page.yaml
}

// findPages lists the pages below root, sorted by route. A folder that cannot
// be read is left out.
func findPages(root string) []page {
	var found []page
	filepath.WalkDir(root, func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil
		}
		if dir != root && ignored(entry.Name()) {
			return fs.SkipDir
		}
		if about, ok := program(dir); ok {
			found = append(found, page{route(root, dir), about})
		}
		return nil
	})
	slices.SortFunc(found, func(a, b page) int { return strings.Compare(a.Route, b.Route) })
	return slices.CompactFunc(found, func(a, b page) bool { return a.Route == b.Route })
}

func ignored(name string) bool {
	switch name {
	case "internal", "testdata", "vendor", "node_modules", "public":
		return true
	}
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}

// route is the place of dir below root; a page may keep its source in src/, and
// one called index is at the place of what holds it.
func route(root, dir string) string {
	place, err := filepath.Rel(root, strings.TrimSuffix(dir, string(filepath.Separator)+"src"))
	if err != nil {
		return "/"
	}
	place = strings.TrimSuffix("/"+filepath.ToSlash(place), "/index")
	return cmp.Or(place, "/")
}

// program reports whether dir holds a package main, or a page.yaml for one in
// another language, and what it says it is.
func program(dir string) (about string, ok bool) {
	if text, err := os.ReadFile(filepath.Join(dir, "page.yaml")); err == nil {
		line, _, _ := strings.Cut(string(text), "\n")
		if about, isComment := strings.CutPrefix(line, "# "); isComment {
			return strings.TrimSpace(about), true
		}
		return "", true
	}
	sources, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil || strings.HasSuffix(source, "_test.go") {
			continue
		}
		above, _, isMain := strings.Cut("\n"+string(text), "\npackage main\n")
		if !isMain {
			continue
		}
		ok = true
		if about = firstLine(above); about != "" {
			break
		}
	}
	return about, ok
}

// firstLine is that of the comment which ends the text.
func firstLine(text string) string {
	if at := strings.LastIndex(text, "\n\n"); at >= 0 {
		text = text[at+1:]
	}
	line, _, _ := strings.Cut(strings.TrimLeft(text, "\n"), "\n")
	about, isComment := strings.CutPrefix(line, "// ")
	if !isComment {
		return ""
	}
	return about
}
