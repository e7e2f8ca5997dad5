package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// Every testdata/NAME.bad.yaml has a NAME.bad.txt with the exact words.
func TestParseBad(t *testing.T) {
	files := glob(t, "testdata/*.bad.yaml")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := Parse(filepath.Base(file), readFile(t, file))
			if err == nil {
				t.Fatal("Parse took it")
			}
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("error is a %T", err)
			}
			want := strings.TrimRight(string(readFile(t, strings.TrimSuffix(file, "yaml")+"txt")), "\n")
			if got := err.Error(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// good is what each testdata/NAME.good.yaml changes in the default.
var good = map[string]func(*Config){
	"comments-only": func(*Config) {},
	"empty-sections": func(c *Config) {
		c.Plugins.Resolver.Pos = Position{"empty-sections.good.yaml", 10, 12}
	},
	"spec": func(c *Config) {
		c.Workers.StartupDelay = 100 * time.Millisecond
		c.Workers.RestartDelay = 100 * time.Millisecond
		c.Workers.Paths = []PathOverride{{
			Path: "/api",
			keys: []string{"go_max_procs", "go_mem_limit", "idle_timeout_seconds", "max_requests", "read_timeout_seconds", "write_timeout_seconds"},
			worker: Worker{
				GoMaxProcs: 2, MaxRequests: 5000, GoMemLimit: "256MiB",
				ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute,
			},
		}}
	},
	"metrics-elsewhere": func(c *Config) {
		c.Server.Host, c.Server.Metrics = "127.0.0.1", "10.0.0.1:8080"
	},
	"instances": func(c *Config) {
		c.Workers.Default.Instances = Instances{1, 4}
		c.Workers.Paths = []PathOverride{
			{Path: "/api", keys: []string{"instances"}, worker: Worker{Instances: Instances{3, 3}}},
			{Path: "/chat", keys: []string{"instances"}, worker: Worker{Instances: Instances{2, 2}}},
			{Path: "/more", keys: []string{"instances"}, worker: Worker{Instances: Instances{1, max(2, runtime.NumCPU())}}},
		}
	},
	"slow": func(c *Config) { c.Server.FastLane = false },
	"everything": func(c *Config) {
		host, empty := "db.local", ""
		c.Server = Server{
			Host: "::1", Port: 80,
			ReadTimeout: 1 * time.Second, WriteTimeout: 2 * time.Second, IdleTimeout: 3 * time.Second,
			ShutdownTimeout: 4 * time.Second, LogLevel: "trace", Metrics: "[::1]:8180", StateDir: "/var/lib/tqserver", FastLane: true,
			TrustedProxies: []netip.Prefix{
				netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.1.7/32"),
				netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("127.0.0.1/32"),
			},
		}
		c.Workers = Workers{
			TempDir: "/srv/bin", PortRangeStart: 20000, PortRangeEnd: 20000,
			StartupDelay: 5 * time.Millisecond, RestartDelay: 6 * time.Millisecond,
			ShutdownGracePeriod: 7 * time.Millisecond, ReadyTimeout: 8 * time.Millisecond,
			DrainTimeout: 9 * time.Millisecond, HoldTimeout: 0, HoldRequests: 11,
			BinaryMaxAge: 12 * time.Hour, KeepReleases: 29, KeepWarm: 30 * time.Millisecond, Probation: 31 * time.Millisecond,
			Default: Worker{
				Instances: Instances{3, 3}, MaxInFlight: 32, QueueTimeout: 33 * time.Millisecond, QueueRequests: 34, SlowStart: 35 * time.Millisecond,
				GoMaxProcs: 0, MaxRequests: 13,
				ReadTimeout: 14 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: 16 * time.Second, StreamIdleTimeout: 36 * time.Second,
				GoMemLimit: "1073741824", Endpoint: TCP, LogFile: "w.log",
				Env: map[string]*string{"DB_HOST": &host, "HOME": nil, "EMPTY": &empty},
			},
		}
		c.FileWatcher = FileWatcher{Debounce: 17 * time.Millisecond, Ignore: []string{"*.bak", "**/tmp"}}
		c.Pages.Directory = "/srv/pages"
		at := func(line, column int) Position {
			return Position{File: "everything.good.yaml", Line: line, Column: column}
		}
		yes, debug := "true", "1"
		c.Plugins = Plugins{
			Resolver: Plugin{
				Use: "./bin/vhost", SHA256: strings.Repeat("0123456789abcdef", 4),
				Env: map[string]*string{"DEBUG": &debug, "FAST": &yes}, Pos: at(55, 5),
			},
			Watcher: Plugin{Use: "builtin:fsnotify", Pos: at(60, 13)},
			Checker: Plugin{Use: "builtin:http", Pos: at(61, 13)},
			Rotator: Plugin{Use: "builtin:syslog-2", Pos: at(62, 12)},
			Builder: []Plugin{
				{Use: "builtin:go", Match: []string{"**/main.go"}, Pos: at(64, 7)},
				{Use: "/opt/bun", Pos: at(65, 7)},
			},
			StartTimeout: 18 * time.Millisecond, RPCTimeout: 19 * time.Millisecond, StopTimeout: 20 * time.Millisecond, Probation: 27 * time.Millisecond, BuildTimeout: 28 * time.Millisecond,
			Restart: Restart{
				Initial: 21 * time.Millisecond, Max: 22 * time.Millisecond, ResetAfter: 23 * time.Millisecond,
				Budget: 24, Per: 25 * time.Millisecond, DegradedRetry: 26 * time.Millisecond,
			},
		}
	},
}

func TestParseGood(t *testing.T) {
	files := glob(t, "testdata/*.good.yaml")
	if len(files) != len(good) {
		t.Errorf("%d files for %d expectations", len(files), len(good))
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			got, err := Parse(name, readFile(t, file))
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			want.File = name
			good[strings.TrimSuffix(name, ".good.yaml")](want)
			// The config of the checker in everything.good.yaml has a test of its own.
			got.Plugins.Checker.Config = nil
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got\n%+v\nwant\n%+v", got, want)
			}
		})
	}
}

