package kernel

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The server itself holds little in memory, so that the garbage collector, which by default lets a heap double, has to
// run often for the little that requests leave behind. It may let it grow by heapSlack instead: requests in net/http
// then cost a seventh less, for some 20 MiB.
const (
	heapSlack  = 32 << 20 // bytes
	mostGrowth = 400      // percent
	goGrowth   = 100      // percent, the default of Go
	heapSample = 10 * time.Second
)

// tuneGarbage adapts the garbage collector to the size of the heap, unless the user has set GOGC.
func (k *Kernel) tuneGarbage(ctx context.Context) error {
	if _, set := k.lookupEnv("GOGC"); set {
		return nil
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	now := mostGrowth
	defer debug.SetGCPercent(debug.SetGCPercent(now))
	tick := time.NewTicker(heapSample)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			metrics.Read(live)
			if next := growth(live[0].Value.Uint64()); next != now {
				debug.SetGCPercent(next) // which stops the world
				now = next
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// growth is by how many percent a heap may grow before it is collected.
func growth(live uint64) int {
	return int(min(max(heapSlack*100/max(live, 1), goGrowth), mostGrowth))
}
