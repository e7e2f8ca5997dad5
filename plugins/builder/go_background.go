package builder

import (
	"context"
	"os/exec"
	"sync"
	"time"
)

const (
	quietTime = 300 * time.Millisecond
	quietMost = 20 // times that background work waits for the builds to end
)

// background does work beside the builds: one piece at a time, when no build runs.
type background struct {
	quiet time.Duration // to wait before something is done, and again while builds run

	mu    sync.Mutex
	ctx   context.Context
	end   context.CancelFunc
	ended bool
	slot  chan struct{}
	all   sync.WaitGroup
}

// do has f called later, with a context that ends with stop. busy tells whether builds run.
func (g *background) do(busy func() bool, f func(ctx context.Context)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return
	}
	if g.ctx == nil {
		g.ctx, g.end = context.WithCancel(context.Background())
		g.slot = make(chan struct{}, 1)
	}
	g.all.Go(func() {
		if wait(g.ctx, g.quiet) != nil { // until the page that was built is up
			return
		}
		free, err := take(g.ctx, g.slot)
		if err != nil {
			return
		}
		defer free()
		for i := 0; i < quietMost && busy(); i++ { // not for ever: it has a low priority anyway
			if wait(g.ctx, g.quiet) != nil {
				return
			}
		}
		if g.ctx.Err() == nil {
			f(g.ctx)
		}
	})
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends what runs, and waits for its end. Nothing is begun any more.
func (g *background) stop() {
	g.mu.Lock()
	g.ended = true
	if g.end != nil {
		g.end()
	}
	g.mu.Unlock()
	g.all.Wait()
}

// gently gives the words of a command that runs another one with a low priority, and with standard error where
// standard output goes if both is set.
func gently(both bool, words ...string) []string {
	script := `exec "$@"`
	if _, err := exec.LookPath("nice"); err == nil {
		script = `exec nice -n 10 "$@"`
	}
	if both {
		script += " 2>&1"
	}
	return append([]string{"-c", script, "sh"}, words...)
}
