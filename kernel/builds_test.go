package kernel

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// runBuilder starts a builder that is this binary in another role.
func runBuilder(t *testing.T, k *Kernel, role string) *stage.Supervisor {
	t.Helper()
	limits := config.Default().Plugins
	limits.Restart.Initial, limits.Restart.Max = 10*time.Millisecond, 10*time.Millisecond
	limits.Restart.Budget = 100
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runtime, err := os.MkdirTemp("", "tq")
	if err != nil {
		t.Fatal(err)
	}
	spec := stage.Spec{Stage: "builder", Name: role, Path: self, Dir: k.site.root, Env: []string{"KERNEL_TEST_PLUGIN=" + role}}
	sup := stage.New(spec, stage.Options{RuntimeDir: runtime, Log: hclog.NewNullLogger(), Limits: limits})
	k.stages.builders = []*builder{{spec: spec, sup: sup}}
	lives := newLives()
	lives.start(context.Background(), "builder", sup.Run)
	t.Cleanup(func() { lives.end("builder"); os.RemoveAll(runtime) })
	return sup
}

// A page that brings the builder down with each build gives up, and says so.
func TestBuildThatKillsTheBuilder(t *testing.T) {
	k := testKernel(t)
	sup := runBuilder(t, k, "dying")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := k.build(ctx, sdk.Job{Page: "a", Dir: k.site.root, Source: k.site.root})
	if ctx.Err() != nil || err == nil || !strings.Contains(err.Error(), "3 times in a row") {
		t.Errorf("build: %v, state %s: %s", err, sup.Status().State, sup.Status().LastError)
	}
}

func TestBuildThatNeverEnds(t *testing.T) {
	k := testKernel(t)
	runBuilder(t, k, "stuck")
	c := *k.config()
	c.Plugins.BuildTimeout = 20 * time.Millisecond
	k.cfg.Store(&c)
	_, err := k.build(t.Context(), sdk.Job{Page: "a", Dir: k.site.root, Source: k.site.root})
	if want := "builder plugin stuck has said nothing for 20ms: "; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "build_timeout_ms") {
		t.Errorf("build: %v, want %q", err, want)
	}
}

// A stage whose heartbeat is fine and that says nothing else is told of, unless its answer came.
func TestSilentStageIsTold(t *testing.T) {
	k := testKernel(t)
	log := &syncLog{}
	k.log = hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: log})
	k.stages.resolver = stage.New(stage.Spec{Stage: "resolver", Name: "silent"}, stage.Options{Log: k.log})
	c := *k.config()
	c.Plugins.RPCTimeout = time.Hour
	k.cfg.Store(&c)
	k.expect("watcher", "a first report")()
	c.Plugins.RPCTimeout = time.Millisecond
	k.cfg.Store(&c)
	defer k.expect("resolver", "a table of routes")()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), "a plugin that runs has not sent a table of routes"); {
		if time.Sleep(time.Millisecond); time.Now().After(deadline) {
			t.Fatal("not told")
		}
	}
	if strings.Contains(log.String(), "a first report") {
		t.Error("told of an answer that came")
	}
}

// Whether an artifact lies in its place is asked of the place that the build was given, not of one that a reload has
// set meanwhile.
func TestArtifactIsCheckedAgainstItsJob(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "r", "page")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	sum, err := fileSum(file)
	if err != nil {
		t.Fatal(err)
	}
	report := &buildReport{result: sdk.Result{OK: true, Release: "r", Artifact: file, SHA256: sum}}
	if err := errors.Join(checkPlace(dir, report), checkSum(report.result)); err != nil {
		t.Error(err)
	}
	if err := checkPlace(filepath.Join(dir, "other"), report); err == nil || !strings.Contains(err.Error(), "outside of") {
		t.Errorf("artifact elsewhere: %v", err)
	}
}

