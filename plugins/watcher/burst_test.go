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
		want       time.Duration // after the first event
	}{
		"one event":            {50 * time.Millisecond, 0, 1, 50 * time.Millisecond},
		"quiet after the last": {50 * time.Millisecond, 40 * time.Millisecond, 3, 130 * time.Millisecond},
		"never longer than 10": {100 * time.Millisecond, 90 * time.Millisecond, 50, 1000 * time.Millisecond},
		"500 ms at least":      {10 * time.Millisecond, 9 * time.Millisecond, 100, 500 * time.Millisecond},
		"at once":              {0, 0, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBurst()
				b.quiet = c.quiet
				begin := time.Now()
				var took time.Duration
				for i := range c.events {
					b.note()
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
				b.note()
				<-b.timer.C
				if d := time.Since(again); d != c.quiet {
					t.Errorf("the next burst took %v, want %v", d, c.quiet)
				}
			})
		})
	}
}
