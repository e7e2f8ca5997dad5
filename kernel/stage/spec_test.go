package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/config"
)

func parse(t *testing.T, plugins string) config.Plugins {
	t.Helper()
	c, err := config.Parse("config/server.yaml", []byte("plugins:\n"+plugins))
	if err != nil {
		t.Fatal(err)
	}
	return c.Plugins
}

func site(t *testing.T) ResolveOptions {
	t.Helper()
	root := t.TempDir()
	return ResolveOptions{Root: root, StateDir: filepath.Join(root, ".tqserver"),
		Builtins: func(stage string) []string {
			return map[string][]string{"watcher": {"fsnotify", "poll"}, "checker": {"http"}}[stage]
		},
		Environ: []string{"PATH=/bin", "SECRET=x", "COLOUR=blue"}}
}

func TestResolveBuiltin(t *testing.T) {
	p := parse(t, "  watcher: {use: \"builtin:poll\", env: {COLOUR: ~, SIZE: big}, config: {every_ms: 50, dirs: [a, 2026-01-02], deep: {on: true, off: ~}}}\n")
	o := site(t)
	got, err := Resolve("watcher", p.Watcher, o)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "linux" && got.Path != "/proc/self/exe" || got.Name != "builtin:poll" || got.Stage != "watcher" || got.Dir != o.Root ||
		!slices.Equal(got.Args, []string{"plugin", "run", "watcher/poll"}) || !slices.Equal(got.Env, []string{"COLOUR=blue", "PATH=/bin", "SIZE=big"}) ||
		string(got.Config) != `{"deep":{"off":null,"on":true},"dirs":["a","2026-01-02"],"every_ms":50}` {
		t.Errorf("%+v\nconfig %s", got, got.Config)
	}
	if other, err := Resolve("checker", parse(t, "  checker: {use: \"builtin:http\"}\n").Checker, o); err != nil || other.Config != nil {
		t.Errorf("%+v, %v", other, err)
	}
}

