package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/port"
)

// Going back. A rollback makes a kept release live and pins the page to it: what the source makes is not deployed until
// it is another release. The same pin is set by the server when a release fails on probation (probation.go).

const (
	rollback reason = "rollback"
	undo     reason = "failed on probation"
)

// wayBack is what a start is for that goes back to a release.
type wayBack struct {
	pin  *control.Pin // for when the release is live; nil: the source makes it
	from release      // what was live

	outer *probation // what is left of the probation of the release that comes back

	instead *candidate  // what was being started when a rollback came
	done    func(error) // is told how the rollback ended; nil: it was told, or nobody asked
}

func (b *wayBack) end(err error) {
	if b != nil && b.done != nil {
		b.done(err)
		b.done = nil
	}
}

// Rollback makes a kept release of a page live. It returns when the release serves and the decision is on disk.
func (k *Kernel) Rollback(ctx context.Context, name, release string) (control.RolledBack, error) {
	began := time.Now()
	p, err := k.pageNamed(name)
	if err != nil {
		return control.RolledBack{}, err
	}
	var out control.RolledBack
	done := make(chan error, 1)
	posted := p.post(func() {
		p.rollback(release, &out, func(err error) {
			out.TookMS = float64(time.Since(began).Microseconds()) / 1000
			tell := func() { done <- err }
			if !p.post(tell) { // when the status shows it
				tell()
			}
		})
	})
	if !posted {
		return control.RolledBack{}, fmt.Errorf("page %s is no more", p.name)
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		return control.RolledBack{}, fmt.Errorf("roll back %s: %w", p.name, ctx.Err())
	}
	if err != nil {
		return control.RolledBack{}, fmt.Errorf("page %s is not rolled back: %w", p.name, err)
	}
	k.saveReleases()
	return out, nil
}

// rollback begins to go back. out is filled before done is called, which is once.
func (p *page) rollback(name string, out *control.RolledBack, done func(error)) {
	var live release
	if p.current != nil {
		live = p.current.release
	}
	target, err := choose(p.k.good.records(p.name), live.ID, name)
	if err == nil && p.ctx.Err() != nil {
		err = errors.New("the page is being taken down")
	}
	if err != nil {
		done(err)
		return
	}
	*out = control.RolledBack{Page: p.name, Route: p.route.Host + p.route.Path, From: live.ID, Release: target.ID,
		Pinned: p.pinFor(target), Warm: p.hasWarm(target) || target.ID == live.ID}
	p.k.log.Info("rolling back", "page", p.name, "from", live.short(), "to", target.short())
	back := &wayBack{pin: out.Pinned, from: live, instead: p.candidate, done: done}
	if p.building != nil {
		p.overtaken = target.ID
	}
	p.failures = 0
	switch {
	case target.ID == live.ID:
		p.stay(back)
	case p.rewarm(target, rollback, back):
	default:
		p.start(target, rollback, 0)
		p.candidate.back = back
	}
}

// pinFor gives the pin that holds a page on a release: over what the source makes now, as far as that is known.
func (p *page) pinFor(target release) *control.Pin {
	over := ""
	switch old := p.k.good.pinned(p.name); {
	case p.built != nil && p.built.result.OK:
		over = p.built.result.Release
	case old != nil:
		over = old.Over
	case p.current != nil:
		over = p.current.release.ID
	}
	if over == "" || over == target.ID {
		return nil
	}
	return &control.Pin{Release: target.ID, Over: over, Since: time.Now()}
}

// stay is a rollback to the release that is live: what was to take its place does not.
func (p *page) stay(back *wayBack) {
	p.dropStart()
	p.assets.unstarted = release{}
	if p.probation != nil {
		p.probation.cancel()
		p.probation = nil
	}
	p.k.good.pin(p.name, back.pin)
	p.save()
	back.end(nil)
	p.renew()
}

// dropStart gives up what is being started.
func (p *page) dropStart() {
	p.drop(&p.candidate)
	p.drop(&p.joining)
}

// arrived settles what a swap has decided: which release is the good one, whether the page is pinned to it.
func (p *page) arrived(c *candidate, old []*instance) {
	inst, before := p.current, p.good
	p.good = inst.release
	p.k.good.set(p.name, inst.release)
	switch pin := p.k.good.pinned(p.name); {
	case c.back != nil:
		p.k.good.pin(p.name, c.back.pin)
	case pin != nil && pin.Release != inst.release.ID:
		p.k.good.pin(p.name, nil)
	}
	p.watchRelease(c, old, before)
	p.save()
	p.noteRevision(inst.release.ID)
	c.back.end(nil)
}

