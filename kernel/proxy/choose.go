package proxy

import (
	"math/rand/v2"
	"slices"
	"time"
)

// endpointSet is immutable; a pointer to it is also the number of the swap.
type endpointSet struct {
	endpoints []*Endpoint
}

func (s *endpointSet) has(e *Endpoint) bool { return slices.Contains(s.endpoints, e) }

// exhausted reports whether there is no endpoint but those to avoid.
func (s *endpointSet) exhausted(avoid []*Endpoint) bool {
	return !slices.ContainsFunc(s.endpoints, func(e *Endpoint) bool { return !slices.Contains(avoid, e) })
}

// occupy gives a request that is counted in already a place on an endpoint that
// it does not avoid and returns that; nil if none has room.
func (s *endpointSet) occupy(avoid []*Endpoint) *Endpoint {
	for {
		e := s.choose(avoid)
		if e == nil || e.occupy() {
			return e
		}
	}
}

// choose returns the less busy of two endpoints drawn at random from those that
// have room and are not to be avoided; nil if there is none. Who is ejected is
// drawn only if all others are to be avoided, and who starts slowly as often as
// its share says. It allocates nothing.
func (s *endpointSet) choose(avoid []*Endpoint) *Endpoint {
	if len(avoid) == 0 {
		if e := s.draw(); e != nil {
			return e
		}
	}
	return s.search(avoid, time.Now())
}

// draw is choose where all is well with those that are drawn; else nil.
func (s *endpointSet) draw() *Endpoint {
	n := len(s.endpoints)
	switch n {
	case 0:
		return nil
	case 1:
		return hasRoom(s.endpoints[0])
	}
	i, j := rand.IntN(n), rand.IntN(n-1)
	if j >= i {
		j++
	}
	a, b := s.endpoints[i], s.endpoints[j]
	switch {
	case a.spell.Load() != nil || b.spell.Load() != nil:
		return nil
	case b.InFlight() < a.InFlight():
		a = b
	}
	return hasRoom(a)
}

func hasRoom(e *Endpoint) *Endpoint {
	if e.full() {
		return nil
	}
	return e
}

// search is choose, with a look at every endpoint.
func (s *endpointSet) search(avoid []*Endpoint, now time.Time) *Endpoint {
	var drawn, passed, ejected pair
	sound := false // one is not ejected
	for _, e := range s.endpoints {
		if slices.Contains(avoid, e) {
			continue
		}
		share, out := e.standing(now)
		sound = sound || !out
		switch {
		case e.full():
		case out:
			ejected.offer(e)
		case share < 1 && rand.Float64() >= share:
			passed.offer(e)
		default:
			drawn.offer(e)
		}
	}
	switch {
	case !sound:
		return ejected.lessBusy()
	case drawn.n == 0:
		return passed.lessBusy()
	}
	return drawn.lessBusy()
}

// pair is two endpoints out of n that were offered, each with the same chance.
type pair struct {
	a, b *Endpoint
	n    int
}

func (p *pair) offer(e *Endpoint) {
	p.n++
	switch i := rand.IntN(p.n); {
	case p.n == 2 && i == 0:
		p.a, p.b = e, p.a
	case p.n == 2:
		p.b = e
	case i == 0:
		p.a = e
	case i == 1:
		p.b = e
	}
}

// lessBusy returns nil if nothing was offered.
func (p *pair) lessBusy() *Endpoint {
	if p.b != nil && p.b.InFlight() < p.a.InFlight() {
		return p.b
	}
	return p.a
}
