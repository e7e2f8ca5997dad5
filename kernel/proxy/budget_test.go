package proxy

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRetriesAreBounded by a fifth of the requests, ten a second, and what is
// saved up in ten seconds, however they come.
func TestRetriesAreBounded(t *testing.T) {
	for range 30 {
		var b budget
		begin := time.Now()
		now, requests, retries := begin, uint64(0), 0.0
		for range 2_000 {
			now = now.Add(time.Duration(rand.ExpFloat64() * float64(20*time.Millisecond)))
			requests += uint64(rand.IntN(10))
			for range rand.IntN(10) {
				if b.spend(requests, now) {
					retries++
				}
			}
		}
		seconds := now.Sub(begin).Seconds()
		if most := 100 + 10*seconds + 0.2*float64(requests); retries > most+1 || retries < most/2 {
			t.Fatalf("%.0f retries of %.0f for %d requests in %.0f s", retries, most, requests, seconds)
		}
	}
}

// TestBudgetIsSavedForAWhileOnly: a quiet hour does not pay for a storm.
func TestBudgetIsSavedForAWhileOnly(t *testing.T) {
	var b budget
	now, n := time.Now(), 0
	b.spend(0, now)
	now = now.Add(time.Hour)
	for b.spend(3_600, now) { // one a second
		n++
	}
	if n != 102 {
		t.Errorf("%d retries at once", n)
	}
	now = now.Add(time.Second)
	for n = 0; b.spend(3_600, now); n++ {
	}
	if n != 10 {
		t.Errorf("%d retries in the next second", n)
	}
}

// TestRetriesAreBoundedForManyAtATime: between counting the requests and spending, others do both.
func TestRetriesAreBoundedForManyAtATime(t *testing.T) {
	const clients, requests = 8, 20_000
	b := NewBackend("p", BackendOptions{})
	var all sync.WaitGroup
	var retries atomic.Int64
	begin := time.Now()
	for range clients {
		all.Go(func() {
			for range requests {
				b.count.requests.Add(1)
				if b.mayRetry() {
					retries.Add(1)
				}
			}
		})
	}
	all.Wait()
	most := int64(100 + 10*time.Since(begin).Seconds() + 0.2*clients*requests)
	if n := retries.Load(); n > most+1 {
		t.Errorf("%d retries of %d for %d requests", n, most, clients*requests)
	}
}