// However short the age limit is, nothing is removed that runs, starts, is the last good one or is being made.
func TestCleanKeepsWhatIsNeeded(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.BinaryMaxAge = 0 })
	make := func(name string, age time.Duration) release {
		dir := filepath.Join(*k.site.releases.Load(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "files", "lib"), 0o700); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
		return release{ID: name, Artifact: filepath.Join(dir, "page")}
	}
	p := testPage(t, k, "a")
	make("old", time.Hour)
	make("new", time.Second)
	make(".tmp-build", time.Hour)
	k.good.set("a", make("good", time.Hour))
	p.start(make("starting", time.Hour), restart, time.Hour)
	p.publish()
	k.good.set("gone", make("of a page that is no more", time.Hour))
	k.cleanOnce(time.Now())
	if k.good.get("gone").ID == "" {
		t.Error("releases are forgotten before it is known which pages there are")
	}
	close(k.routes.ready)
	k.cleanOnce(time.Now())
	entries, err := os.ReadDir(*k.site.releases.Load())
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); got != ".tmp-build good new starting" {
		t.Errorf("left are %s", got)
	}
}

// The table of an earlier run answers no tree of this one.
func TestLastTableAnswersNothing(t *testing.T) {
	k := testKernel(t)
	if err := saveJSON(k.site.path("routes.json"), sdk.Table{Epoch: "x", Version: 9, Revision: 500, AllowEmpty: true}); err != nil {
		t.Fatal(err)
	}
	k.lastTable()
	if !k.routes.loaded() {
		t.Fatal("the last table is not in force")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	revision := k.routes.resolve()
	k.routes.resolved(ctx, revision)
	if k.routes.revision >= revision {
		t.Errorf("tree %d counts as answered, by a table of revision %d", revision, k.routes.revision)
	}
}

// A reload of server.log_level is for the console, too.
func TestLogLevelOfTheConsole(t *testing.T) {
	k := testKernel(t)
	var out bytes.Buffer
	k.console = newConsole(&out, false)
	k.log = newLogger(k)
	k.log.Debug("before")
	k.setLevel("debug")
	k.log.Debug("after")
	k.setLevel("error")
	k.log.Info("at last")
	if got := out.String(); strings.Contains(got, "before") || !strings.Contains(got, "after") || strings.Contains(got, "at last") {
		t.Errorf("the console shows %q", got)
	}
}

// What a page asks for does not win over what the configuration says.
func TestWorkerEnv(t *testing.T) {
	k := testKernel(t)
	k.opts.Environ = []string{"SHARED=of the server"}
	env := k.workerEnv(map[string]*string{"MODE": ptr("configured"), "SHARED": nil, "MISSING": nil}, map[string]string{"MODE": "asked", "SHARED": "asked", "MORE": "asked"})
	got := map[string]string{}
	for _, entry := range env { // of two the last one counts
		name, value, _ := strings.Cut(entry, "=")
		got[name] = value
	}
	if want := map[string]string{"MODE": "configured", "SHARED": "of the server", "MORE": "asked"}; !maps.Equal(got, want) {
		t.Errorf("the worker gets %v, want %v", got, want)
	}
}

// A file that a builder's patterns name may change who builds a page, when it comes or goes in the page's directory.
func TestChoosesBuilder(t *testing.T) {
	k := testKernel(t, func(c *config.Config) {
		c.Plugins.Builder = []config.Plugin{{Match: []string{"pages/**/page.yaml"}}, {}}
	})
	source := k.site.abs("pages/a")
	for _, c := range []struct {
		path string
		op   sdk.Op
		want bool
	}{
		{"pages/a/page.yaml", sdk.Created, true}, {"pages/a/page.yaml", sdk.Removed, true}, {"pages/a/page.yaml", sdk.Modified, false},
		{"pages/a/main.go", sdk.Created, false}, {"pages/a/b/page.yaml", sdk.Created, false}, {"pages/page.yaml", sdk.Created, false},
	} {
		if got := k.choosesBuilder(source, sdk.Change{Path: k.site.abs(c.path), Op: c.op}); got != c.want {
			t.Errorf("%s %s: %v", c.path, c.op, got)
		}
	}
}

// A build that finds nothing but warnings has skipped the page.
func TestSkipped(t *testing.T) {
	warning, fault := sdk.Diagnostic{Warning: true}, sdk.Diagnostic{}
	for _, c := range []struct {
		ok    bool
		found []sdk.Diagnostic
		want  bool
	}{
		{false, []sdk.Diagnostic{warning, warning}, true}, {false, []sdk.Diagnostic{warning, fault}, false},
		{false, nil, false}, {true, []sdk.Diagnostic{warning}, false},
	} {
		if got := (&buildReport{result: sdk.Result{OK: c.ok}, diagnostics: c.found}).skipped(); got != c.want {
			t.Errorf("ok %v, %v: skipped is %v", c.ok, c.found, got)
		}
	}
}
