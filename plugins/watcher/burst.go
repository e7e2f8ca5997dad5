package watcher

import "time"

// shortestLimit is how long a burst may last at least, however short the quiet time is.
const shortestLimit = 500 * time.Millisecond

// smallBurst is how many files a person saves at once: one, or two where the editor writes another beside it. A save
// is over when nothing happened for a smallShare of the quiet time, for an editor writes a file within a millisecond
// or two. More files are the work of a program (a checkout, a formatter), and worth the whole quiet time.
const (
	smallBurst = 2
	smallShare = 5
)

// burst tells when a burst of events is over: after a quiet time, but no later than ten times that (500 ms at least)
// after its first event, so that a file which is written all the time does not hold back the others. The timer fires
// once at the end of each burst. For use by one goroutine.
type burst struct {
	quiet time.Duration
	end   time.Time       // of the present burst at the latest; zero: there is none
	files map[string]bool // of the present burst, one more than smallBurst at most
	timer *time.Timer
}

func newBurst() *burst {
	b := &burst{timer: time.NewTimer(time.Hour), files: map[string]bool{}}
	b.timer.Stop()
	return b
}

// note takes an event of a file; "" is an event of many.
func (b *burst) note(file string) {
	now := time.Now()
	if b.end.IsZero() {
		b.end = now.Add(max(10*b.quiet, shortestLimit))
	}
	if len(b.files) <= smallBurst {
		b.files[file] = true
	}
	quiet := b.quiet
	if len(b.files) <= smallBurst && !b.files[""] {
		quiet /= smallShare
	}
	b.timer.Reset(max(min(quiet, b.end.Sub(now)), 0))
}

// reset ends the burst.
func (b *burst) reset() {
	b.end = time.Time{}
	clear(b.files)
	b.timer.Stop()
}
