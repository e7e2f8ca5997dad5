package kernel

import (
	"errors"
	"sync"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/port"
)

// reserveAge is how long a reserved port counts as looked at: a stranger may listen on it since.
const reserveAge = 5 * time.Second

// ports leases ports to workers. A page reserves one while it is built, so that a worker of it can be started at once;
// what nobody has used yet goes to whoever needs a port when there is none left. It is safe for concurrent use.
type ports struct {
	*port.Pool
	mu       sync.Mutex
	reserved map[string]reserve // by page
}

type reserve struct {
	lease *port.Lease
	since time.Time
}

func newPorts(start, end int) *ports {
	return &ports{Pool: port.NewPool(start, end), reserved: map[string]reserve{}}
}

// Reserve sets a port aside for the next Lease of the page, if there is one and none is set aside already.
func (p *ports) Reserve(page string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.reserved[page]; ok {
		return
	}
	if lease, err := p.Pool.Lease(page); err == nil {
		p.reserved[page] = reserve{lease, time.Now()}
	}
}

// Unreserve gives back what was set aside for a page.
func (p *ports) Unreserve(page string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.giveBack(page)
}

// Lease is [port.Pool.Lease], except that what is set aside for the page is used, and what is set aside for others is
// taken when there is nothing else.
func (p *ports) Lease(page string) (*port.Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, ok := p.reserved[page]; ok {
		if time.Since(r.since) < reserveAge {
			delete(p.reserved, page)
			return r.lease, nil
		}
		p.giveBack(page)
	}
	lease, err := p.Pool.Lease(page)
	for other := range p.reserved {
		if !errors.Is(err, port.ErrExhausted) {
			break
		}
		p.giveBack(other)
		lease, err = p.Pool.Lease(page)
	}
	return lease, err
}

// Resize is [port.Pool.Resize]. What was set aside may lie outside of the new range.
func (p *ports) Resize(start, end int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for page := range p.reserved {
		p.giveBack(page)
	}
	p.Pool.Resize(start, end)
}

// giveBack ends a reservation. The lock is held.
func (p *ports) giveBack(page string) {
	if r, ok := p.reserved[page]; ok {
		delete(p.reserved, page)
		r.lease.Release()
	}
}

// reserve sets a port aside, if the page's workers listen on ports.
func (p *page) reserve() {
	if p.settings.Endpoint != config.Unix {
		p.k.ports.Reserve(p.name)
	}
}

// unreserve gives back what nobody is going to use: no build that may end well is under way, and no start.
func (p *page) unreserve() {
	if p.building == nil && p.candidate == nil && (p.joining == nil || p.current != nil) {
		p.k.ports.Unreserve(p.name)
	}
}