func TestPluginConfigKeepsItsPlace(t *testing.T) {
	const file = "testdata/everything.good.yaml"
	c, err := Parse(file, readFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	node := c.Plugins.Checker.Config
	if node == nil || node.Kind != yaml.MappingNode {
		t.Fatalf("config is %+v, want a mapping", node)
	}
	if key := node.Content[0]; key.Value != "interval_ms" || key.Line != 61 || key.Column != 23 {
		t.Errorf("first key is %q at %d:%d, want interval_ms at 61:23", key.Value, key.Line, key.Column)
	}
	if c.Plugins.Watcher.Config != nil || c.Plugins.Rotator.Config != nil {
		t.Error("an absent or null config is not nil")
	}
}

func TestBuilderAsOneMapping(t *testing.T) {
	c, err := Parse("", []byte(`plugins: {builder: {config: {tags: [x]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	b := c.Plugins.Builder
	if len(b) != 1 || b[0].Use != "builtin:go" || b[0].Config == nil {
		t.Errorf("builder is %+v, want builtin:go with a config", b)
	}
}

func TestLogFilesCanBeDisabled(t *testing.T) {
	for _, off := range []string{"~", "null", `""`, `"~"`, ""} {
		text := "server: {log_file: " + off + "}\nworkers:\n  default: {log_file: " + off + "}\n"
		c, err := Parse("", []byte(text))
		if err != nil {
			t.Errorf("log_file: %s: %v", off, err)
			continue
		}
		if c.Server.LogFile != "" || c.Workers.For("/").LogFile != "" {
			t.Errorf("log_file: %s leaves %q and %q", off, c.Server.LogFile, c.Workers.For("/").LogFile)
		}
	}
}

func TestParseRefusesLargeFile(t *testing.T) {
	line := []byte("# a comment of 32 bytes, with it\n")
	_, err := Parse("big.yaml", slices.Repeat(line, maxSize/len(line)+1))
	want := "big.yaml:1:1: the file is larger than 1 MiB (a configuration is a few KiB; check that this is the file you mean)"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLoadMissing(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, path := range []string{"other.yaml", DefaultPath} {
		_, err := Load(path)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("Load(%s) is %v, want fs.ErrNotExist", path, err)
		}
		abs, _ := filepath.Abs(path)
		for _, word := range []string{path + ": read configuration: open " + abs + ": no such file", "create it", "-config"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not say %q", err, word)
			}
		}
	}
}

func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dir)
	if err == nil || !strings.Contains(err.Error(), "is a directory (check that it is a file") {
		t.Errorf("Load of a directory is %v", err)
	}
}

func TestOpen(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, path := range []string{DefaultPath, "./" + DefaultPath} {
		c, err := Open(path)
		if err != nil || !reflect.DeepEqual(c, Default()) {
			t.Errorf("Open(%s) without the file is %+v, %v, want the default", path, c, err)
		}
	}
	abs, _ := filepath.Abs("server.yaml")
	if _, err := Open(abs); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of another missing file is %v, want fs.ErrNotExist", err)
	}
	writeFile(t, abs, "server: {port: 1}")
	for _, path := range []string{abs, "server.yaml"} {
		c, err := Open(path)
		if err != nil || c.Server.Port != 1 || c.File != path {
			t.Errorf("Open(%s) is %+v, %v", path, c, err)
		}
	}
	writeFile(t, DefaultPath, "server: {port: 0}")
	if _, err := Open(DefaultPath); err == nil {
		t.Error("Open took the default in place of a bad file")
	}
}

func TestOpenRefusesDanglingLink(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("config", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere.yaml", DefaultPath); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(DefaultPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a dangling link is %v, want fs.ErrNotExist", err)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	return files
}

func readFile(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
