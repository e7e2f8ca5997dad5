package kernel

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tqserver/tqserver/config"
)

func TestWorkersForALoad(t *testing.T) {
	type span struct {
		d    time.Duration
		load load
	}
	busy := load{requests: 9, peak: 9, enough: 4}
	queue := load{requests: 1, waiting: 1, peak: 1, enough: 4}
	usual := load{requests: 5, peak: 5, enough: 4}
	calm := load{enough: 4}
	settling := load{requests: 100, peak: 100, enough: 4, unsettled: true}
	for name, c := range map[string]struct {
		spans []span
		want  int
	}{
		"nothing to do":                          {[]span{{time.Hour, calm}}, 1},
		"too much for a moment":                  {[]span{{growAfter - scaleEvery, busy}}, 2},
		"too much for a second":                  {[]span{{growAfter, busy}}, 3},
		"a queue for a second":                   {[]span{{growAfter, queue}}, 3},
		"too much, with a pause":                 {[]span{{growAfter / 2, busy}, {scaleEvery, usual}, {growAfter - scaleEvery, busy}}, 2},
		"too much for two":                       {[]span{{2 * growAfter, busy}}, 3}, // for three it is not
		"enough to do":                           {[]span{{time.Hour, usual}}, 2},
		"little to do, not for long":             {[]span{{shrinkAfter, calm}}, 2}, // the time begins when the average is low
		"little to do for long":                  {[]span{{shrinkAfter + 20*time.Second, calm}}, 1},
		"a start under way":                      {[]span{{growAfter, settling}}, 2},
		"too much, then a start, then too much":  {[]span{{growAfter / 2, busy}, {scaleEvery, settling}, {growAfter / 2, busy}}, 2},
		"a moment of much to do among long calm": {[]span{{shrinkAfter / 2, calm}, {scaleEvery, busy}, {shrinkAfter - scaleEvery, calm}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s, workers, now := scale{mean: 5}, 2, time.Unix(1000, 0)
			for _, span := range c.spans {
				for end := now.Add(span.d); !now.After(end); now = now.Add(scaleEvery) {
					l := span.load
					l.workers = workers
					next := s.want(l, now)
					if d := next - workers; d < -1 || d > 1 {
						t.Fatalf("from %d to %d workers in one step", workers, next)
					}
					workers = max(1, next)
				}
			}
			if workers != c.want {
				t.Errorf("%d workers, want %d", workers, c.want)
			}
		})
	}
}

// A load that has brought a worker does not have it taken away again, and one that has taken it away does not bring it
// back: else there would be no end.
func TestNumberOfWorkersSettles(t *testing.T) {
	for requests := range 40 {
		for start := 1; start <= 10; start++ {
			var s scale
			workers, changes, up := start, 0, false
			for now := time.Unix(1000, 0); now.Before(time.Unix(1000+3600, 0)); now = now.Add(scaleEvery) {
				next := s.want(load{workers: workers, enough: 4, requests: requests, peak: requests}, now)
				if next != workers && changes > 0 && up != (next > workers) {
					t.Fatalf("%d requests at a time: %d workers become %d, after a step the other way", requests, workers, next)
				}
				if next != workers {
					changes, up, workers = changes+1, next > workers, next
				}
			}
			if requests > workers*4 {
				t.Errorf("%d requests at a time, and %d workers in the end", requests, workers)
			}
		}
	}
}

func TestEnoughForAWorker(t *testing.T) {
	for _, c := range []struct {
		procs, limit, want int
	}{{1, 0, 4}, {2, 0, 8}, {1, 3, 3}, {1, 100, 4}} {
		if got := enough(config.Worker{GoMaxProcs: c.procs, MaxInFlight: c.limit}); got != c.want {
			t.Errorf("%d processors, %d in flight: %d, want %d", c.procs, c.limit, got, c.want)
		}
	}
	if got := enough(config.Worker{}); got < enoughPerProc {
		t.Errorf("all processors: %d", got)
	}
}

// Only pages that want it are looked at, and a decision that something has overtaken does nothing.
func TestScalingKeepsToItsBounds(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.Default.Instances = config.Instances{Min: 1, Max: 2} })
	p := testPage(t, k, "a")
	p.releaseBuilt(builtAs(testRelease(t, "one", "serve")), nil)
	p.until(t, "a worker", func() bool { return p.current != nil && p.candidate == nil })
	p.rescale(2, 3) // decided when there were two
	if p.wanted() != 1 || p.candidate != nil {
		t.Fatalf("%d are wanted", p.wanted())
	}
	p.rescale(1, 2)
	p.until(t, "two workers", func() bool { return len(p.set()) == 2 && p.candidate == nil })
	lead, now := p.current, time.Now()
	p.publish()
	for end := now.Add(shrinkAfter + time.Second); now.Before(end); now = now.Add(scaleEvery) { // nothing to do
		p.weigh(now)
	}
	p.until(t, "one worker", func() bool { return len(p.set()) == 1 && len(p.leaving) == 0 })
	if p.current != lead || p.candidate != nil {
		t.Error("the lead has gone")
	}
	k.testReload(t, p, func(c *config.Config) { c.Workers.Default.Instances = config.Instances{Min: 3, Max: 3} })
	p.until(t, "three workers", func() bool { return len(p.set()) == 3 && p.candidate == nil })
	k.testReload(t, p, func(c *config.Config) { c.Workers.Default.Instances = config.Instances{Min: 1, Max: 5} })
	if p.wanted() != 3 {
		t.Errorf("three serve, and %d are wanted of 1-5", p.wanted())
	}
}

func TestScalePagesEndsWithItsContext(t *testing.T) {
	k := testKernel(t)
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		go func() { ended <- k.scalePages(t.Context()) }()
		time.Sleep(10 * scaleEvery)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Errorf("it ended: %v", err)
		default:
		}
	})
}
