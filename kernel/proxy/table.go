package proxy

import (
	"errors"
	"fmt"
	"strings"
)

// ErrRoute is what every error of [Proxy.SetRoutes] wraps.
var ErrRoute = errors.New("proxy: invalid route")

// Route leads every request for Path, or for anything below it, to a backend.
type Route struct {
	// Host is a host name without port, or "" for every host.
	Host string

	// Path is decoded and canonical: "/" or "/a/b", without a trailing slash
	// and without empty, "." or ".." segments.
	Path string

	Backend *Backend
}

// table is an immutable set of routes.
type table struct {
	any   paths
	hosts map[string]paths // by normalised host
}

// paths are the routes of one host.
type paths struct {
	routes  map[string]Route
	longest int // length of the longest path, so that a hostile path costs no more lookups than that
}

func newTable(routes []Route) (*table, error) {
	t := &table{hosts: make(map[string]paths)}
	for _, r := range routes {
		if err := checkRoute(r); err != nil {
			return nil, err
		}
		host := normalHost(r.Host, make([]byte, 0, len(r.Host)))
		ps := t.any
		if len(host) > 0 {
			ps = t.hosts[string(host)]
		}
		if ps.routes == nil {
			ps.routes = make(map[string]Route)
		}
		if _, taken := ps.routes[r.Path]; taken {
			return nil, fmt.Errorf("%w: %q is there twice", ErrRoute, r.Host+r.Path)
		}
		ps.routes[r.Path] = r
		ps.longest = max(ps.longest, len(r.Path))
		if len(host) > 0 {
			t.hosts[string(host)] = ps
		} else {
			t.any = ps
		}
	}
	return t, nil
}

func checkRoute(r Route) error {
	switch {
	case r.Backend == nil:
		return fmt.Errorf("%w: %q has no backend", ErrRoute, r.Host+r.Path)
	case !strings.HasPrefix(r.Path, "/"):
		return fmt.Errorf("%w: path %q does not start with /", ErrRoute, r.Path)
	case r.Path != "/" && strings.HasSuffix(r.Path, "/"):
		return fmt.Errorf("%w: path %q ends with /", ErrRoute, r.Path)
	case strings.Contains(r.Path, "//"), hasDotSegment(r.Path), strings.ContainsAny(r.Path, "\\\x00"):
		return fmt.Errorf("%w: path %q is not canonical", ErrRoute, r.Path)
	}
	return nil
}

func (t *table) lookup(host, path string) (Route, bool) {
	if len(t.hosts) > 0 {
		var buf [256]byte
		if ps, ok := t.hosts[string(normalHost(host, buf[:0]))]; ok {
			if r, ok := ps.lookup(path); ok {
				return r, true
			}
		}
	}
	return t.any.lookup(path)
}

// lookup tries path and then each of its parents.
func (ps paths) lookup(path string) (Route, bool) {
	if len(ps.routes) == 0 || path == "" || path[0] != '/' {
		return Route{}, false
	}
	if len(path) > ps.longest {
		// The next candidate ends where a segment does, at ps.longest or before.
		path = path[:strings.LastIndexByte(path[:ps.longest+1], '/')]
	}
	for path != "" {
		if r, ok := ps.routes[path]; ok {
			return r, true
		}
		path = path[:strings.LastIndexByte(path, '/')]
	}
	r, ok := ps.routes["/"]
	return r, ok
}

// normalHost appends host to buf in the form that the table is keyed by: lower
// case, no port, no brackets, no trailing dot.
func normalHost(host string, buf []byte) []byte {
	if strings.HasPrefix(host, "[") {
		host, _, _ = strings.Cut(host[1:], "]")
	} else if i := strings.IndexByte(host, ':'); i >= 0 && i == strings.LastIndexByte(host, ':') {
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	for i := range len(host) {
		c := host[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf = append(buf, c)
	}
	return buf
}
