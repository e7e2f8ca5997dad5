package kernel

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
)

// testStages has supervisors that do not run, and one, of the named stage, that has ended.
func testStages(t *testing.T, k *Kernel, ended string) *stages {
	t.Helper()
	s := &stages{k: k, specs: map[string]stage.Spec{}, lives: newLives(), base: context.Background()}
	made := map[string]*stage.Supervisor{}
	for _, name := range single {
		s.specs[name] = stage.Spec{Stage: name, Name: "old"}
		made[name] = stage.New(s.specs[name], stage.Options{RuntimeDir: t.TempDir(), Log: hclog.NewNullLogger(), Limits: config.Default().Plugins})
	}
	s.resolver, s.watcher, s.checker, s.rotator = made["resolver"], made["watcher"], made["checker"], made["rotator"]
	if ended != "" {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		if err := made[ended].Run(over); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newPlan(name string) plan {
	pl := plan{singles: map[string]stage.Spec{}}
	for _, stageName := range single {
		pl.singles[stageName] = stage.Spec{Stage: stageName, Name: name}
	}
	return pl
}

// A plan that cannot be put in force changes nothing, and what is believed to run is what runs: the next reload with
// the same plan must try again.
func TestApplyIsAllOrNothing(t *testing.T) {
	k := testKernel(t)
	s := testStages(t, k, "checker")
	pl := newPlan("new")
	pl.builders = []*builder{{spec: stage.Spec{Stage: "builder", Name: "new"}}}
	if err := s.apply(t.Context(), pl, stage.Options{}, ""); !errors.Is(err, stage.ErrStopped) {
		t.Fatalf("apply: %v", err)
	}
	for _, name := range single {
		if got := s.specs[name].Name; got != "old" {
			t.Errorf("%s is believed to be %s", name, got)
		}
	}
	if len(s.builders) != 0 {
		t.Error("the builders were exchanged all the same")
	}
}

// Nobody waits for a reload that waits for a plugin.
func TestStatusDoesNotWaitForAReload(t *testing.T) {
	k := testKernel(t)
	s := testStages(t, k, "")
	limits := config.Default().Plugins
	limits.StartTimeout = 1500 * time.Millisecond
	o := stage.Options{RuntimeDir: k.site.run, Log: hclog.NewNullLogger(), Limits: limits}
	hung := stage.Spec{Stage: "resolver", Name: "hung", Path: "/bin/sleep", Args: []string{"60"}, Dir: k.site.root}
	s.resolver = stage.New(hung, o)
	lives := newLives()
	lives.start(context.Background(), "resolver", s.resolver.Run)
	defer lives.end("resolver")
	for s.resolver.Status().State != stage.Starting {
		time.Sleep(time.Millisecond) // another goroutine's step, which sends no word
	}
	pl := plan{singles: map[string]stage.Spec{}}
	for name, spec := range s.specs {
		pl.singles[name] = spec
	}
	hung.Name = "hung too"
	pl.singles["resolver"] = hung
	applied := make(chan error, 1)
	go func() { applied <- s.apply(t.Context(), pl, o, "") }()
	var longest time.Duration
	for {
		start := time.Now()
		s.status()
		s.builderFor(nil)
		longest = max(longest, time.Since(start))
		select {
		case err := <-applied:
			if err == nil {
				t.Error("a plugin that hangs was taken")
			}
			if longest > time.Second {
				t.Errorf("status and builds were held up for %v", longest)
			}
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestNoReloadOnceStopping(t *testing.T) {
	k := testKernel(t)
	loads := 0
	k.opts.Load = func() (*config.Config, error) { loads++; return nil, errors.New("read") }
	k.stages = testStages(t, k, "")
	if err := k.Reload(t.Context()); err == nil || loads != 1 {
		t.Errorf("before: %v, %d loads", err, loads)
	}
	k.stop()
	if err := k.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "is stopping") || loads != 1 {
		t.Errorf("after: %v, %d loads", err, loads)
	}
}
