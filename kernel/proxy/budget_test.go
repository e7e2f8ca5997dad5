package proxy

import (
	"math/rand/v2"
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
