package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func TestShippedFileIsTheDefault(t *testing.T) {
	c, err := Parse("", DefaultYAML)
	if err != nil {
		t.Fatal(err)
	}
	p := &c.Plugins
	for _, plugin := range []*Plugin{&p.Resolver, &p.Watcher, &p.Checker, &p.Rotator, &p.Builder[0], &p.Builder[1]} {
		if plugin.Pos.Line == 0 {
			t.Errorf("%s is not in the file", plugin.Use)
		}
		plugin.Pos = Position{}
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("server.yaml gives\n%+v\nDefault is\n%+v", c, Default())
	}
}

func TestDefaultIsNew(t *testing.T) {
	Default().Plugins.Builder[1].Use = "changed"
	if got := Default().Plugins.Builder[1].Use; got != defaultBuilder {
		t.Errorf("a change to one default shows in the next: %s", got)
	}
}

// The keys that the decoder takes are those of the shipped file, but for what
// only some plugins need.
func TestShippedFileHasEveryKey(t *testing.T) {
	d := &decoder{at: map[string]*yaml.Node{}}
	docs, err := parseYAML(DefaultYAML)
	if err != nil {
		t.Fatal(err)
	}
	check := func(section string, known fields, absent ...string) {
		var given []string
		for _, k := range Keys() {
			if rest, ok := strings.CutPrefix(k.Name, section+"."); ok {
				name, _, _ := strings.Cut(rest, ".")
				if !slices.Contains(given, name) {
					given = append(given, name)
				}
			}
		}
		want := slices.DeleteFunc(known.names(), func(n string) bool { return slices.Contains(absent, n) })
		if !slices.Equal(given, want) {
			t.Errorf("server.yaml has in %s the keys\n%q, the decoder\n%q", section, given, want)
		}
	}
	c := Default()
	check("server", c.Server.fields())
	check("workers", c.Workers.fields())
	check("workers.default", c.Workers.Default.fields())
	check("plugins", c.Plugins.fields())
	check("plugins.resolver", c.Plugins.Resolver.fields(), "sha256", "env", "config")
	check("plugins.defaults.restart", c.Plugins.Restart.fields())

	section(c.fields())(d, docs[0].Content[0])
	for _, k := range Keys() {
		if d.at[k.Name] == nil {
			t.Errorf("%s in server.yaml was not read", k.Name)
		}
	}
}

func TestKeys(t *testing.T) {
	keys := map[string]Key{}
	for _, k := range Keys() {
		if k.Doc == "" || strings.Contains(k.Doc, "#") || k.Type == "" || k.Default == "" {
			t.Errorf("incomplete: %+v", k)
		}
		if strings.Contains(k.Doc, "(restart)") == k.Reload {
			t.Errorf("%s: the comment and Reload %v do not agree", k.Name, k.Reload)
		}
		keys[k.Name] = k
	}
	for _, want := range []Key{
		{"server.port", "int", "8080", "HTTP port, 1 to 65535, outside the range of worker ports (restart)", false},
		{"server.log_file", "string", `"logs/server_{date}.log"`, `takes {date}; ~, null or "" = no log file`, true},
		{"workers.paths", "mapping", "{}", "settings for some paths, by path", true},
		{"plugins.builder", "list", `[{use: 'builtin:exec', match: ["**/page.yaml"]}, {use: 'builtin:go'}]`,
			"page source to release; one entry or a list of them, which replaces this one", true},
	} {
		if got := keys[want.Name]; got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	if got := keys["server.trusted_proxies"]; got.Type != "list" || got.Default != "[]" {
		t.Errorf("trusted_proxies is %+v", got)
	}
}
