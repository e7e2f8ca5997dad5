package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// turn is one request's search for an endpoint that takes it.
type turn struct {
	backend *Backend
	seen    *endpointSet // the set that was searched last
	avoid   []*Endpoint  // those of seen that could not be reached
	dial    error        // why the last of them could not
	lost    *Endpoint    // which has lost the request; others are tried before it
	failed  error        // what the last try has ended with; nil: there was none
	hold    patience     // with which it waits for a ready worker
	queue   patience     // with which it waits for room
}

// patience bounds the waits of one request for one thing.
type patience struct {
	until time.Time // the end of all; zero: there was none yet
	max   int       // of requests that wait
}

// next returns an endpoint, entered, which the caller must leave. It waits for
// one as long as the backend's options say, counted over the whole turn, and
// until ctx ends. After unreachable or elsewhere it goes on only as far as the
// budget for retries allows; else it returns the error that was given there.
func (t *turn) next(ctx context.Context) (*Endpoint, error) {
	if t.seen == nil {
		t.backend.count.requests.Add(1)
	} else if t.failed != nil {
		if err := t.pay(); err != nil {
			return nil, err
		}
	}
	for {
		if e := t.pick(); e != nil {
			return e, nil
		}
		h, err := t.wait(ctx)
		if err != nil {
			return nil, err
		}
		if h.endpoint != nil {
			t.look(h.set)
			return h.endpoint, nil
		}
	}
}

// unreachable makes the turn pass over e until the set is replaced.
func (t *turn) unreachable(e *Endpoint, err error) {
	t.avoid = append(t.avoid, e)
	t.dial, t.failed = err, err
	e.strike()
}

// elsewhere makes the turn take another endpoint than e, if there is one that
// has room, for a request that was lost with err and can be given to any.
func (t *turn) elsewhere(e *Endpoint, err error) {
	t.lost, t.failed = e, err
}

// hasOthers reports whether there is an endpoint besides e now.
func (t *turn) hasOthers(e *Endpoint) bool {
	return slices.ContainsFunc(t.backend.set.Load().endpoints, func(other *Endpoint) bool { return other != e })
}

// waited reports whether time may have passed since the first try.
func (t *turn) waited() bool {
	return t.failed != nil || !t.hold.until.IsZero() || !t.queue.until.IsZero()
}

// pay takes a retry from the budget if another endpoint of the same set is going
// to be tried. To wait for another set costs nothing: its workers have not seen
// the request, and it is how a crash goes unnoticed.
func (t *turn) pay() error {
	set := t.backend.set.Load()
	if set != t.seen || set.exhausted(t.avoid) || t.backend.mayRetry() {
		return nil
	}
	return fmt.Errorf("%w (not tried again: too many requests are)", t.failed)
}

// look makes set the one that is searched.
func (t *turn) look(set *endpointSet) {
	if set != t.seen {
		t.seen, t.avoid = set, nil
	}
}

// pick enters a ready endpoint and returns it, or nil if there is none or
// others come first.
func (t *turn) pick() *Endpoint {
	for t.backend.inLine.Load() == 0 {
		e := t.choose()
		if e == nil || t.enter(e) {
			return e
		}
	}
	t.look(t.backend.set.Load())
	return nil
}

// choose returns a ready endpoint that was not found unreachable and has room,
// or nil.
func (t *turn) choose() *Endpoint {
	t.look(t.backend.set.Load())
	if t.lost != nil {
		if e := t.seen.choose(append(t.avoid, t.lost)); e != nil {
			return e
		}
	}
	return t.seen.choose(t.avoid)
}

// enter enters e unless the set was replaced since choose, or the last place was
// taken. The set is looked at after entering: either the swap sees this request
// in the endpoint's count, or this sees the swap and backs off before a byte is
// sent.
func (t *turn) enter(e *Endpoint) bool {
	if !e.enter() {
		return false
	}
	if t.backend.set.Load() == t.seen {
		return true
	}
	e.leave()
	return false
}

// wait lets the request wait in the line. An empty handover without an error
// means that the set was replaced before the wait began.
func (t *turn) wait(ctx context.Context) (handover, error) {
	w, p, err := t.join()
	if w == nil {
		return handover{}, err
	}
	timer := time.NewTimer(time.Until(p.until))
	defer timer.Stop()
	select {
	case h := <-w.ready:
		return h, h.err
	case <-timer.C:
	case <-ctx.Done():
	}
	h, late := t.backend.forget(w)
	switch {
	case ctx.Err() != nil:
		if h.endpoint != nil {
			h.endpoint.leave()
		}
		return handover{}, context.Cause(ctx)
	case late:
		return h, h.err
	}
	return handover{}, t.giveUp(w, timedOut)
}

// join puts the request at the end of the line, unless it must not wait or need
// not.
func (t *turn) join() (*waiter, *patience, error) {
	b := t.backend
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, nil, errPageGone
	case b.set.Load() != t.seen:
		return nil, nil, nil
	}
	w := &waiter{ready: make(chan handover, 1), avoid: t.avoid, held: t.seen.exhausted(t.avoid)}
	p, limits := &t.queue, b.o.Queue
	if w.held {
		if b.failed != nil {
			return nil, nil, noWorker(b.failed)
		}
		p, limits = &t.hold, b.o.Hold
	}
	p.begin(limits)
	if !b.join(w, p.max) {
		return nil, nil, t.giveUp(w, turnedAway)
	}
	return w, p, nil
}

// begin reads the limits before the first wait.
func (p *patience) begin(limits func() (time.Duration, int)) {
	if !p.until.IsZero() {
		return
	}
	timeout, max := limits()
	if timeout <= 0 {
		max = 0
	}
	p.until, p.max = time.Now().Add(timeout), max
}

// Why a wait was in vain.
const (
	timedOut = iota
	turnedAway
)

// giveUp counts a wait that was in vain and returns the reason: the dial error,
// if there was one, or what w, which is out of the line, has waited for.
func (t *turn) giveUp(w *waiter, why int) error {
	c := &t.backend.count
	n, err := &c.queueTimeouts, errQueueTimeout
	switch {
	case w.held && why == turnedAway:
		n, err = &c.holdFull, errHoldFull
	case w.held:
		n, err = &c.holdTimeouts, errHoldTimeout
	case why == turnedAway:
		n, err = &c.queueFull, errQueueFull
	}
	n.Add(1)
	if t.dial != nil {
		return t.dial
	}
	return err
}

// faultError is a fault on its way through code that speaks errors.
type faultError struct{ fault }

func (e *faultError) Error() string { return fmt.Sprint("proxy: ", &e.fault) }
func (e *faultError) Unwrap() error { return e.cause }

// asFault returns the fault that err carries, if any.
func asFault(err error) *fault {
	if fe, ok := errors.AsType[*faultError](err); ok {
		return &fe.fault
	}
	return nil
}
