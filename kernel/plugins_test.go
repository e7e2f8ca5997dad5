package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// pluginKernel is a kernel whose stages run, with actors for plugins: a resolver with one route, and three builders, of which the
// last is idle.
func pluginKernel(t *testing.T, change ...func(*config.Config)) *Kernel {
	t.Helper()
	act := func(env ...string) config.Plugin {
		p := config.Plugin{Use: "builtin:actor", Env: map[string]*string{"KERNEL_TEST_PLUGIN": ptr("actor"), "GORACE": ptr("atexit_sleep_ms=0")}}
		for _, kv := range env {
			name, value, _ := strings.Cut(kv, "=")
			p.Env[name] = &value
		}
		return p
	}
	k := testKernel(t, append([]func(*config.Config){func(c *config.Config) {
		p := &c.Plugins
		p.Resolver, p.Watcher, p.Checker, p.Rotator = act("ROUTES=1"), act(), act(), act()
		p.Builder = []config.Plugin{act("N=1"), act("N=2"), act("N=3")}
		p.Builder[2].Match = []string{"*.x"}
	}}, change...)...)
	run, err := os.MkdirTemp("/tmp", "tqk") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	k.site.run = run
	k.opts.Builtins = func(string) []string { return []string{"actor"} }
	if k.stages, err = newStages(k, k.config()); err != nil {
		t.Fatal(err)
	}
	lives := newLives()
	k.stages.start(context.Background(), lives)
	t.Cleanup(func() {
		k.stages.end(lives, append([]string{"builder"}, single...)...)
		os.RemoveAll(run)
	})
	for _, r := range k.stages.running() {
		if r.idle {
			continue
		}
		awaitStage(t, r.sup, "to run", func(st stage.Status) bool { return st.State == stage.Running })
	}
	return k
}

// pids lists the processes of the plugins, in the order of the status.
func pids(k *Kernel) (all []int) {
	for _, st := range k.stages.status() {
		all = append(all, st.PID)
	}
	return all
}

// replacedOnes tells which plugins run in another process than before.
func replacedOnes(k *Kernel, before []int) (names []string) {
	for i, st := range k.stages.status() {
		if st.PID != before[i] {
			names = append(names, st.Stage)
		}
	}
	return names
}

func TestReloadPluginsReportsEachOutcome(t *testing.T) {
	t.Parallel()
	k := pluginKernel(t)
	inForce(k, 4)
	before := pids(k)
	got := k.ReloadPlugins(t.Context(), []string{"resolver", "builder", "nope"}, false)
	built := control.PluginOutcome{Stage: "builder", Plugin: "builtin:actor"}
	if len(got) != 5 || got[0].Stage != "nope" || !strings.Contains(got[0].Error, "no such stage") ||
		got[1].Stage != "resolver" || !strings.Contains(got[1].Error, "less than half") ||
		!slices.Equal(got[2:], []control.PluginOutcome{built, built, built}) {
		t.Errorf("got %+v", got)
	}
	if names := replacedOnes(k, before); !slices.Equal(names, []string{"builder", "builder"}) {
		t.Errorf("replaced are %q", names)
	}
	before = pids(k)
	for _, o := range k.ReloadPlugins(t.Context(), nil, true) {
		if o.Error != "" {
			t.Errorf("by force: %+v", o)
		}
	}
	if names := replacedOnes(k, before); len(names) != 6 {
		t.Errorf("replaced are %q", names)
	}
	if st := k.stages.status()[3]; st.State != "idle" {
		t.Errorf("the idle builder is %s", st.State)
	}
	k.stop()
	for _, o := range k.ReloadPlugins(t.Context(), nil, false) {
		if !strings.Contains(o.Error, "is stopping") {
			t.Errorf("while it stops: %+v", o)
		}
	}
}

