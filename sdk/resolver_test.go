package sdk

import (
	"strings"
	"testing"
)

func TestTableCheck(t *testing.T) {
	page := func(name, path string) Route {
		return Route{Page: name, Path: path, Dir: "/site/" + name, Source: "/site/" + name}
	}
	at := func(host string, r Route) Route { r.Host = host; return r }
	in := func(dir, source string) Route { return Route{Page: "a", Path: "/a", Dir: dir, Source: source} }
	for _, c := range []struct {
		want   string
		routes []Route
	}{
		{"it has no routes", nil},
		{"/x is claimed by pages a and b", []Route{page("a", "/x"), page("b", "/x")}},
		{"h/x is claimed by pages a and b", []Route{at("h", page("a", "/x")), at("h", page("b", "/x"))}},
		{"page a is there twice", []Route{page("a", "/x"), page("a", "/y")}},
		{"page b is there twice", []Route{at("h", page("b", "/x")), at("i", page("b", "/y"))}},
		{`route "" of page a is not canonical`, []Route{page("a", "")}},
		{`route "x" of page a is not canonical`, []Route{page("a", "x")}},
		{`route "/x/" of page a is not canonical`, []Route{page("a", "/x/")}},
		{`route "//x" of page a is not canonical`, []Route{page("a", "//x")}},
		{`route "/x/../y" of page a is not canonical`, []Route{page("a", "/x/../y")}},
		{`route "/x\\y" of page a is not canonical`, []Route{page("a", `/x\y`)}},
		{`route "/x\x00" of page a is not canonical`, []Route{page("a", "/x\x00")}},
		{`page name "" is not a clean`, []Route{page("", "/x")}},
		{`page name "../a" is not a clean`, []Route{page("../a", "/x")}},
		{`page name "/a" is not a clean`, []Route{page("/a", "/x")}},
		{`host "H" of page a is not a host name`, []Route{at("H", page("a", "/x"))}},
		{`host "h:80" of page a is not a host name`, []Route{at("h:80", page("a", "/x"))}},
		{`host "[h]" of page a is not a host name`, []Route{at("[h]", page("a", "/x"))}},
		{`host "h." of page a is not a host name`, []Route{at("h.", page("a", "/x"))}},
		{"of page a are not absolute", []Route{in("a", "/a")}},
		{"of page a are not absolute", []Route{in("/a", "")}},
		{"source /b of page a is not its directory /a, nor below", []Route{in("/a", "/b")}},
		{"source /ab of page a is not its directory /a, nor below", []Route{in("/a", "/ab")}},
		{"source / of page a is not its directory /a, nor below", []Route{in("/a", "/")}},
	} {
		if err := (Table{Routes: c.routes}).Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("routes %+v: %v, want %q", c.routes, err, c.want)
		}
	}
	for _, table := range []Table{
		{AllowEmpty: true},
		{Routes: []Route{page("index", "/"), page("api/users", "/api/users")}},
		{Routes: []Route{in("/a", "/a/src")}},
		{Routes: []Route{in("/", "/src")}},
		{Routes: []Route{at("h", page("a", "/")), at("i", page("a", "/")), at("", page("a", "/")), at("i", page("b", "/b"))}},
	} {
		if err := table.Check(); err != nil {
			t.Errorf("table %+v: %v", table, err)
		}
	}
}
