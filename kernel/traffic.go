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
	worker counter // seen last; nil: none
	seen   uint64  // requests of it
	at     time.Time
	recent float64
}

// counter counts requests from 0.
type counter interface{ Requests() uint64 }

var _ counter = (*proxy.Endpoint)(nil)

// sample counts what has come since the last time, and gives how many requests came of late.
func (t *traffic) sample(worker counter, now time.Time) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.at.IsZero() {
		t.recent *= math.Exp(-max(now.Sub(t.at), 0).Seconds() / trafficMemory.Seconds())
	}
	t.at = now
	t.count()
	if t.worker != worker {
		t.worker, t.seen = worker, 0
		t.count()
	}
	return t.recent
}

func (t *traffic) count() {
	if t.worker != nil {
		n := t.worker.Requests()
		t.recent += float64(n - t.seen)
		t.seen = n
	}
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
	var worker counter
	if inst := p.view.Load().current; inst != nil {
		worker = inst.endpoint
	}
	return p.traffic.sample(worker, now)
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
