package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/stage"
)

// stages is the five stages: one plugin each, and one or more builders.
type stages struct {
	k                                   *Kernel
	resolver, watcher, checker, rotator *stage.Supervisor

	specs map[string]stage.Spec // of the four, by stage; only a reload, of which there is one at a time, looks at it

	mu       sync.Mutex
	builders []*builder
	count    int // builders so far, for the names of their lives
	base     context.Context
	lives    *lives
	ending   sync.WaitGroup // builders that a reload took out
}

// builder is one entry of plugins.builder.
type builder struct {
	entry config.Plugin
	spec  stage.Spec
	sup   *stage.Supervisor
	life  string // "": idle, see builderFor
}

// plan is what a configuration says about plugins, checked as far as that goes without starting one.
type plan struct {
	singles  map[string]stage.Spec
	builders []*builder
}

// single lists the stages that have one plugin.
var single = []string{"resolver", "watcher", "checker", "rotator"}

func newStages(k *Kernel, c *config.Config) (*stages, error) {
	pl, err := k.plan(c)
	if err != nil {
		return nil, err
	}
	s := &stages{k: k, specs: pl.singles}
	made := map[string]*stage.Supervisor{}
	for _, name := range single {
		made[name] = stage.New(pl.singles[name], k.stageOptions(c))
	}
	s.resolver, s.watcher, s.checker, s.rotator = made["resolver"], made["watcher"], made["checker"], made["rotator"]
	for _, b := range pl.builders {
		b.sup = stage.New(b.spec, k.stageOptions(c))
	}
	s.builders = pl.builders
	return s, nil
}

func (k *Kernel) stageOptions(c *config.Config) stage.Options {
	return stage.Options{RuntimeDir: k.site.run, Log: k.log, KernelVersion: k.opts.Version, Limits: c.Plugins}
}

// plan finds the executables of all plugins that a configuration names.
func (k *Kernel) plan(c *config.Config) (plan, error) {
	o, err := k.resolveOptions(c)
	if err != nil {
		return plan{}, err
	}
	pl := plan{singles: map[string]stage.Spec{}}
	var errs []error
	for name, entry := range map[string]config.Plugin{"resolver": c.Plugins.Resolver, "watcher": c.Plugins.Watcher,
		"checker": c.Plugins.Checker, "rotator": c.Plugins.Rotator} {
		spec, err := stage.Resolve(name, entry, o)
		pl.singles[name] = spec
		errs = append(errs, err)
	}
	for _, entry := range c.Plugins.Builder {
		spec, err := stage.Resolve("builder", entry, o)
		pl.builders = append(pl.builders, &builder{entry: entry, spec: spec})
		errs = append(errs, err)
	}
	return pl, errors.Join(errs...)
}

// sameSpec tells whether a plugin started from a would be the same as one started from b.
func sameSpec(a, b stage.Spec) bool {
	return a.Name == b.Name && a.Path == b.Path && a.Dir == b.Dir && slices.Equal(a.Args, b.Args) && slices.Equal(a.Env, b.Env) && bytes.Equal(a.Config, b.Config)
}

func (b *builder) same(o *builder) bool {
	return sameSpec(b.spec, o.spec) && slices.Equal(b.entry.Match, o.entry.Match)
}

// start runs all plugins.
func (s *stages) start(base context.Context, l *lives) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base, s.lives = base, l
	for name, sup := range s.singles() {
		l.start(base, lifeOf(name), sup.Run)
	}
	for _, b := range s.builders {
		if len(b.entry.Match) == 0 {
			s.startBuilder(b)
		}
	}
}

func (s *stages) startBuilder(b *builder) {
	s.count++
	b.life = fmt.Sprintf("%s%d", lifeOf("builder"), s.count)
	s.lives.start(s.base, b.life, b.sup.Run)
}

func lifeOf(stage string) string { return "plugin of the stage " + stage }

func (s *stages) singles() map[string]*stage.Supervisor {
	return map[string]*stage.Supervisor{"resolver": s.resolver, "watcher": s.watcher, "checker": s.checker, "rotator": s.rotator}
}

// end stops the plugins of the named stages, all at once, and waits.
func (s *stages) end(l *lives, names ...string) {
	s.mu.Lock()
	var all []string
	for _, name := range names {
		all = append(all, lifeOf(name))
		if name == "builder" {
			for _, b := range s.builders {
				all = append(all, b.life)
			}
		}
	}
	s.mu.Unlock()
	l.end(all...)
	s.ending.Wait()
}

