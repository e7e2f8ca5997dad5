package kernel

import (
	"slices"
	"time"

	"github.com/tqserver/tqserver/kernel/proxy"
)

// The workers of a page. All that serve are of one release and have the same settings, but for the moment in which new
// settings replace them. The first of them, the lead, stands for all where one is enough; a page without a lead has none
// that serves. What is started comes in three shapes:
//
//   - A release, or new settings, take the place of all workers: as many as serve are started side by side, one at
//     least, and when all of them are ready they are swapped in together. If one does not start, none serves. Those for
//     which there is no port do not count: they follow when the old ones have given theirs back.
//   - A worker takes the place of one that is worn out or unwell: the others serve on.
//   - Workers join those that serve, because there are too few of them: each of them when it is ready. If none serves,
//     one of the last good release does so, whatever else is being started: who is ready first serves.
//
// Of the first two there is one start at a time, the candidate of the page, and of the third another one, joining. So
// neither waits for the other, which may not be ready for long, or not start and be tried again and again. What is
// missing when more workers end while some are joining follows when these have come or failed.
//
// Whatever has changed, renew then makes the next step towards the number that is wanted.

const grow reason = "more workers"

// set is all workers that serve, the lead first. The caller owns it.
func (p *page) set() []*instance {
	if p.current == nil {
		return nil
	}
	return append([]*instance{p.current}, p.others...)
}

// employ has these workers serve and no others, the first of them as the lead.
func (p *page) employ(set []*instance) {
	p.current, p.others = nil, nil
	if len(set) > 0 {
		p.current, p.others = set[0], set[1:]
	}
	p.limit()
	p.backend.Set(endpoints(set)...)
	if pr := p.probation; pr != nil && p.current != nil && p.current.release.ID == pr.release.ID {
		pr.count(set)
	}
}

// limit gives the workers no more requests at a time than is configured now: they may have been started before.
func (p *page) limit() {
	for _, inst := range p.set() {
		inst.endpoint.SetMaxInFlight(p.settings.MaxInFlight)
	}
}

// remove takes a worker out of service. The others serve on, if there are any.
func (p *page) remove(inst *instance) {
	led := p.current == inst
	p.employ(slices.DeleteFunc(p.set(), func(i *instance) bool { return i == inst }))
	if led && p.current != nil {
		p.taken(everyCall) // the new lead was told of the same files at the same time
	}
}

// serves tells whether a worker is one of those that serve.
func (p *page) serves(inst *instance) bool { return slices.Contains(p.set(), inst) }

// wanted is how many workers are to serve.
func (p *page) wanted() int {
	if p.k.opts.Dev { // what a developer sees is what the last worker prints
		return 1
	}
	return max(1, p.settings.Instances.Clamp(p.scaled))
}

// span is how many workers a start is for.
func (p *page) span(c *candidate) int {
	switch {
	case c.relieves != nil:
		return 1
	case c.beside && p.current != nil:
		return max(1, p.missing())
	}
	return max(1, min(len(p.set()), p.wanted()))
}

// missing is how many workers have to join those that serve. One that was to relieve a worker which is gone does so.
func (p *page) missing() int {
	n := p.wanted() - len(p.set())
	if c := p.candidate; c != nil && c.relieves != nil && !p.serves(c.relieves) {
		n--
	}
	return n
}

// place is where a start belongs.
func (p *page) place(c *candidate) **candidate {
	if c.aside {
		return &p.joining
	}
	return &p.candidate
}

// starts is all that is being started.
func (p *page) starts() (all []*candidate) {
	for _, c := range []*candidate{p.candidate, p.joining} {
		if c != nil {
			all = append(all, c)
		}
	}
	return all
}

// drop gives up a start, if there is one: when it comes back, it is superseded.
func (p *page) drop(place **candidate) {
	if c := *place; c != nil {
		c.cancel()
		*place = nil
	}
}

// dropNeedless gives up the starts of workers that would be too many.
func (p *page) dropNeedless() {
	if c := p.candidate; c != nil && c.relieves != nil && !p.serves(c.relieves) && len(p.set()) >= p.wanted() {
		p.solved(c.fault)
		p.drop(&p.candidate)
	}
	if c := p.joining; c != nil && p.missing() <= 0 {
		p.solved(c.fault)
		p.drop(&p.joining)
	}
}

// solved takes that a problem is none any more.
func (p *page) solved(problem string) {
	if p.problem == problem {
		p.problem = ""
	}
}

// replaces tells whether workers are about to take the place of all. Not if that has failed already: then it may go on
// failing, and what else there is to do is not put off.
func (c *candidate) replaces() bool { return c != nil && !c.beside && c.tries == 0 }

// brings tells whether a release is being started. It may be called on nil.
func (c *candidate) brings(r release) bool {
	return c != nil && c.release.ID == r.ID && time.Until(c.begins) <= 0
}

// unsettled tells whether the number of workers is about to change. It is not while one that should join, or take the
// place of others, has failed to start and is tried again.
func (p *page) unsettled() bool {
	starts := p.starts()
	if slices.ContainsFunc(starts, func(c *candidate) bool { return c.tries == 0 }) {
		return true
	}
	return len(starts) == 0 && len(p.set()) != p.wanted()
}

// join gives the workers that serve when others have joined them, and those that do not any more.
func (p *page) join(c *candidate, fresh []*instance) (set, old []*instance) {
	for _, inst := range p.set() {
		if inst == c.relieves {
			old = append(old, inst)
		} else {
			set = append(set, inst)
		}
	}
	p.told = false
	return append(set, fresh...), old
}

// shed takes the workers out of service that are too many, first of all those that would be replaced.
func (p *page) shed() {
	for set := p.set(); len(set) > p.wanted(); set = p.set() {
		out := set[len(set)-1]
		if i := slices.IndexFunc(set, func(inst *instance) bool { return inst.outworn() != "" }); i >= 0 {
			out = set[i]
		}
		p.k.log.Info("one worker less", "page", p.name, "worker", out.id, "workers", len(set)-1)
		p.remove(out)
		p.solved(out.ailment)
		p.retire(out)
	}
}

// outworn is why a worker is to be replaced by another one like it; "" is not at all.
func (i *instance) outworn() reason {
	switch healthy := i.healthy.Load(); {
	case healthy != nil && !*healthy:
		return replace
	case i.spent:
		return recycle
	}
	return ""
}

// portless is where there is no port for a further worker: it follows when there is one.
func (p *page) portless(c *candidate) {
	if !p.told {
		p.k.log.Warn("there is no port for a further worker", "page", p.name, "workers", len(p.set()), "wanted", p.wanted(), "hint", "widen the range from workers.port_range_start to workers.port_range_end")
	}
	select {
	case <-c.ports: // there may be one by now
	default:
		if len(p.leaving) == 0 { // else there will be one
			p.scaled = len(p.set())
		}
	}
	p.short, p.told = true, true
	p.work.Go(func() {
		p.portsChanged(p.ctx, c)
		p.post(func() { p.short = false; p.renew() })
	})
}

func endpoints(set []*instance) []*proxy.Endpoint {
	out := make([]*proxy.Endpoint, len(set))
	for i, inst := range set {
		out[i] = inst.endpoint
	}
	return out
}
