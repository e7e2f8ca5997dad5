package stage

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/config"
)

const script = "#!/bin/sh\n"

// lockedSite is a site with the plugin ./plug and a lock that has this hash of it for a platform.
func lockedSite(t *testing.T, platform, sum string) ResolveOptions {
	t.Helper()
	o := site(t)
	o.Lock = &Lock{File: "config/plugins.lock", Plugins: map[string]Locked{"./plug": {Name: "plug", Version: "1", SHA256: map[string]string{platform: sum}}}}
	if err := os.WriteFile(filepath.Join(o.Root, "plug"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestResolveHonoursTheLock(t *testing.T) {
	good, other := hash(script), hash("other")
	for name, c := range map[string]struct {
		platform, locked string
		entry            string // of the configuration
		want             string // "": resolved
	}{
		"locked":            {Platform(), good, `{use: ./plug}`, ""},
		"locked and pinned": {Platform(), good, `{use: ./plug, sha256: "` + strings.ToUpper(good) + `"}`, ""},
		"pinned only":       {"plan9/mips", other, `{use: ./plug, sha256: "` + good + `"}`, ""},
		"differs":           {Platform(), other, `{use: ./plug}`, "plugins.rotator.use: rotator plugin ./plug: the file's hash is " + good + ", config/plugins.lock has, for " + Platform() + ", " + other + " (if you trust the file as it is now, run `tqserver plugin lock`)"},
		"other platform":    {"plan9/mips", good, `{use: ./plug}`, "config/plugins.lock has no hash of it for " + Platform() + " (run `tqserver plugin lock` here"},
		"not locked":        {Platform(), good, `{use: ././plug}`, "it is not in config/plugins.lock (run `tqserver plugin lock` after checking that you trust the file)"},
		"no such file":      {Platform(), good, `{use: ./none}`, "there is no file "},
		"lock and pin differ": {Platform(), good, `{use: ./plug, sha256: "` + other + `"}`,
			"plugins.rotator.sha256: rotator plugin ./plug: configured is " + other + ", config/plugins.lock has, for " + Platform() + ", " + good},
	} {
		t.Run(name, func(t *testing.T) {
			o := lockedSite(t, c.platform, c.locked)
			spec, err := Resolve("rotator", parse(t, "  rotator: "+c.entry+"\n").Rotator, o)
			if c.want == "" {
				if err != nil || spec.SHA256 != good {
					t.Errorf("%+v, %v", spec, err)
				}
				return
			}
			var e *config.Error
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &e) || e.Line != 2 || e.Hint == "" {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(o.StateDir, "plugins", "*", "*")); len(left) > 0 {
				t.Errorf("a refused file was kept: %v", left)
			}
		})
	}
}

// A file that is replaced after the check is not what is executed, neither to describe itself nor to run.
func TestReplacedAfterTheCheck(t *testing.T) {
	text := printing(`{"name":"checked","version":"1","services":["tqserver.plugin.rotator.v1.Rotator"],"protocol":1}`)
	o := lockedSite(t, Platform(), hash(text))
	plug := filepath.Join(o.Root, "plug")
	if err := os.WriteFile(plug, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	p := parse(t, "  rotator: {use: ./plug}\n").Rotator
	spec, err := Resolve("rotator", p, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plug, []byte(printing(`{"name":"replaced","services":["x"]}`)), 0o755); err != nil {
		t.Fatal(err)
	}
	if d, err := Describe(t.Context(), spec); err != nil || d.Name != "checked" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := Resolve("rotator", p, o); err == nil || !strings.Contains(err.Error(), "the file's hash is") {
		t.Errorf("the replaced file: %v", err)
	}
}

func TestLockIsReadAsItWasWritten(t *testing.T) {
	l := &Lock{File: filepath.Join(t.TempDir(), "plugins.lock"), Plugins: map[string]Locked{}}
	read := func() *Lock {
		t.Helper()
		if err := l.Write(); err != nil {
			t.Fatal(err)
		}
		got, err := ReadLock(l.File)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := read(); got == nil || len(got.Plugins) != 0 {
		t.Errorf("an empty lock: %+v", got)
	}
	digits := "1" + strings.Repeat("0", 10) + "e5" + strings.Repeat("1", 51) // a number, were it not quoted
	l.Plugins = map[string]Locked{
		"./b":                      {Name: "b", Version: "1.0", SHA256: map[string]string{"linux/amd64": digits, "darwin/arm64": hash("b")}},
		"../a: \"x\"\\ \u00e9 #\t": {Name: "yes", SHA256: map[string]string{"linux/amd64": hash("a")}},
	}
	got := read()
	if !reflect.DeepEqual(got, l) {
		t.Errorf("got %+v\nwant %+v", got, l)
	}
	text := string(got.Text())
	if strings.Index(text, "../a") > strings.Index(text, "./b") || strings.Index(text, "darwin") > strings.Index(text, `linux/amd64: "10`) {
		t.Errorf("not sorted:\n%s", text)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(l.File), "*")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	info, err := os.Stat(l.File)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if none, err := ReadLock(l.File + "x"); none != nil || err != nil {
		t.Errorf("no file: %v, %v", none, err)
	}
}

func TestReadLockSaysWhatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plugins.lock")
	plug := "plugins:\n  \"./x\":\n    name: \"x\"\n    version: \"1\"\n    sha256:\n"
	sum := `      linux/amd64: "` + hash("x") + "\"\n"
	for text, want := range map[string]string{
		"":                                   "plugins.lock:1:1: the file is empty (restore the file from version control",
		"# nothing\n":                        "plugins.lock:1:1: the file is empty",
		"- a\n":                              "plugins.lock:1:1: must be a mapping",
		"{}\n":                               "plugins.lock:1:1: plugins: is missing",
		"plugins: [a]\n":                     "plugins.lock:1:10: plugins: must be a mapping",
		"plugins: {}\nplugin: {}\n":          `plugins.lock:2:1: plugin: unknown key "plugin" (did you mean "plugins"?)`,
		plug + sum + "    hash: a\n":         `plugins.lock:7:5: plugins../x.hash: unknown key "hash"`,
		plug + sum + sum:                     `plugins.lock:7:7: plugins../x.sha256.linux/amd64: is given twice`,
		plug + "      linux/amd64: \"12\"\n": `plugins.lock:6:20: plugins../x.sha256.linux/amd64: must be 64 hexadecimal digits in lower case, not "12"`,
		plug + "      linux: \"" + hash("x") + "\"\n": `"linux" is no platform, such as linux/amd64`,
		plug + "      linux/amd64: 12\n":              "must be text in quotes",
		"plugins:\n  ./x: {name: x}\n":                "plugins.lock:2:8: plugins../x.version: is missing",
		"plugins: {}\n---\nplugins: {}\n":             "plugins.lock:2:1: a second document starts here",
		"<<<<<<< HEAD\nplugins: {}\n=======\n":        "plugins.lock:2:1: read YAML: ",
		"plugins: {\n":                                "read YAML: ",
		"plugins: &a {x: *a}\n":                       "plugins.lock:1:17: plugins.x: must be a mapping",
		strings.Repeat("# a\n", 1<<18+1):              "the file is larger than 1 MiB",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := ReadLock(path)
		var errs config.Errors
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &errs) || !strings.HasPrefix(err.Error(), path+":") {
			t.Errorf("%.200q\ngot  %v\nwant %s", text, err, want)
		}
	}
	if err := errors.Join(os.Remove(path), os.Symlink("nowhere", path)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLock(path); err == nil || !strings.Contains(err.Error(), "read lock file: ") {
		t.Errorf("a link that leads nowhere: %v", err)
	}
}

// FuzzLock: whatever is taken for a lock is the same lock when it is written and read again.
func FuzzLock(f *testing.F) {
	l := Lock{Plugins: map[string]Locked{"./x": {Name: "x", Version: "1", SHA256: map[string]string{"linux/amd64": hash("x")}}}}
	f.Add(l.Text())
	f.Add([]byte("plugins: {}"))
	f.Add([]byte("plugins: {a: &x {name: *x}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		one, err := parseLock("f", text)
		if err != nil {
			return
		}
		two, err := parseLock("f", one.Text())
		if err != nil || !maps.EqualFunc(one.Plugins, two.Plugins, func(a, b Locked) bool { return reflect.DeepEqual(a, b) }) {
			t.Errorf("%q\ngives %q\n%v", text, one.Text(), err)
		}
	})
}
