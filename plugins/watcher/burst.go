package watcher

import "time"

// shortestLimit is how long a burst may last at least, however short the quiet time is.
const shortestLimit = 500 * time.Millisecond

// smallBurst is how many files a person saves at once: one, or two where the editor writes another beside it. When all
// of them are complete the save is over after a smallShare of the quiet time. More files are the work of a program (a
// checkout, a formatter), and worth the whole quiet time, as is what may be seen half done.
const (
	smallBurst = 2
	smallShare = 5
)

// burst tells when a burst of events is over: after a quiet time, but no later than ten times that (500 ms at least)
// after its first event, so that a file which is written all the time does not hold back the others. The timer fires
// once at the end of each burst. For use by one goroutine.
//
// What it remembers of the events, it forgets after the whole quiet time without any: a burst that ended after a share
// of it may turn out to be the beginning of a longer one.
type burst struct {
	quiet time.Duration
	last  time.Time       // event
	end   time.Time       // of the present burst at the latest; zero: there is none
	files map[string]bool // of late, one more than smallBurst at most -> complete
	rough bool            // of late: something went, came or changed that is no file
	led   bool            // of late: something was reported before the end of its burst
	timer *time.Timer
}

func newBurst() *burst {
	b := &burst{timer: time.NewTimer(time.Hour), files: map[string]bool{}}
	b.timer.Stop()
	return b
}

// note takes an event of a file, and whether it is complete. It may be written still if it is not.
func (b *burst) note(file string, complete bool) {
	b.begin()
	if _, ok := b.files[file]; ok || len(b.files) <= smallBurst {
		b.files[file] = complete
	}
	b.extend()
}

// noteRough takes an event after which the tree may be in a state that nobody wants it to be in.
func (b *burst) noteRough() {
	b.begin()
	b.rough = true
	b.extend()
}

// begin forgets what was before a quiet time.
func (b *burst) begin() {
	now := time.Now()
	if now.Sub(b.last) >= b.quiet {
		clear(b.files)
		b.rough, b.led = false, false
	}
	b.last = now
}

func (b *burst) extend() {
	if b.end.IsZero() {
		b.end = b.last.Add(max(10*b.quiet, shortestLimit))
	}
	quiet := b.quiet
	if b.small() && !b.rough && b.complete() {
		quiet /= smallShare
	}
	b.timer.Reset(max(min(quiet, b.end.Sub(b.last)), 0))
}

// small tells whether this looks like the work of a person.
func (b *burst) small() bool { return len(b.files) <= smallBurst }

func (b *burst) complete() bool {
	for _, complete := range b.files {
		if !complete {
			return false
		}
	}
	return true
}

// reset ends the burst.
func (b *burst) reset() {
	b.end = time.Time{}
	b.timer.Stop()
}