// superseded is the end of a start that something else came before.
func (c *candidate) superseded() {
	c.back.end(errors.New("something newer came before it: see `tqserver status`"))
}

// takeOver has a start go on with what one that it replaces was for.
func (c *candidate) takeOver(old *candidate) {
	c.back, old.back = old.back, nil
}

// wayBackFailed remembers that a release did not start. It tells whether that was to go back: then it undoes what
// the way back was to change.
func (p *page) wayBackFailed(c *candidate, err error) bool {
	exhausted := errors.Is(err, port.ErrExhausted)
	if _, spoiled := errors.AsType[*artifactError](err); spoiled {
		p.k.good.forget(p.name, c.release.ID)
	} else if !exhausted {
		p.k.good.update(p.name, c.release.ID, func(rec *record) { rec.Failed = err.Error() })
	}
	p.save()
	if c.back == nil || c.why == undo && exhausted {
		return false
	}
	text := fmt.Sprintf("release %s does not start: %v", c.release.short(), err)
	p.k.log.Error(text, "page", p.name, "why", string(c.why))
	if c.why == undo {
		p.forgive(c.back.from, text)
		return true
	}
	p.overtaken = ""
	switch instead := c.back.instead; {
	case instead != nil && !(instead.beside && p.current != nil): // renew knows of one that was to join
		p.repeat(instead, 0)
		p.candidate.takeOver(instead)
	case p.current == nil && p.good.ID != "" && p.good.ID != c.release.ID && executable(p.good.Artifact):
		p.fallBack()
	default:
		p.renew()
	}
	c.back.end(errors.New(text))
	return true
}

// forgive leaves a page on, or has it go on with, a release that failed on probation: the one before does not start.
func (p *page) forgive(r release, problem string) {
	p.k.good.update(p.name, r.ID, func(rec *record) { rec.Undone = "" })
	p.k.good.pin(p.name, nil)
	p.save()
	p.stale, p.problem, p.good = "", problem, r
	if p.current != nil {
		p.k.log.Warn("the release that failed serves on, there is none to go back to", "page", p.name, "release", p.current.release.short())
		p.renew()
		return
	}
	p.start(r, restart, min(backoff(p.failures), restartLimit))
}

// withheld tells whether a release that was built is not to go live: a rollback left it, or it was put back. Whatever
// else was built ends a pin.
func (p *page) withheld(r release) bool {
	pin := p.k.good.pinned(p.name)
	if c := p.candidate; c != nil && c.back != nil {
		pin = c.back.pin
	}
	if p.overtaken != "" && p.overtaken != r.ID {
		pin = &control.Pin{Release: p.overtaken, Over: r.ID, Since: time.Now()}
		p.repin(pin)
	}
	p.overtaken = ""
	undone, over := p.k.good.undone(p.name, r.ID), pin != nil && pin.Over == r.ID
	if undone == "" && !over || !p.otherThan(r) {
		p.repin(nil)
		return false
	}
	p.stale = ""
	if undone != "" {
		p.stale = putBackText(p.name, r, undone)
	}
	p.k.log.Info("the release is not deployed, the page is rolled back", "page", p.name, "release", r.short(),
		"hint", "save another one, or run: tqserver rollback "+p.name+" "+r.short())
	if p.current == nil && p.candidate == nil {
		p.fallBack()
	}
	return true
}

// repin changes the pin, or what it will be when the page has gone back.
func (p *page) repin(pin *control.Pin) {
	if c := p.candidate; c != nil && c.back != nil {
		c.back.pin = pin
	} else if p.k.good.pinned(p.name) != pin {
		p.k.good.pin(p.name, pin)
	}
	p.save()
}

// otherThan tells whether the page serves, or can serve, something else than a release.
func (p *page) otherThan(r release) bool {
	switch {
	case p.current != nil:
		return p.current.release.ID != r.ID
	case p.candidate != nil:
		return p.candidate.release.ID != r.ID && executable(p.candidate.release.Artifact)
	}
	return p.good.ID != "" && p.good.ID != r.ID && executable(p.good.Artifact)
}

func putBackText(page string, r release, why string) string {
	return fmt.Sprintf("release %s was rolled back: %s\nsave another one, or have it all the same with `tqserver rollback %s %s`", r.short(), why, page, r.short())
}
