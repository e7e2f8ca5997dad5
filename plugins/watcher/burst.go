package watcher

import "time"

// shortestLimit is how long a burst may last at least, however short the quiet time is.
const shortestLimit = 500 * time.Millisecond

// burst tells when a burst of events is over: after a quiet time, but no later than ten times that (500 ms at least)
// after its first event, so that a file which is written all the time does not hold back the others. The timer fires
// once at the end of each burst. For use by one goroutine.
type burst struct {
	quiet time.Duration
	end   time.Time // of the present burst at the latest; zero: there is none
	timer *time.Timer
}

func newBurst() *burst {
	b := &burst{timer: time.NewTimer(time.Hour)}
	b.timer.Stop()
	return b
}

// note takes an event.
func (b *burst) note() {
	now := time.Now()
	if b.end.IsZero() {
		b.end = now.Add(max(10*b.quiet, shortestLimit))
	}
	b.timer.Reset(max(min(b.quiet, b.end.Sub(now)), 0))
}

// reset ends the burst.
func (b *burst) reset() {
	b.end = time.Time{}
	b.timer.Stop()
}
