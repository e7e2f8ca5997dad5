package proxy

import (
	"sync"
	"time"
)

// The budget for retries is that of Finagle and Linkerd: a fifth of the requests
// and ten a second, saved up for ten seconds at most.
const (
	retryRatio     = 0.2
	retryPerSecond = 10.0
	retryWindow    = 10.0 // seconds
)

// budget bounds how many more requests workers get since others fail, so that
// a page that is dying of its load does not get twice as much. The zero value is
// full.
type budget struct {
	mu     sync.Mutex // held while what spend is given is read, too, so that it only grows
	at     time.Time  // of the last spend; zero: none yet
	seen   uint64     // requests until then
	recent float64    // about how many of them came within the window
	tokens float64
}

// mayRetry takes a retry from the budget, if there is one left.
func (b *Backend) mayRetry() bool {
	b.budget.mu.Lock()
	ok := b.budget.spend(b.count.requests.Load(), time.Now())
	b.budget.mu.Unlock()
	if ok {
		b.count.retries.Add(1)
	} else {
		b.count.retriesDenied.Add(1)
	}
	return ok
}

// mayRetry is that of the backend. An endpoint that was in none has no budget to
// keep to.
func (e *Endpoint) mayRetry() bool {
	b := e.backend.Load()
	return b == nil || b.mayRetry()
}

// spend takes a token. requests is how many there were in all. b.mu is held.
func (b *budget) spend(requests uint64, now time.Time) bool {
	b.earn(requests, now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *budget) earn(requests uint64, now time.Time) {
	if b.at.IsZero() {
		b.at = now.Add(-retryWindow * time.Second)
	}
	passed := now.Sub(b.at).Seconds()
	came := float64(requests - b.seen)
	if passed >= retryWindow {
		b.recent = came * retryWindow / passed
	} else {
		b.recent = b.recent*(1-passed/retryWindow) + came
	}
	b.tokens += passed*retryPerSecond + came*retryRatio
	b.tokens = min(b.tokens, retryWindow*retryPerSecond+b.recent*retryRatio)
	b.at, b.seen = now, requests
}
