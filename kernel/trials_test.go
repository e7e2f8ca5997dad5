package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// actor is a plugin of all stages that does what its environment says.
type actor struct{}

// Resolve pushes as many routes as it is told to, in its first stream. With "turns" the tables of the later ones are
// empty.
func (actor) Resolve(ctx context.Context, trees <-chan sdk.Tree, push func(sdk.Table) error) error {
	n, _ := strconv.Atoi(os.Getenv("ROUTES"))
	if _, err := os.Stat(os.Getenv("TURNS")); err == nil {
		n = 0
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case tree := <-trees:
			if root := os.Getenv("ROOT"); root != "" && root != tree.Root {
				_ = os.WriteFile(os.Getenv("STRAYED"), []byte(tree.Root), 0o600)
			}
			t := sdk.Table{Revision: tree.Revision, AllowEmpty: os.Getenv("ALLOW_EMPTY") != ""}
			if os.Getenv("SAYS") != "" {
				t.Diagnostics = []sdk.Diagnostic{{Message: os.Getenv("SAYS")}}
			}
			for i := range n {
				t.Routes = append(t.Routes, routeOf(fmt.Sprintf("p%d", i)))
			}
			if err := push(t); err != nil {
				var refused *sdk.RefusedError
				if !errors.As(err, &refused) {
					return err
				}
			}
		}
	}
}

func routeOf(name string) sdk.Route {
	return sdk.Route{Page: name, Path: "/" + name, Dir: "/nowhere/" + name, Source: "/nowhere/" + name}
}

