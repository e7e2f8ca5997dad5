package watcher

import (
	"testing"
	"testing/synctest"
	"time"
)

const ms = time.Millisecond

func TestBurst(t *testing.T) {
	for name, c := range map[string]struct {
		quiet, gap time.Duration
		events     int
		files      int
		half       bool
		want       time.Duration // after the first event
	}{
		"one save":             {50 * ms, 0, 1, 1, false, 10 * ms},
		"a slow save":          {50 * ms, 9 * ms, 3, 1, false, 28 * ms},
		"two files":            {50 * ms, 9 * ms, 2, 2, false, 19 * ms},
		"half a file":          {50 * ms, 0, 1, 1, true, 50 * ms},
		"in pieces":            {50 * ms, 40 * ms, 3, 1, true, 130 * ms},
		"quiet after the last": {50 * ms, 9 * ms, 3, 3, false, 68 * ms},
		"never longer than 10": {100 * ms, 19 * ms, 500, 3, false, 1000 * ms},
		"500 ms at least":      {10 * ms, ms, 1000, 3, false, 500 * ms},
		"at once":              {0, 0, 1, 1, false, 0},
		"rough":                {50 * ms, 0, 1, 0, false, 50 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBurst()
				b.quiet = c.quiet
				begin := time.Now()
				var took time.Duration
				for i := range c.events {
					b.event(i, c.files, !c.half)
					if i == c.events-1 {
						<-b.timer.C
						took = time.Since(begin)
						break
					}
					select {
					case <-b.timer.C:
						took = time.Since(begin)
					case <-time.After(c.gap):
						continue
					}
					break
				}
				if took != c.want {
					t.Errorf("ended after %v, want %v", took, c.want)
				}
				b.reset()
				time.Sleep(c.quiet)
				again := time.Now()
				b.note("one", true)
				<-b.timer.C
				if d := time.Since(again); d != c.quiet/smallShare {
					t.Errorf("the next burst took %v, want %v", d, c.quiet/smallShare)
				}
			})
		})
	}
}

// A checkout that pauses after two files looks like a save until then, and like a checkout ever after.
func TestBurstRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBurst()
		b.quiet = 50 * ms
		for i, want := range []time.Duration{10 * ms, 10 * ms, 50 * ms} {
			begin := time.Now()
			b.event(i, 3, true)
			b.led = true
			<-b.timer.C
			if took := time.Since(begin); took != want {
				t.Errorf("file %d: ended after %v, want %v", i, took, want)
			}
			b.reset()
		}
		if !b.led {
			t.Error("the report of before is forgotten too early")
		}
		b.note("a", true)
		if b.led || len(b.files) != 1 {
			t.Error("a quiet time changes nothing")
		}
	})
}

// event notes the i-th event, of so many files; it is rough when there are none.
func (b *burst) event(i, files int, complete bool) {
	if files == 0 {
		b.noteRough()
		return
	}
	b.note(string(rune('a'+i%files)), complete)
}