// syncLog is a log that is read while it is written.
type syncLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncLog) Write(p []byte) (int, error) { s.mu.Lock(); defer s.mu.Unlock(); return s.b.Write(p) }
func (s *syncLog) String() string              { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

func TestChangedFileReplacesItsPluginOnly(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "checker")
	write := func(turn string, mode os.FileMode) {
		t.Helper()
		script := fmt.Sprintf("#!/bin/sh\n# %s\nKERNEL_TEST_PLUGIN=actor GORACE=atexit_sleep_ms=0 exec %s\n", turn, self)
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("one", 0o700)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	k := pluginKernel(t, func(c *config.Config) {
		c.File, c.Plugins.Checker = filepath.Join(dir, "server.yaml"), config.Plugin{Use: link}
	})
	log := &syncLog{}
	k.log = hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: log, Level: hclog.Warn})
	known := k.files.present().Known
	for _, path := range []string{file, link} {
		if _, ok := known[path]; !ok {
			t.Errorf("%s is not watched: %v", path, known)
		}
	}
	warned := map[string]string{}
	before := pids(k)
	k.replaceThoseThatDiffer(t.Context(), warned)
	write("two", 0o600)
	for range 2 {
		k.replaceThoseThatDiffer(t.Context(), warned)
	}
	if names := replacedOnes(k, before); len(names) > 0 {
		t.Errorf("replaced are %q", names)
	}
	if got := strings.Count(log.String(), "the changed plugin is not used"); got != 1 || !strings.Contains(log.String(), "is not executable") ||
		!strings.Contains(log.String(), "tqserver plugin reload checker") {
		t.Errorf("%d warnings:\n%s", got, log)
	}
	write("two", 0o700)
	k.replaceThoseThatDiffer(t.Context(), warned)
	if names := replacedOnes(k, before); !slices.Equal(names, []string{"checker"}) {
		t.Errorf("replaced are %q", names)
	}
	second, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lock := stage.Lock{File: stage.LockPath(k.config().File), Plugins: map[string]stage.Locked{link: {Name: "actor", Version: "1",
		SHA256: map[string]string{stage.Platform(): fmt.Sprintf("%x", sha256.Sum256(second))}}}}
	if err := lock.Write(); err != nil {
		t.Fatal(err)
	}
	before = pids(k)
	write("three", 0o700)
	k.replaceThoseThatDiffer(t.Context(), warned)
	if names := replacedOnes(k, before); len(names) > 0 || !strings.Contains(log.String(), "tqserver plugin lock") {
		t.Errorf("against the lock replaced are %q", names)
	}
	third, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lock.Plugins[link].SHA256[stage.Platform()] = fmt.Sprintf("%x", sha256.Sum256(third))
	if err := lock.Write(); err != nil {
		t.Fatal(err)
	}
	k.replaceThoseThatDiffer(t.Context(), warned)
	if names := replacedOnes(k, before); !slices.Equal(names, []string{"checker"}) {
		t.Errorf("with the lock replaced are %q", names)
	}
	copies, err := filepath.Glob(filepath.Join(k.site.state, "plugins", "*", "plugin"))
	if err != nil || len(copies) != 2 {
		t.Errorf("kept for the way back are %q, %v", copies, err)
	}
}

