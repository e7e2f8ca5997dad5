package kernel

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// workshop is what the builds of one builder share: a builder that hangs holds up its own pages alone.
type workshop struct {
	heard atomic.Int64 // when there was last an event or a result, in ns
	queue queue
}

// queue has builds wait for each other, so that no more run than there are cores. The one that is needed most is next,
// not the one that came first. It is safe for concurrent use; the zero value is for runtime.NumCPU builds.
type queue struct {
	slots int // 0: as many as there are cores

	mu      sync.Mutex
	running int
	waiting []*turn // in the order of their arrival
}

// turn is the wait of one build.
type turn struct {
	need  func() need // at the moment
	begin chan struct{}
}

// need tells how much a page needs its build.
type need struct {
	awaited bool    // somebody waits for it
	traffic float64 // see traffic
}

func (n need) compare(m need) int {
	switch {
	case n.awaited == m.awaited:
		return cmp.Compare(n.traffic, m.traffic)
	case n.awaited:
		return 1
	}
	return -1
}

// enter waits until a build may begin, or ctx ends. leave is to be called when the build has ended. need is called
// while builds wait, from other goroutines, and must not block.
func (q *queue) enter(ctx context.Context, need func() need) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &turn{need: need, begin: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, t)
	q.next()
	q.mu.Unlock()
	select {
	case <-t.begin:
		return sync.OnceFunc(q.leave), nil
	case <-ctx.Done():
		q.giveUp(t)
		return nil, ctx.Err()
	}
}

func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.next()
}

// giveUp takes a turn out of the queue; its slot, if it has just got one, goes to the next.
func (q *queue) giveUp(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, t); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		return
	}
	q.running--
	q.next()
}

// next lets those begin for which there is a slot. The lock is held.
func (q *queue) next() {
	slots := q.slots
	if slots == 0 {
		slots = runtime.NumCPU()
	}
	for q.running < slots && len(q.waiting) > 0 {
		first, most := 0, q.waiting[0].need()
		for i, t := range q.waiting[1:] {
			if n := t.need(); n.compare(most) > 0 {
				first, most = i+1, n
			}
		}
		close(q.waiting[first].begin)
		q.waiting = slices.Delete(q.waiting, first, first+1)
		q.running++
	}
}
