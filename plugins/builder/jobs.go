package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// ErrDraining is what Build returns after Drain was called.
var ErrDraining = errors.New("builder: draining, no new builds are taken")

// jobs counts the builds that run. The zero value is ready for use.
type jobs struct {
	mu      sync.Mutex
	running int
	idle    chan struct{} // not nil: draining; closed when nothing runs
}

// Drain takes no new builds and waits for those that run, or for ctx.
func (j *jobs) Drain(ctx context.Context) error {
	j.mu.Lock()
	if j.idle == nil {
		j.idle = make(chan struct{})
		if j.running == 0 {
			close(j.idle)
		}
	}
	idle := j.idle
	j.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *jobs) begin() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.idle != nil {
		return ErrDraining
	}
	j.running++
	return nil
}

func (j *jobs) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.running--; j.running == 0 && j.idle != nil {
		close(j.idle)
	}
}

// take waits for a place in each channel, one after the other. free gives them back.
func take(ctx context.Context, places ...chan struct{}) (free func(), err error) {
	var taken []chan struct{}
	free = func() {
		for _, c := range taken {
			<-c
		}
	}
	for _, c := range places {
		select {
		case c <- struct{}{}:
			taken = append(taken, c)
		case <-ctx.Done():
			free()
			return nil, ctx.Err()
		}
	}
	return free, nil
}

// temps are the temporary directories of the builds that run. Each kind of builder has a prefix of its own, as it
// knows of its own builds only.
type temps struct {
	prefix string
	mu     sync.Mutex
	live   map[string]bool
}

// make makes a directory in outDir with the named directories in it, and removes those that builds of a process which
// was killed left behind: the ones older than a build can take.
func (t *temps) make(outDir string, limit time.Duration, names ...string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(outDir, time.Now().Add(-limit-time.Minute))
	dir, err := os.MkdirTemp(outDir, t.prefix)
	if err != nil {
		return "", fmt.Errorf("make a directory for the build: %w", err)
	}
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			os.RemoveAll(dir)
			return "", fmt.Errorf("make a directory for the build: %w", err)
		}
	}
	if t.live == nil {
		t.live = map[string]bool{}
	}
	t.live[dir] = true
	return dir, nil
}

func (t *temps) sweep(outDir string, oldest time.Time) {
	found, _ := filepath.Glob(filepath.Join(sdk.QuoteMatch(outDir), t.prefix+"*"))
	for _, path := range found {
		if info, err := os.Lstat(path); err == nil && !t.live[path] && info.ModTime().Before(oldest) {
			os.RemoveAll(path)
		}
	}
}

func (t *temps) remove(dir string) error {
	err := os.RemoveAll(dir)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, dir)
	return err
}
