package proxy

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRunQueueSeesThatOthersWait(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	q := newRunQueue()
	var over atomic.Bool
	var crowd sync.WaitGroup
	for range 5 {
		crowd.Go(func() {
			for !over.Load() {
				runtime.Gosched()
			}
		})
	}
	q.look()
	if q.crowd.Load() != queueLooks {
		t.Error("nobody was seen to wait")
	}
	over.Store(true)
	crowd.Wait()
	for n := 0; q.crowd.Load() > 0; n++ {
		if n == 1_000_000 {
			t.Fatal("somebody is always seen to wait")
		}
		runtime.Gosched() // to the runtime's own goroutines
		q.look()
	}
}

func TestYieldLetsOthersRunWhereSomeWait(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	q := newRunQueue()
	now := time.Now()
	q.due.Store(now.Add(maxEarly).UnixNano())
	q.crowd.Store(queueLooks)
	var ran atomic.Bool
	go ran.Store(true)
	for n := 0; !ran.Load(); n++ { // the scheduler takes the oldest first now and then
		if n == 5 {
			t.Fatal("yielded 5 times, and the other has not run")
		}
		q.yield(now)
	}
	if q.crowd.Load() != queueLooks {
		t.Error("looked before it was due")
	}
}

func TestRunQueueIsLookedAtAfterTheClockWasSetBack(t *testing.T) {
	q, now := newRunQueue(), time.Now()
	q.yield(now)
	q.yield(now.Add(-time.Hour))
	if due := time.Unix(0, q.due.Load()); due.After(now) {
		t.Error("the next look is due in an hour")
	}
}
