package kernel

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/tqserver/tqserver/kernel/proxy"
)

const (
	trafficMemory = time.Minute      // after which requests count for a third (1/e)
	trafficSample = 10 * time.Second // between two looks at all pages
)

// traffic is how many requests a page has had of late. It is made of what the workers count anyhow, so that a request
// costs nothing more. Safe for concurrent use.
type traffic struct {
	mu     sync.Mutex
	seen   map[counter]uint64 // requests of the workers that served at the last look
	at     time.Time
	recent float64
}

// counter counts requests from 0.
type counter interface{ Requests() uint64 }

var _ counter = (*proxy.Endpoint)(nil)

// sample counts what has come since the last time, and gives how many requests came of late.
func (t *traffic) sample(workers []counter, now time.Time) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.at.IsZero() {
		t.recent *= math.Exp(-max(now.Sub(t.at), 0).Seconds() / trafficMemory.Seconds())
	}
	t.at = now
	seen := make(map[counter]uint64, len(workers))
	for _, w := range workers {
		seen[w] = w.Requests()
		t.recent += float64(seen[w] - t.seen[w])
	}
	for w, n := range t.seen {
		if _, stays := seen[w]; !stays {
			t.recent += float64(w.Requests() - n)
		}
	}
	t.seen = seen
	return t.recent
}

// sampleTraffic looks at all pages now and then, so that it is known which requests are recent.
func (k *Kernel) sampleTraffic(ctx context.Context) error {
	tick := time.NewTicker(trafficSample)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, p := range k.routes.list() {
				p.recent(now)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *page) recent(now time.Time) float64 {
	var workers []counter
	for _, inst := range p.view.Load().serving {
		workers = append(workers, inst.endpoint)
	}
	return p.traffic.sample(workers, now)
}

// need tells how much a page needs its build: first of all when requests are held for it or a browser shows it.
func (k *Kernel) need(page string) need {
	p := k.routes.page(page)
	if p == nil {
		return need{} // an offline build, or the page has just gone
	}
	return need{awaited: p.backend.Held() > 0 || k.dev != nil && k.dev.Awaited(page), traffic: p.recent(time.Now())}
}

// page gives a page by its name, nil if there is none.
func (r *routes) page(name string) *page {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pages[name]
}
