package watcher

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

var seed = flag.Uint64("seed", 0, "of TestRandomChanges; 0: another each time")

// Whatever is done to a tree in whatever order, the picture ends equal to the disk.
func TestRandomChanges(t *testing.T) {
	for mode, w := range map[string]func() *Fsnotify{"events": quick, "poll": polling} {
		for _, debounce := range []time.Duration{0, 5 * time.Millisecond} {
			t.Run(fmt.Sprint(mode, debounce), func(t *testing.T) {
				t.Parallel()
				first := *seed
				if first == 0 {
					first = rand.Uint64()
				}
				random := rand.New(rand.NewPCG(first, 0))
				t.Logf("-seed %d", first)
				root := site(t)
				r := start(t, w())
				r.send(sdk.WatchSet{Roots: []string{root}, Debounce: debounce})
				stop := drain(r)
				for i := range 15 {
					for range 20 {
						change(random, root)
					}
					stop()
					r.settle(root)
					if i%5 == 4 {
						r.send(sdk.WatchSet{Roots: []string{root}, Debounce: debounce})
					}
					stop = drain(r)
				}
				stop()
			})
		}
	}
}

// drain takes reports beside the test until the function it gives is called.
func drain(r *rig) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case c := <-r.reports:
				for _, change := range c.Changes {
					r.apply(change)
				}
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// change makes one random change below root. Many fail, which is as good.
func change(random *rand.Rand, root string) {
	path := func() string {
		p := root
		for range 1 + random.IntN(3) {
			p = filepath.Join(p, string(rune('a'+random.IntN(4))))
		}
		return p
	}
	file := filepath.Join(path(), fmt.Sprintf("f%d.go", random.IntN(3)))
	switch random.IntN(9) {
	case 0, 1, 2:
		_ = os.MkdirAll(filepath.Dir(file), 0o777)
		_ = os.WriteFile(file, fmt.Appendf(nil, "package p%d", random.IntN(100)), 0o666)
	case 3:
		_ = os.WriteFile(file+".tmp", fmt.Appendf(nil, "package q%d", random.IntN(100)), 0o666)
		_ = os.Rename(file+".tmp", file)
	case 4:
		_ = os.Remove(file)
	case 5:
		_ = os.RemoveAll(path())
	case 6, 7:
		_ = os.Rename(path(), path())
	case 8:
		_ = os.Rename(filepath.Dir(file), path())
	}
}
