package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// line is requests that come one after the other. It is for synctest bubbles,
// and its test holds mu but while it waits.
type line struct {
	t       *testing.T
	b       *Backend
	waiting []int             // in the order in which they came
	serving map[int]*Endpoint // who has got one, until leave
	failed  map[int]error
	cancel  map[int]context.CancelFunc
	order   []int // in which they were given one
	turns   int
	mu      sync.Mutex
}

func newLine(t *testing.T, b *Backend) *line {
	l := &line{t: t, b: b, serving: make(map[int]*Endpoint), failed: make(map[int]error), cancel: make(map[int]context.CancelFunc)}
	l.mu.Lock()
	t.Cleanup(l.mu.Unlock) // who waits leaves with t's context
	return l
}

// sleep lets time pass, and all that follows happen.
func (l *line) sleep(d time.Duration) {
	l.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	l.mu.Lock()
}

// arrive returns the number of a new request, once it has got an endpoint, an
// error or a place in the line.
func (l *line) arrive() int { return l.arriveAvoiding() }

// arriveAvoiding is arrive for a request that could not reach some endpoints.
func (l *line) arriveAvoiding(avoid ...*Endpoint) int {
	n := l.turns
	l.turns++
	ctx, cancel := context.WithCancel(l.t.Context())
	l.cancel[n] = cancel
	l.waiting = append(l.waiting, n)
	go func() {
		turn := turn{backend: l.b}
		if avoid != nil {
			turn.seen, turn.avoid = l.b.set.Load(), avoid
		}
		e, err := turn.next(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiting = slices.DeleteFunc(l.waiting, func(m int) bool { return m == n })
		if err != nil {
			l.failed[n] = err
			return
		}
		l.serving[n] = e
		l.order = append(l.order, n)
	}()
	l.sleep(0)
	return n
}

// leave ends a request that is being served.
func (l *line) leave(n int) {
	e := l.serving[n]
	delete(l.serving, n)
	e.leave()
	l.sleep(0)
}

func (l *line) leaveAll() {
	for len(l.serving) > 0 {
		for n := range l.serving {
			l.leave(n)
		}
	}
}

// TestLineIsFairWhateverHappens does anything at random, and after each step
// looks at what must hold: no worker has more than its limit, nobody waits while
// there is room, and nobody is served before one who came earlier.
func TestLineIsFairWhateverHappens(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			o := hold(20*time.Second, 8)
			o.Queue = func() (time.Duration, int) { return 10 * time.Second, 8 }
			b := NewBackend("p", o)
			l := newLine(t, b)
			for step := range 300 {
				before := slices.Clone(l.waiting)
				what := l.anything()
				l.check(before, fmt.Sprint("step ", step, ", ", what))
			}
			b.Close()
			l.sleep(0)
			l.leaveAll()
			for _, cancel := range l.cancel {
				cancel()
			}
			if n := b.load.Load(); n != 0 || len(l.serving)+len(l.failed)+len(l.waiting) != len(l.failed) || b.Held()+b.Queued() != 0 {
				t.Errorf("load %d at the end; %d serving, %d waiting", n, len(l.serving), len(l.waiting))
			}
		})
	}
}

func (l *line) anything() string {
	switch rand.IntN(12) {
	default:
		l.arrive()
		return "arrive"
	case 0, 1, 2, 3:
		for n := range l.serving {
			l.leave(n)
			break
		}
		return "leave"
	case 4:
		l.swap()
		return "swap"
	case 5:
		if len(l.waiting) > 0 {
			l.cancel[l.waiting[rand.IntN(len(l.waiting))]]()
		}
		l.sleep(0)
		return "client leaves"
	case 6:
		l.sleep(time.Duration(rand.IntN(5)) * time.Second)
		return "time passes"
	case 7:
		for _, e := range l.b.Endpoints() {
			e.strike()
		}
		l.sleep(0)
		return "all fail"
	}
}

// swap keeps some workers and adds some.
func (l *line) swap() {
	var set []*Endpoint
	for _, e := range l.b.Endpoints() {
		if oneIn(2) {
			set = append(set, e)
		}
	}
	for range rand.IntN(3) {
		set = append(set, limited(1+rand.IntN(3)))
	}
	l.b.Set(set...)
	l.sleep(0)
}

func (l *line) check(before []int, what string) {
	l.t.Helper()
	room := false
	for _, e := range l.b.Endpoints() {
		if e.InFlight() > int64(e.MaxInFlight()) {
			l.t.Fatalf("%s: %d in flight of %d", what, e.InFlight(), e.MaxInFlight())
		}
		room = room || !e.full() && e.EjectedUntil().IsZero()
	}
	if waiting := l.b.Queued() + l.b.Held(); room && waiting > 0 || waiting != len(l.waiting) {
		l.t.Fatalf("%s: %d wait (%v), room: %t", what, waiting, l.waiting, room)
	}
	skipped := false
	for _, n := range before {
		if slices.Contains(l.waiting, n) {
			skipped = true
		} else if l.serving[n] != nil && skipped {
			l.t.Fatalf("%s: of %v now serving %d, while waiting: %v", what, before, n, l.waiting)
		}
	}
}
