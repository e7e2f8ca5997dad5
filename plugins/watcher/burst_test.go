package watcher

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBurst(t *testing.T) {
	for name, c := range map[string]struct {
		quiet, gap time.Duration
		events     int
		files      int
		want       time.Duration // after the first event
	}{
		"one save":             {50 * time.Millisecond, 0, 1, 1, 10 * time.Millisecond},
		"a slow save":          {50 * time.Millisecond, 9 * time.Millisecond, 3, 1, 28 * time.Millisecond},
		"two files":            {50 * time.Millisecond, 9 * time.Millisecond, 2, 2, 19 * time.Millisecond},
		"quiet after the last": {50 * time.Millisecond, 9 * time.Millisecond, 3, 3, 68 * time.Millisecond},
		"never longer than 10": {100 * time.Millisecond, 19 * time.Millisecond, 500, 3, 1000 * time.Millisecond},
		"500 ms at least":      {10 * time.Millisecond, time.Millisecond, 1000, 3, 500 * time.Millisecond},
		"at once":              {0, 0, 1, 1, 0},
		"many at once":         {50 * time.Millisecond, 0, 1, 0, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBurst()
				b.quiet = c.quiet
				begin := time.Now()
				var took time.Duration
				for i := range c.events {
					b.note(fileName(i, c.files))
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
				again := time.Now()
				b.note("one")
				<-b.timer.C
				if d := time.Since(again); d != c.quiet/smallShare {
					t.Errorf("the next burst took %v, want %v", d, c.quiet/smallShare)
				}
			})
		})
	}
}

// fileName gives the i-th event's file, of so many; "" when it is of all.
func fileName(i, files int) string {
	if files == 0 {
		return ""
	}
	return string(rune('a' + i%files))
}
