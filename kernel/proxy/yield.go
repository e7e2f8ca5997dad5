package proxy

import (
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	// queueTime is how old the last look at the run queues may be.
	queueTime = time.Millisecond

	// maxEarly is how much too early a look can be; more, and the clock was set
	// back.
	maxEarly = time.Second

	// queueLooks is how many looks in a row have to find them empty until nobody
	// is thought to wait.
	queueLooks = 8
)

// run is the queue of goroutines that could run, but for want of a CPU.
var run = newRunQueue()

// runQueue knows roughly whether goroutines wait for a CPU. It is safe for
// concurrent use, and allocates nothing.
type runQueue struct {
	due    atomic.Int64 // when to look next, in nanoseconds of the clock
	crowd  atomic.Int32 // looks until it is taken to be empty
	looks  atomic.Bool  // somebody does
	sample [1]metrics.Sample
}

func newRunQueue() *runQueue {
	return &runQueue{sample: [1]metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}}}
}

// yield lets the others run first, if some wait to. It is for somebody who has
// written to a connection and wants to read the reply: to read at once would
// find nothing, and cost a system call, a wait in the netpoller and a wake-up.
// When the turn comes again the reply is often there. Where nobody waits,
// [runtime.Gosched] would wake an idle thread in vain.
func (q *runQueue) yield(now time.Time) {
	q.update(now)
	q.giveWay()
}

// giveWay is a yield that goes by what the last one has found.
func (q *runQueue) giveWay() {
	if q.crowd.Load() > 0 {
		runtime.Gosched()
	}
}

func (q *runQueue) update(now time.Time) {
	at := now.UnixNano()
	early := q.due.Load() - at
	if (early <= 0 || early > int64(maxEarly)) && q.looks.CompareAndSwap(false, true) {
		q.look()
		q.due.Store(at + int64(queueTime))
		q.looks.Store(false)
	}
}

func (q *runQueue) look() {
	metrics.Read(q.sample[:])
	if n := q.sample[0].Value; n.Kind() == metrics.KindUint64 && n.Uint64() > 0 {
		q.crowd.Store(queueLooks)
	} else if left := q.crowd.Load(); left > 0 {
		q.crowd.Store(left - 1)
	}
}