// status lists the stages in the order of their work.
func (s *stages) status() []control.Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []*stage.Supervisor{s.resolver}
	for _, b := range s.builders {
		all = append(all, b.sup)
	}
	var out []control.Stage
	for i, sup := range append(all, s.watcher, s.checker, s.rotator) {
		st := sup.Status()
		if st.State == stage.Stopped && i > 0 && i <= len(s.builders) && s.builders[i-1].life == "" {
			st.State = "idle"
		}
		out = append(out, control.Stage{Stage: st.Stage, Plugin: st.Name, Version: st.Version, State: st.State, PID: st.PID, Attached: st.Attached,
			Restarts: st.Restarts, Since: st.Since, Error: st.LastError, NextRetry: st.NextRetry})
	}
	return out
}

// retry starts plugins that have given up.
func (s *stages) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sup := range s.singles() {
		sup.Retry()
	}
	for _, b := range s.builders {
		b.sup.Retry()
	}
}

// check starts a second instance of each plugin that a new plan changes, far enough to know that it takes its
// configuration, and ends it.
func (s *stages) check(ctx context.Context, pl plan, o stage.Options) error {
	var errs []error
	for _, spec := range s.changed(pl) {
		errs = append(errs, stage.Validate(ctx, spec, o))
	}
	return errors.Join(errs...)
}

func (s *stages) changed(pl plan) []stage.Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	var changed []stage.Spec
	for _, name := range single {
		if spec := pl.singles[name]; !sameSpec(spec, s.specs[name]) {
			changed = append(changed, spec)
		}
	}
	for _, b := range pl.builders {
		if s.find(b) == nil {
			changed = append(changed, b.spec)
		}
	}
	return changed
}

// find gives the running builder that is the same as one of a plan.
func (s *stages) find(b *builder) *builder {
	for _, have := range s.builders {
		if have.same(b) {
			return have
		}
	}
	return nil
}

// apply puts a checked plan in force, or changes nothing. What did not change runs on. The lock is not held while it
// waits for plugins: status and builds go on.
func (s *stages) apply(ctx context.Context, pl plan, o stage.Options) error {
	var done []string
	for _, name := range single {
		spec := pl.singles[name]
		if sameSpec(spec, s.specs[name]) {
			continue
		}
		if err := s.singles()[name].Reconfigure(ctx, spec); err != nil {
			return errors.Join(err, s.revert(done))
		}
		done = append(done, name)
	}
	for _, name := range done {
		s.specs[name] = pl.singles[name]
	}
	s.applyBuilders(pl.builders, o)
	if err := stage.Prune(s.k.site.state, pl.specs()...); err != nil {
		s.k.log.Warn("old copies of plugins cannot be removed", "error", err)
	}
	return nil
}

// revert gives stages the plugins back that they had before a reload that failed half-way.
func (s *stages) revert(names []string) error {
	ctx, cancel := context.WithTimeout(s.k.up, 30*time.Second)
	defer cancel()
	var errs []error
	for _, name := range names {
		if err := s.singles()[name].Reconfigure(ctx, s.specs[name]); err != nil {
			errs = append(errs, fmt.Errorf("give the %s its old configuration back: %w", name, err))
			s.specs[name] = stage.Spec{} // neither: the next reload has to set it
		}
	}
	return errors.Join(errs...)
}

func (s *stages) applyBuilders(builders []*builder, o stage.Options) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.builders
	s.builders = nil
	for _, b := range builders {
		i := slices.IndexFunc(old, func(have *builder) bool { return have.same(b) })
		if i >= 0 {
			b.sup, b.life = old[i].sup, old[i].life
			old = slices.Delete(slices.Clone(old), i, i+1)
		} else {
			b.sup = stage.New(b.spec, o)
			if len(b.entry.Match) == 0 {
				s.startBuilder(b)
			}
		}
		s.builders = append(s.builders, b)
	}
	for _, b := range old {
		s.ending.Go(func() { s.lives.end(b.life) }) // its builds may end first
	}
}

// builderFor gives the first builder whose patterns fit a page. One that has patterns is not started, but idle, before
// it is given out: most sites have no page for it.
func (s *stages) builderFor(files []string) *stage.Supervisor {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.builders {
		if len(b.entry.Match) == 0 || slices.ContainsFunc(b.entry.Match, func(pattern string) bool { return matchesAny(pattern, files) }) {
			if b.life == "" && s.lives != nil {
				s.startBuilder(b)
			}
			return b.sup
		}
	}
	return nil
}

// patterns lists what the builders match, for the message that none does.
func (s *stages) patterns() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, b := range s.builders {
		all = append(all, b.entry.Match...)
	}
	return strings.Join(all, ", ")
}
