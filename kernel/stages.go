package kernel

import (
	"context"
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

	specs map[string]stage.Spec // of the four, by stage, as told; only who holds Kernel.reloads looks at it

	mu       sync.Mutex
	builders []*builder
	shops    map[*stage.Supervisor]*workshop // of the builders
	count    int                             // builders so far, for the names of their lives
	base     context.Context
	lives    *lives
	ending   sync.WaitGroup // builders that a reload took out
}

// builder is one entry of plugins.builder.
type builder struct {
	entry config.Plugin
	spec  stage.Spec // as told: it may have failed on probation since
	sup   *stage.Supervisor
	life  string // "": idle, see builderFor
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

// all lists the plugins in the order of their work. The lock is held.
func (s *stages) all() []*stage.Supervisor {
	all := []*stage.Supervisor{s.resolver}
	for _, b := range s.builders {
		all = append(all, b.sup)
	}
	return append(all, s.watcher, s.checker, s.rotator)
}

// status lists the stages in the order of their work.
func (s *stages) status() []control.Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []control.Stage
	for i, sup := range s.all() {
		st := sup.Status()
		if st.State == stage.Stopped && i > 0 && i <= len(s.builders) && s.builders[i-1].life == "" {
			st.State = "idle"
		}
		out = append(out, control.Stage{Stage: st.Stage, Plugin: st.Name, Version: st.Version, State: st.State, PID: st.PID, Attached: st.Attached,
			Restarts: st.Restarts, Since: st.Since, Error: st.LastError, NextRetry: st.NextRetry,
			Probation: st.Probation, Fallback: st.Fallback, Note: st.Note})
	}
	return out
}

// retry starts plugins that have given up.
func (s *stages) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sup := range s.all() {
		sup.Retry()
	}
}

// builderFor gives the first builder whose patterns fit a page. One that has patterns is not started, but idle, before
// it is given out: most sites have no page for it.
func (s *stages) builderFor(files []string) (sup *stage.Supervisor, shop *workshop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.matching(files)
	if b == nil {
		return nil, nil
	}
	if b.life == "" && s.lives != nil {
		s.startBuilder(b)
	}
	if s.shops == nil {
		s.shops = map[*stage.Supervisor]*workshop{}
	}
	if s.shops[b.sup] == nil {
		s.shops[b.sup] = &workshop{}
	}
	return b.sup, s.shops[b.sup]
}

// matching gives the first builder whose patterns fit, or nil. The lock is held.
func (s *stages) matching(files []string) *builder {
	for _, b := range s.builders {
		if len(b.entry.Match) == 0 || slices.ContainsFunc(b.entry.Match, func(pattern string) bool { return matchesAny(pattern, files) }) {
			return b
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

// expect warns when a stage's first answer takes longer than a call may; a heartbeat does not tell that. answered is
// called when it is there, and at the end; it may be called again.
func (k *Kernel) expect(name, what string) (answered func()) {
	limit := k.config().Plugins.RPCTimeout
	timer := time.AfterFunc(limit, func() {
		k.log.Named(name).Warn("a plugin that runs has not sent "+what, "plugin", k.stages.singles()[name].Status().Name, "for", limit,
			"hint", fmt.Sprintf("see `tqserver plugin logs %s`; `tqserver plugin reload %s` starts it anew", name, name))
	})
	return func() { timer.Stop() }
}