// An event about a plugin's file wakes who replaces plugins, not who reloads the configuration.
func TestEventsOfPluginFiles(t *testing.T) {
	k := testKernel(t, func(c *config.Config) {
		c.File = filepath.Join(t.TempDir(), "server.yaml")
		c.Plugins.Rotator = config.Plugin{Use: "./bin/rotator"}
	})
	taken := func(ch chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	var work sync.WaitGroup
	for i, c := range []struct {
		path             string
		edited, replaced bool
	}{
		{path: k.site.abs("bin/rotator"), replaced: true},
		{path: filepath.Join(filepath.Dir(k.files.config), "plugins.lock"), replaced: true},
		{path: k.files.config, edited: true},
		{path: k.site.abs("bin/other")},
	} {
		k.filesChanged(t.Context(), &work, sdk.ChangeSet{Changes: []sdk.Change{{Path: c.path, Op: sdk.Modified, Digest: fmt.Sprint(i)}}})
		if edited, replaced := taken(k.files.edited), taken(k.files.plugins); edited != c.edited || replaced != c.replaced {
			t.Errorf("%s: configuration %v, plugins %v", c.path, edited, replaced)
		}
	}
	work.Wait()
}

func TestQuietMeansThatNobodyWrites(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	seen := map[string]bool{stamps([]string{file}): true}
	for _, content := range []string{"a", "ab"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		seen[stamps([]string{file})] = true
	}
	if err := os.Chmod(file, 0o700); err != nil {
		t.Fatal(err)
	}
	seen[stamps([]string{file})] = true
	if len(seen) != 4 || !seen[stamps([]string{file})] {
		t.Errorf("states %v", seen)
	}
}

func TestBuildersFollowEachOther(t *testing.T) {
	b := func(id, name string, match ...string) *builder {
		return &builder{life: id, spec: stage.Spec{Name: name, Path: id}, entry: config.Plugin{Match: match}}
	}
	for name, c := range map[string]struct {
		have, next []*builder
		want       string // next's names with the life of the one that they follow
		left       int
	}{
		"the same":            {[]*builder{b("1", "go"), b("2", "ts", "*.ts")}, []*builder{b("2", "ts", "*.ts"), b("1", "go")}, "ts<2 go<1", 0},
		"another file":        {[]*builder{b("1", "./x"), b("2", "./y")}, []*builder{b("9", "./y"), b("8", "./x")}, "./y<2 ./x<1", 0},
		"another plugin":      {[]*builder{b("1", "go")}, []*builder{b("9", "./x")}, "./x<1", 0},
		"other pages":         {[]*builder{b("1", "go")}, []*builder{b("1", "go", "*.go")}, "go<1", 0},
		"one more":            {[]*builder{b("1", "go")}, []*builder{b("3", "./ts", "*.ts"), b("1", "go")}, "./ts< go<1", 0},
		"one less":            {[]*builder{b("1", "ts", "*.ts"), b("2", "go")}, []*builder{b("2", "go")}, "go<2", 1},
		"the first of a name": {[]*builder{b("1", "go", "a"), b("2", "go", "b")}, []*builder{b("9", "go", "c")}, "go<1", 1},
	} {
		follows, left := succeed(c.have, c.next)
		var got []string
		for _, n := range c.next {
			id := ""
			if old := follows[n]; old != nil {
				id = old.life
			}
			got = append(got, n.spec.Name+"<"+id)
		}
		if strings.Join(got, " ") != c.want || len(left) != c.left {
			t.Errorf("%s: %q, %d left", name, got, len(left))
		}
	}
}

// What a new resolver serves is not to be seen before it is certain that the whole configuration is taken.
func TestResolverTakesOverLast(t *testing.T) {
	t.Parallel()
	k := pluginKernel(t)
	inForce(k, 1)
	next := *k.config()
	next.Plugins.Resolver.Env = maps.Clone(next.Plugins.Resolver.Env)
	next.Plugins.Resolver.Env["OTHER"] = ptr("1")
	next.Plugins.Watcher.Env = maps.Clone(next.Plugins.Watcher.Env)
	next.Plugins.Watcher.Env["MUTE"] = ptr("1")
	before := pids(k)
	pl, err := k.plan(&next)
	if err == nil {
		err = k.stages.apply(t.Context(), pl, k.stageOptions(&next), "")
	}
	if err == nil || !strings.Contains(err.Error(), "watcher plugin builtin:actor: trial") {
		t.Errorf("a mute watcher: %v", err)
	}
	if names := replacedOnes(k, before); len(names) > 0 {
		t.Errorf("replaced, and back again, are %q", names)
	}
}

// A tool that runs beside the server executes copies of its own making.
func TestCopiesStayWhileAToolIsAtWork(t *testing.T) {
	t.Parallel()
	k := pluginKernel(t)
	copied := k.site.path("plugins/0123")
	if err := os.MkdirAll(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	tool, err := openSite(k.site.root, &config.Config{Server: config.Server{StateDir: k.site.state}, Workers: config.Workers{TempDir: t.TempDir()}}, false)
	if err != nil {
		t.Fatal(err)
	}
	k.stages.prune()
	if _, err := os.Stat(copied); err != nil {
		t.Errorf("while the tool is at work: %v", err)
	}
	child, err := syscall.Dup(int(tool.lock.Fd())) // as a process has it between its fork and its exec
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(child)
	if err := tool.close(); err != nil {
		t.Fatal(err)
	}
	k.stages.prune()
	if _, err := os.Stat(copied); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("when it has ended: %v", err)
	}
}
