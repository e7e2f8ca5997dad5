package stage

import (
	"sync"
	"time"
)

const (
	outputBurst = 8 << 20 // bytes that a plugin may write as fast as it likes
	outputRate  = 1 << 20 // bytes a second beyond that: reading and dropping more would cost the kernel a core
)

// throttle holds whoever writes more than outputBurst bytes up to outputRate. It is safe for concurrent use.
type throttle struct {
	ended <-chan struct{} // closed when there is nobody left to hold up; nil: never

	mu   sync.Mutex
	debt float64 // bytes beyond the rate
	at   time.Time
}

// pass blocks for as long as n bytes more are too many.
func (t *throttle) pass(n int) {
	wait := t.owe(n, time.Now())
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ended:
	}
}

// owe counts n bytes at now and gives how long it takes until they are none too many.
func (t *throttle) owe(n int, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.debt = max(0, t.debt-now.Sub(t.at).Seconds()*outputRate) + float64(n)
	t.at = now
	return time.Duration((t.debt - outputBurst) / outputRate * float64(time.Second))
}
