package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestLookup(t *testing.T) {
	p := New(Options{})
	var routes []Route
	for _, at := range []string{"/", "/api", "/api/users", "/my page", "a.example/", "a.example/api/x", "B.example:80/only", "[::1]/v6"} {
		host, path, _ := strings.Cut(at, "/")
		routes = append(routes, Route{Host: host, Path: "/" + path, Backend: NewBackend(at, BackendOptions{})})
	}
	must(t, p.SetRoutes(routes))
	for at, want := range map[string]string{
		"/": "/", "/x": "/", "/apix": "/", "/api": "/api", "/api/": "/api", "/api//": "/api", "/api/x": "/api", "/api/user": "/api",
		"/api/users": "/api/users", "/api/users/": "/api/users", "/api/users/1/2/3": "/api/users", "/api/usersx": "/api",
		"//api": "/", "/API": "/", "/my page/x": "/my page", "h/api": "/api",
		"a.example/": "a.example/", "A.EXAMPLE./api/xy": "a.example/", "a.example:8080/api/x/y": "a.example/api/x",
		"b.example/only": "B.example:80/only", "b.example/api": "/api", "[::1]:8080/v6": "[::1]/v6",
		"/" + strings.Repeat("a/", 1000): "/",
	} {
		host, path, _ := strings.Cut(at, "/")
		if r, ok := p.Lookup(host, "/"+path); !ok || r.Backend.page != want {
			t.Errorf("%s: got %+v", at, r)
		}
	}
	for _, path := range []string{"", "api", "*"} {
		if r, ok := p.Lookup("h", path); ok {
			t.Errorf("%q: got %+v", path, r)
		}
	}
}

func TestWithoutAFallbackThereIsNoRoute(t *testing.T) {
	p := New(Options{})
	b := NewBackend("api", BackendOptions{})
	must(t, p.SetRoutes([]Route{{Path: "/api", Backend: b}, {Host: "h", Path: "/x", Backend: b}}))
	for _, path := range []string{"/", "/apix", "/ap", "/x"} {
		if r, ok := p.Lookup("other", path); ok {
			t.Errorf("%s: got %+v", path, r)
		}
	}
}

func TestSetRoutesIsAllOrNothing(t *testing.T) {
	p := New(Options{})
	b := NewBackend("p", BackendOptions{})
	must(t, p.SetRoutes([]Route{{Path: "/old", Backend: b}}))
	for _, bad := range [][]Route{
		{{Path: "/new", Backend: b}, {Path: "", Backend: b}},
		{{Path: "/new", Backend: b}, {Path: "x", Backend: b}},
		{{Path: "/new", Backend: b}, {Path: "/x/", Backend: b}},
		{{Path: "/new", Backend: b}, {Path: "/x//y", Backend: b}},
		{{Path: "/new", Backend: b}, {Path: "/x/../y", Backend: b}},
		{{Path: "/new", Backend: b}, {Path: `/x\y`, Backend: b}},
		{{Path: "/new", Backend: b}, {Path: "/x"}},
		{{Path: "/new", Backend: b}, {Path: "/new", Backend: b}},
		{{Host: "h", Path: "/new", Backend: b}, {Host: "H:80", Path: "/new", Backend: b}},
	} {
		if err := p.SetRoutes(bad); !errors.Is(err, ErrRoute) {
			t.Errorf("%+v: %v", bad[1], err)
		}
		if _, ok := p.Lookup("", "/old"); !ok {
			t.Fatalf("%+v changed the table", bad[1])
		}
		if _, ok := p.Lookup("", "/new"); ok {
			t.Fatalf("%+v changed the table", bad[1])
		}
	}
}

func TestAnEncodedSlashDoesNotReachAnotherPage(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(text("index"))
	api := NewBackend("api", BackendOptions{})
	e, _ := s.worker(text("api"), EndpointOptions{})
	api.Set(e)
	must(t, s.SetRoutes([]Route{{Path: "/", Backend: s.backend}, {Path: "/api", Backend: api}}))
	for path, want := range map[string]string{
		"/api/x": "api", "/api%2Fx": "index", "/api%2fx": "index", "/%61pi/x%2Fy": "api", "/apix": "index", "/api%252Fx": "index",
	} {
		if _, got := s.get(path); got != want {
			t.Errorf("%s reached %s", path, got)
		}
	}
}

func thousandRoutes(t testing.TB) *Proxy {
	p := New(Options{})
	b := NewBackend("p", BackendOptions{})
	routes := []Route{{Path: "/", Backend: b}, {Host: "h.example", Path: "/other", Backend: b}}
	for i := range 1000 {
		routes = append(routes, Route{Path: fmt.Sprintf("/section-%d/page-%d", i%30, i), Backend: b})
	}
	if err := p.SetRoutes(routes); err != nil {
		t.Fatal(err)
	}
	return p
}

var hit bool

func TestLookupDoesNotAllocate(t *testing.T) {
	p := thousandRoutes(t)
	if n := testing.AllocsPerRun(100, func() { _, hit = p.Lookup("H.Example:8080", "/section-1/page-31/a/b") }); n != 0 || !hit {
		t.Errorf("%v allocations, hit: %v", n, hit)
	}
}

func BenchmarkLookup(b *testing.B) {
	p := thousandRoutes(b)
	b.ReportAllocs()
	for b.Loop() {
		_, hit = p.Lookup("H.Example:8080", "/section-1/page-31/a/b")
	}
}

// FuzzTarget: what is accepted is forwarded byte for byte, and routed by the
// same segments.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"/", "/a%2Fb", "/a/../b", "//a{b", "/%61?x;y", "/a%00", "/{%2f}", "http://h/x", "/a%", "*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || u.Scheme != "" {
			return
		}
		path, refused := target(&http.Request{Method: "GET", URL: u})
		if refused != nil {
			return
		}
		if needsOpaque(u) {
			u.Opaque = u.RawPath
		}
		rawPath, _, _ := strings.Cut(raw, "?")
		if sent, _, _ := strings.Cut(u.RequestURI(), "?"); sent != rawPath {
			t.Errorf("%q is sent as %q", rawPath, sent)
		}
		if strings.Count(path, "/") != strings.Count(rawPath, "/") || hasDotSegment(path) || strings.Contains(path, "\\") {
			t.Errorf("%q is routed as %q", rawPath, path)
		}
	})
}
