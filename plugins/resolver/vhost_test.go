package resolver

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

func TestHosts(t *testing.T) {
	for name, c := range map[string]struct {
		files  map[string]string // as in TestTrees
		config VHostConfig
		want   []string // host+path page source
		diags  []string
	}{
		"two hosts": {
			files: map[string]string{"example.org/index/main.go": main, "example.org/api/src/main.go": main, "blog.example.org/index/main.go": main,
				"blog.example.org/2026/may/main.go": main, "go.mod": "module site"},
			want: []string{"blog.example.org/ blog.example.org/index blog.example.org/index", "blog.example.org/2026/may blog.example.org/2026/may blog.example.org/2026/may",
				"example.org/ example.org/index example.org/index", "example.org/api example.org/api example.org/api/src"},
		},
		"default and aliases": {
			files:  map[string]string{"a.org/x/main.go": main, "b/x/main.go": main},
			config: VHostConfig{Default: "b", Aliases: []string{"www.a.org=a.org", "a.net=a.org"}},
			want:   []string{"a.org/x a.org/x a.org/x", "www.a.org/x a.org/x a.org/x", "a.net/x a.org/x a.org/x", "b/x b/x b/x", "/x b/x b/x"},
		},
		"configuration that does not fit": {
			files:  map[string]string{"a.org/x/main.go": main, "www.a.org/x/main.go": main},
			config: VHostConfig{Default: "b", Aliases: []string{"www.a.org=a.org", "c=d"}},
			want:   []string{"a.org/x a.org/x a.org/x", "www.a.org/x www.a.org/x www.a.org/x"},
			diags: []string{"warning: aliases: c=d: there is no directory d", "warning: aliases: www.a.org=a.org: www.a.org has a directory of its own",
				"warning: default: there is no directory b"},
		},
		"names that are no hosts": {
			files: map[string]string{"Example.org/x/main.go": main, "a_b/x/main.go": main, "a..b/x/main.go": main, "-a/x/main.go": main, "tab\t/x/main.go": main,
				"ok/x/main.go": main, "127.0.0.1/x/main.go": main, "xn--bcher-kva.example/x/main.go": main},
			want: []string{"127.0.0.1/x 127.0.0.1/x 127.0.0.1/x", "ok/x ok/x ok/x", "xn--bcher-kva.example/x xn--bcher-kva.example/x xn--bcher-kva.example/x"},
			diags: []string{`error: directory "ROOT/tab\t" is`, "error: directory ROOT/-a is not served, for its name is to be a host: a host is lower-case letters",
				"error: directory ROOT/Example.org is", "error: directory ROOT/a..b is", "error: directory ROOT/a_b is"},
		},
		"skipped": {
			files: map[string]string{".git/x/main.go": main, "_old/x/main.go": main, "internal/x/main.go": main, "lib/x/main.go": main,
				"a.org/drafts/main.go": main, "a.org/x/main.go": main, "gone": "-> nowhere", "file.org": "a file"},
			config: VHostConfig{Skip: []string{"lib", "drafts"}},
			want:   []string{"a.org/x a.org/x a.org/x"},
		},
		"no host": {
			files: map[string]string{"main.go": main},
			diags: []string{"warning: no host in ROOT: a directory in it"},
		},
		"a site for one host": {
			files: map[string]string{"index/main.go": main},
			diags: []string{"warning: a page directly in the pages directory has no name", "warning: no page in ROOT/index"},
		},
		"a link is another host": {
			files: map[string]string{"a.org/x/main.go": main, "b.org": "-> a.org", "a.org/up": "-> .."},
			want:  []string{"a.org/x a.org/x a.org/x", "b.org/x b.org/x b.org/x"},
			diags: []string{"error: symlink ROOT/a.org/up leads back to ROOT", "error: symlink ROOT/b.org/up leads back to ROOT"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, c.files)
			v := NewVHost()
			if err := v.Configure(t.Context(), c.config); err != nil {
				t.Fatal(err)
			}
			table := start(t, v).resolve(root)
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

func TestHostsComeAndGo(t *testing.T) {
	root := tree(t, map[string]string{"a.org/x/main.go": main, "b.org/x/main.go": main})
	v := NewVHost()
	r := start(t, v)
	both := []string{"a.org/x a.org/x a.org/x", "b.org/x b.org/x b.org/x"}
	if got := r.routes(root); !slices.Equal(got, both) {
		t.Errorf("at first: %q", got)
	}
	if err := v.Configure(t.Context(), VHostConfig{Default: "a.org"}); err != nil {
		t.Fatal(err)
	}
	if got := lines(root, r.next()); !slices.Contains(got, "/x a.org/x a.org/x") {
		t.Errorf("after a change of the configuration: %q", got)
	}
	if err := os.RemoveAll(root + "/a.org"); err != nil {
		t.Fatal(err)
	}
	if got := r.routes(root); !slices.Equal(got, both[1:]) {
		t.Errorf("removed: %q", got)
	}
	if err := os.Rename(root, root+"2"); err != nil {
		t.Fatal(err)
	}
	table := r.resolve(root)
	diagnosed(t, root, table, []string{"error: pages directory ROOT does not exist"})
	if got := lines(root, table); !slices.Equal(got, both[1:]) || table.AllowEmpty {
		t.Errorf("root gone: routes %q, allow empty %v", got, table.AllowEmpty)
	}
	if got := r.routes(root + "3"); len(got) != 0 {
		t.Errorf("routes of another root are kept: %q", got)
	}
}

func TestVHostConfig(t *testing.T) {
	sdk.Config(NewVHost().Configure) // panics at a wrong tag
	for _, good := range []VHostConfig{{}, {Default: "localhost"}, {Aliases: []string{"www.a.org=a.org", "a.net=a.org"}}} {
		if err := good.Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	long := strings.Repeat("a.", 126)
	for want, bad := range map[string]VHostConfig{
		`default: "A.org": a host is`:                {Default: "A.org"},
		`default: "a.org.": a host is`:               {Default: "a.org."},
		`aliases: want ALIAS=HOST`:                   {Aliases: []string{"www.a.org"}},
		`aliases: "*.a.org=a.org": a host is`:        {Aliases: []string{"*.a.org=a.org"}},
		`aliases: "b=": a host is`:                   {Aliases: []string{"b="}},
		`aliases: "b=a=c": a host is`:                {Aliases: []string{"b=a=c"}},
		`aliases: "b=c": b is there twice`:           {Aliases: []string{"b=a", "b=c"}},
		`aliases: "a=a": a is there twice`:           {Aliases: []string{"a=a"}},
		`aliases: "b=` + long + `aa": a host is`:     {Aliases: []string{"b=" + long + "aa"}},
		`default: "` + strings.Repeat("a", 64) + `"`: {Default: strings.Repeat("a", 64)},
	} {
		if err := bad.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if err := checkHost(long + "a"); err != nil {
		t.Errorf("a host of 253 characters: %v", err)
	}
}