func TestResolveSaysWhatIsWrong(t *testing.T) {
	o := site(t)
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(o.Root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("bin/data", 0o644)
	file("bin/open", 0o777)
	file("shared/tool", 0o755)
	file("bin/good", 0o755)
	if err := os.Chmod(filepath.Join(o.Root, "shared"), 0o777); err != nil {
		t.Fatal(err)
	}
	for entry, want := range map[string]string{
		`{use: "builtin:fsnotfy"}`: `config/server.yaml:2:12: plugins.watcher.use: watcher plugin builtin:fsnotfy: there is no built-in plugin of this name (did you mean builtin:fsnotify? built in are: builtin:fsnotify, builtin:poll)`,
		`{use: ./bin/none}`:        `watcher plugin ./bin/none: there is no file `,
		`{use: ./bin/data}`:        `is not executable (chmod +x `,
		`{use: ./bin/open}`:        `every user may change `,
		`{use: ./shared/tool}`:     `every user may replace files in `,
		`{use: ./bin}`:             `is not a regular file`,
		`{use: ./bin/good, sha256: ` + hash("other") + `}`: `plugins.watcher.sha256: watcher plugin ./bin/good: the file's hash is ` + hash("#!/bin/sh\n") + `, configured is ` + hash("other"),
		`{use: "builtin:poll", config: {x: .nan}}`:         `plugins.watcher.config: watcher plugin builtin:poll: line 2: .nan cannot be passed to a plugin`,
	} {
		_, err := Resolve("watcher", parse(t, "  watcher: "+entry+"\n").Watcher, o)
		var e *config.Error
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &e) || e.Line != 2 || e.Hint == "" {
			t.Errorf("%s\ngot  %v\nwant %s", entry, err, want)
		}
	}
	if _, err := Resolve("rotator", config.Plugin{Use: "builtin:file"}, o); err == nil || !strings.Contains(err.Error(), "default configuration: plugins.rotator.use") || !strings.Contains(err.Error(), "no plugin for this stage is built in") {
		t.Errorf("got %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(o.StateDir, "plugins", ".copy-*"))
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestCustomPluginRunsFromItsPrivateCopy(t *testing.T) {
	t.Parallel()
	o := site(t)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(o.Root, "my-plugin")
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := hash(string(self))
	p := parse(t, "  builder: {use: ./my-plugin, sha256: "+strings.ToUpper(sum)+", env: {"+modeVar+": good, GORACE: atexit_sleep_ms=0}}\n").Builder[0]
	spec, err := Resolve("builder", p, o)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(o.StateDir, "plugins", sum, "plugin"); spec.Path != want {
		t.Errorf("path %s, want %s", spec.Path, want)
	}
	for path, want := range map[string]os.FileMode{spec.Path: 0o500, filepath.Dir(spec.Path): 0o700, filepath.Join(o.StateDir, "plugins"): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if err := os.WriteFile(path, []byte("something else"), 0o755); err != nil { // after the check
		t.Fatal(err)
	}
	b := newBench(t)
	if err := Validate(t.Context(), spec, b.options); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if again, err := Resolve("builder", p, o); err != nil || !again.sameProcess(&spec) {
		t.Errorf("%+v, %v", again, err)
	}
	for _, name := range []string{"0123", ".copy-1"} {
		if err := os.MkdirAll(filepath.Join(o.StateDir, "plugins", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := Prune(o.StateDir, spec); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(o.StateDir, "plugins")); len(left) != 1 || left[0].Name() != sum {
		t.Errorf("left: %v", left)
	}
	if err := Prune(t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestEnviron(t *testing.T) {
	blue, empty := "blue", ""
	environ := []string{"PATH=/bin", "HOME=/h", "LC_ALL=C", "SSL_CERT_FILE=/c", "GOFLAGS=-x", "CGO_ENABLED=1", "https_proxy=p", "AWS_SECRET=s",
		"GIT_DIR=g", "TOKEN=t", "PATHS=no", "WITH=a=b", "TQSERVER_PLUGIN=x", "broken"}
	for _, c := range []struct {
		stage string
		extra map[string]*string
		want  string
	}{
		{"watcher", nil, "HOME=/h LC_ALL=C PATH=/bin SSL_CERT_FILE=/c"},
		{"builder", nil, "CGO_ENABLED=1 GOFLAGS=-x HOME=/h LC_ALL=C PATH=/bin SSL_CERT_FILE=/c https_proxy=p"},
		{"watcher", map[string]*string{"COLOUR": &blue, "PATH": &empty, "TOKEN": nil, "WITH": nil, "UNSET": nil, "HOME": nil},
			"COLOUR=blue HOME=/h LC_ALL=C PATH= SSL_CERT_FILE=/c TOKEN=t WITH=a=b"},
	} {
		if got := strings.Join(Environ(c.stage, c.extra, environ), " "); got != c.want {
			t.Errorf("%s, %v:\ngot  %s\nwant %s", c.stage, c.extra, got, c.want)
		}
	}
}

func TestConfigErrorsHaveTheirLines(t *testing.T) {
	t.Parallel()
	b, o := newBench(t), site(t)
	o.Builtins = func(string) []string { return []string{"good"} }
	check := func(block string) error {
		spec, err := Resolve("builder", parse(t, "  builder:\n    use: builtin:good\n    config:\n"+block).Builder[0], o)
		if err != nil {
			t.Fatal(err)
		}
		spec.Args, spec.Env = nil, fakeSpec("builder", "good", "").Env
		return Validate(t.Context(), spec, b.options)
	}
	err := check("      greeting: 17\n      times:   0\n      tokn: a\n      zzz: 1\n      token: hunter2\n")
	var errs config.Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %v", err)
	}
	want := `config/server.yaml:5:17: plugins.builder.config.greeting: want a string, got 17
config/server.yaml:6:16: plugins.builder.config.times: want at least 1, got 0
config/server.yaml:7:7: plugins.builder.config.tokn: unknown key "tokn" (did you mean "token"?)
config/server.yaml:8:7: plugins.builder.config.zzz: unknown key "zzz" (known are: greeting, times, token)
config/server.yaml:9:14: plugins.builder.config.token: want one of a, b`
	if errs.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", errs, want)
	}
	if err = check("      greeting: forbidden\n"); !errors.As(err, &errs) || errs.Error() != "config/server.yaml:5:7: plugins.builder.config: this greeting is forbidden" {
		t.Errorf("got %v", err)
	}
	if err = check("      greeting: good day\n"); err != nil {
		t.Error(err)
	}
}
