package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/kernel/stage"
)

// exchange is a running plugin that a plan changes.
type exchange struct {
	sup  *stage.Supervisor
	old  stage.Spec // that runs, which after a failed probation is not what it was told to be
	next stage.Spec
}

// exchanges lists what a plan changes of the running plugins, and the builders that it adds. The resolver comes last: a
// new one that takes over changes what is served, which a failure of another stage must not bring about and take back.
func (s *stages) exchanges(pl plan) (changed []exchange, added []*builder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add := func(sup *stage.Supervisor, told, next stage.Spec) {
		if !sameSpec(told, next) {
			changed = append(changed, exchange{sup, sup.Specs()[0], next})
		}
	}
	follows, _ := succeed(s.builders, pl.builders)
	for _, b := range pl.builders {
		if old := follows[b]; old != nil {
			add(old.sup, old.spec, b.spec)
		} else {
			added = append(added, b)
		}
	}
	for _, name := range slices.Backward(single) { // its first is the resolver
		add(s.singles()[name], s.specs[name], pl.singles[name])
	}
	return changed, added
}

// check starts a second instance of each plugin that a new plan changes, far enough to know that it takes its
// configuration, and ends it.
func (s *stages) check(ctx context.Context, pl plan, o stage.Options) error {
	changed, added := s.exchanges(pl)
	var specs []stage.Spec
	for _, e := range changed {
		specs = append(specs, e.next)
	}
	for _, b := range added {
		specs = append(specs, b.spec)
	}
	errs := make([]error, len(specs))
	var work sync.WaitGroup
	for i, spec := range specs { // side by side: each may take as long as a start
		work.Go(func() { errs[i] = stage.Validate(ctx, spec, o) })
	}
	work.Wait()
	return errors.Join(errs...)
}

// apply puts a checked plan in force, or changes nothing. What did not change runs on; what did is tried first, by
// force for the stage that is named. The lock is not held while it waits for plugins: status and builds go on.
func (s *stages) apply(ctx context.Context, pl plan, o stage.Options, forced string) error {
	changed, _ := s.exchanges(pl)
	for i, e := range changed {
		if err := s.k.replace(ctx, pl.config, e.sup, e.next, stage.Replacement{Force: e.next.Stage == forced}); err != nil {
			return errors.Join(err, s.revert(changed[:i]))
		}
	}
	for name, spec := range pl.singles {
		s.specs[name] = spec
	}
	s.applyBuilders(pl.builders, o)
	s.prune()
	return nil
}

// revert gives stages the plugins back that they had before a reload that failed half-way.
func (s *stages) revert(done []exchange) error {
	ctx, cancel := context.WithTimeout(s.k.up, 30*time.Second)
	defer cancel()
	var errs []error
	for _, e := range done {
		if err := e.sup.Replace(ctx, e.old, stage.Replacement{Force: true}); err != nil {
			errs = append(errs, fmt.Errorf("give the %s its old configuration back: %w", e.old.Stage, err))
			s.put(e.sup, stage.Spec{}) // neither: the next reload has to set it
		}
	}
	return errors.Join(errs...)
}

// put notes what a plugin was told to be.
func (s *stages) put(sup *stage.Supervisor, spec stage.Spec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, other := range s.singles() {
		if other == sup {
			s.specs[name] = spec
		}
	}
	for _, b := range s.builders {
		if b.sup == sup {
			b.spec = spec
		}
	}
}

func (s *stages) applyBuilders(builders []*builder, o stage.Options) {
	s.mu.Lock()
	defer s.mu.Unlock()
	follows, left := succeed(s.builders, builders)
	for _, b := range builders {
		if old := follows[b]; old != nil {
			b.sup, b.life = old.sup, old.life
		} else {
			b.sup = stage.New(b.spec, o)
		}
		if b.life == "" && len(b.entry.Match) == 0 {
			s.startBuilder(b)
		}
	}
	s.builders = builders
	for _, b := range left {
		delete(s.shops, b.sup)
		s.ending.Go(func() { s.lives.end(b.life) }) // its builds may end first
	}
}

// prune removes the copies of custom plugins that nobody will start again. While a tool is at work beside the server,
// which may be about to execute one that it has just made, all of them stay until the next time.
func (s *stages) prune() {
	lock, err := flock(s.k.site.path("tools"), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return
	case err == nil:
		defer unlock(lock)
		err = stage.Prune(s.k.site.state, s.needed()...)
	}
	if err != nil {
		s.k.log.Warn("old copies of plugins cannot be removed", "error", err)
	}
}

// needed lists what may be started from here on without being found anew.
func (s *stages) needed() (keep []stage.Spec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sup := range s.all() {
		keep = append(keep, sup.Specs()...)
	}
	for _, spec := range s.specs {
		keep = append(keep, spec)
	}
	for _, b := range s.builders {
		keep = append(keep, b.spec)
	}
	return keep
}
