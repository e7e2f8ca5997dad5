package builder

import (
	"fmt"
	"slices"
	"strings"
)

// known is what is true of some packages wherever they are linked into a page.
var known = []struct{ path, fact string }{
	{"net/http/pprof", "net/http/pprof adds /debug/pprof/ to http.DefaultServeMux: a page that serves that mux shows it to every visitor. Keep it behind a build tag, or in a page of its own."},
	{"expvar", "expvar adds /debug/vars to http.DefaultServeMux: a page that serves that mux shows its command line and memory to every visitor."},
	{"testing", "testing is linked into the page: what needs it belongs into a file whose name ends in _test.go."},
}

// advise says what is known for sure of the page beyond the numbers.
func advise(c GoConfig, g *graph, m *measured) []string {
	advice := []string{}
	for _, k := range known {
		if g.all[k.path] != nil {
			advice = append(advice, k.fact+g.through(k.path))
		}
	}
	if len(m.byName) > 0 {
		advice = append(advice, fmt.Sprintf("The linker keeps every exported method of every type that is used, because methods are looked up by names that are known at run time only, in %s.",
			strings.Join(m.byName, ", ")))
	}
	if users := g.cgoUsers(); len(users) > 0 {
		advice = append(advice, fmt.Sprintf("The page is built with cgo, for %s: the C linker then runs as well.", strings.Join(users, ", ")))
	}
	if c.Dwarf {
		advice = append(advice, "The builder keeps debug information (`dwarf: true`): without it the link takes little more than half as long.")
	}
	return advice
}

// through names the imports of the user that bring a package which he does not import himself.
func (g *graph) through(path string) string {
	by := g.neededBy(path)
	if len(g.lines[path]) > 0 || len(by) == 0 {
		return ""
	}
	return " It comes with " + strings.Join(by, ", ") + "."
}

// cgoUsers are the packages outside the standard library that need cgo.
func (g *graph) cgoUsers() (users []string) {
	for path, p := range g.all {
		if !p.Standard && len(p.CgoFiles) > 0 {
			users = append(users, path)
		}
	}
	slices.Sort(users)
	return users
}