func (actor) Watch(ctx context.Context, sets <-chan sdk.WatchSet, report func(sdk.ChangeSet) error) error {
	set := <-sets
	if os.Getenv("MUTE") != "" {
		return nil
	}
	if err := report(sdk.ChangeSet{Version: set.Version, Rescan: true}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (actor) Check(ctx context.Context, sets <-chan sdk.TargetSet, report func(sdk.Health) error) error {
	set := <-sets
	if os.Getenv("MUTE") != "" {
		return nil
	}
	if err := report(sdk.Health{Target: set.Targets[0].ID, Healthy: true}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (actor) Build(context.Context, sdk.Job, func(sdk.Event)) (sdk.Result, error) {
	return sdk.Result{}, nil
}
func (actor) Write(context.Context, sdk.Batch) error { return nil }

// actorSpec starts this test binary as an actor.
func actorSpec(t *testing.T, name string, env ...string) stage.Spec {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return stage.Spec{Stage: name, Name: strings.Join(append([]string{"actor"}, env...), " "), Path: self,
		Env: append([]string{"KERNEL_TEST_PLUGIN=actor", "GORACE=atexit_sleep_ms=0"}, env...)}
}

// runActor runs a plugin until the test ends.
func runActor(t *testing.T, spec stage.Spec) *stage.Supervisor {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tqk") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	limits := config.Default().Plugins
	limits.StartTimeout, limits.RPCTimeout = 20*time.Second, 20*time.Second
	sup := stage.New(spec, stage.Options{RuntimeDir: filepath.Join(dir, "run"), Log: hclog.NewNullLogger(), Limits: limits})
	lives := newLives()
	lives.start(context.Background(), "plugin", sup.Run)
	t.Cleanup(func() { lives.end("plugin"); os.RemoveAll(dir) })
	awaitStage(t, sup, "to run", func(st stage.Status) bool { return st.State == stage.Running })
	return sup
}

func awaitStage(t *testing.T, sup *stage.Supervisor, what string, ok func(stage.Status) bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(sup.Status()); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for the plugin %s: %+v", what, sup.Status())
		}
	}
}

// inForce makes a table of n routes the live one. No page of it runs.
func inForce(k *Kernel, n int) {
	var t sdk.Table
	for i := range n {
		t.Routes = append(t.Routes, routeOf(fmt.Sprintf("p%d", i)))
	}
	k.routes.table = t
}

func TestResolverIsTriedAgainstTheRoutesInForce(t *testing.T) {
	t.Parallel()
	k := testKernel(t)
	inForce(k, 4)
	sup := runActor(t, actorSpec(t, "resolver", "ROUTES=4"))
	for _, c := range []struct {
		env   []string
		force bool
		want  string
	}{
		{env: []string{"ROUTES=2"}},
		{env: []string{"ROUTES=1"}, want: "its first table is refused: it has 1 of the 4 routes in force, less than half: if that is meant, run `tqserver plugin reload resolver --force`"},
		{env: []string{"ROUTES=1"}, force: true},
		{env: []string{"ROUTES=0"}, force: true, want: "its first table is refused: it has no routes"},
		{env: []string{"ROUTES=0", "SAYS=the directory is gone"}, want: "it has no routes (it says: the directory is gone)"},
		{env: []string{"ROUTES=0", "ALLOW_EMPTY=1", "SAYS=no host"}, want: "it has 0 of the 4 routes in force, less than half: if that is meant, run `tqserver plugin reload resolver --force` (it says: no host)"},
		{env: []string{"ROUTES=0", "ALLOW_EMPTY=1"}, force: true},
	} {
		before := sup.Status().PID
		err := k.replace(t.Context(), k.config(), sup, actorSpec(t, "resolver", c.env...), stage.Replacement{Force: c.force})
		after := sup.Status().PID
		switch {
		case c.want == "" && (err != nil || after == before):
			t.Errorf("%q: %v, process %d, was %d", c.env, err, after, before)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || refusedStage(err) != "resolver" || after != before):
			t.Errorf("%q: %v, process %d, was %d", c.env, err, after, before)
		}
	}
	if got := len(k.routes.table.Routes); got != 4 || len(k.routes.pages) != 0 {
		t.Errorf("a trial changed the routes in force: %d", got)
	}
}

// A reload may move the pages directory, and change the resolver to one that fits it: that one is to see the new one
// only, on its trial and from the moment it serves.
func TestResolverIsGivenThePagesThatItIsFor(t *testing.T) {
	t.Parallel()
	k := pluginKernel(t)
	inForce(k, 1)
	lives := newLives()
	lives.start(context.Background(), "resolver", k.feedResolver)
	defer k.routes.close()
	defer lives.end("resolver")
	next := *k.config()
	next.Pages.Directory = "sites"
	strayed := filepath.Join(t.TempDir(), "strayed")
	next.Plugins.Resolver.Env = maps.Clone(next.Plugins.Resolver.Env)
	next.Plugins.Resolver.Env["ROOT"], next.Plugins.Resolver.Env["STRAYED"] = ptr(k.site.abs("sites")), &strayed
	k.opts.Load = func() (*config.Config, error) { return &next, nil }
	if err := os.Mkdir(k.site.abs("sites"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := k.reloadConfig(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	k.routes.resolved(ctx, k.routes.resolve())
	if root, err := os.ReadFile(strayed); err == nil {
		t.Errorf("it was given %s", root)
	}
}

// A resolver whose table is refused once it serves was worse than the one before.
func TestRefusedTableOnProbationBringsTheOldResolverBack(t *testing.T) {
	t.Parallel()
	k := testKernel(t)
	inForce(k, 1)
	turns := filepath.Join(t.TempDir(), "turns")
	k.stages.resolver = runActor(t, actorSpec(t, "resolver", "ROUTES=1"))
	if err := k.replace(t.Context(), k.config(), k.stages.resolver, actorSpec(t, "resolver", "ROUTES=1", "TURNS="+turns), stage.Replacement{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(turns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lives := newLives()
	lives.start(context.Background(), "resolver", k.feedResolver)
	defer k.routes.close()
	defer lives.end("resolver")
	awaitStage(t, k.stages.resolver, "before to come back", func(st stage.Status) bool {
		return st.State == stage.Running && st.Name == "actor ROUTES=1" && strings.Contains(st.Note, "its table is refused: it has no routes")
	})
}

func TestWatcherAndCheckerMustReportBeforeTheyServe(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"watcher", "checker"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := testKernel(t)
			if name == "checker" {
				p := testPage(t, k, "index")
				p.serveRelease(t, testRelease(t, "r1", "serve"))
				p.current.healthy.Store(ptr(true))
			}
			sup := runActor(t, actorSpec(t, name))
			err := k.replace(t.Context(), k.config(), sup, actorSpec(t, name, "MUTE=1"), stage.Replacement{})
			if err == nil || !strings.Contains(err.Error(), name+" plugin actor MUTE=1: trial: it ended its stream without an answer") {
				t.Errorf("a mute one: %v", err)
			}
			before := sup.Status().PID
			if err := k.replace(t.Context(), k.config(), sup, actorSpec(t, name, "OTHER=1"), stage.Replacement{}); err != nil || sup.Status().PID == before {
				t.Errorf("a good one: %v", err)
			}
		})
	}
}

// Without a worker that is known to be well there is nothing that a checker must report soon.
func TestCheckerIsNotTriedOnUnknownWorkers(t *testing.T) {
	k := testKernel(t)
	p := testPage(t, k, "index")
	p.serveRelease(t, testRelease(t, "r1", "serve"))
	if err := k.tryChecker(t.Context(), nil); err != nil { // nil: it would panic if it was called
		t.Error(err)
	}
	p.current.healthy.Store(ptr(false))
	if err := k.tryChecker(t.Context(), nil); err != nil {
		t.Error(err)
	}
}
