// Package port leases the TCP ports that workers listen on.
package port

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrExhausted says that no port of the range can be leased now. [Pool.Changed] tells when to try again.
var ErrExhausted = errors.New("port: range is used up")

// Pool hands out the ports of a range, each to one owner at a time. It is safe for concurrent use.
type Pool struct {
	mu         sync.Mutex
	start, end int
	free       []int // least recently used first; never-used ports in ascending order before all others
	leased     map[int]*Lease
	changed    chan struct{}
	probe      func(port int) (free bool, err error)
}

// Info describes one lease.
type Info struct {
	Port  int
	Owner string
	Since time.Time
}

// Lease is the exclusive right to a port, within this process, until Release.
type Lease struct {
	pool *Pool
	info Info
}

// NewPool returns a pool of the ports start to end, both included. It opens nothing.
func NewPool(start, end int) *Pool {
	p := &Pool{leased: map[int]*Lease{}, changed: make(chan struct{}), probe: probe}
	p.Resize(start, end)
	return p
}

// Lease gives the least recently used port of the range on which a worker can listen, so that a port that was
// just released rests as long as possible. Ports on which another process listens, on any address, are passed
// over. It does not wait for a port: if there is none, the error is [ErrExhausted] and says why. Another error
// means that a port could not be probed (no file descriptors left, for instance). owner is for people to read.
func (p *Pool) Lease(owner string) (*Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, port := range p.free {
		free, err := p.probe(port)
		if err != nil {
			return nil, fmt.Errorf("lease port for %s: probe 127.0.0.1:%d: %w", owner, port, err)
		}
		if !free {
			continue
		}
		l := &Lease{p, Info{port, owner, time.Now()}}
		p.leased[port] = l
		p.free = slices.Delete(p.free, i, i+1)
		return l, nil
	}
	return nil, fmt.Errorf("lease port for %s: %w", owner, p.exhausted())
}

// Resize changes the range. Leases outside the new one stay valid until they are released.
func (p *Pool) Resize(start, end int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := map[int]bool{}
	used := []int{}
	for _, port := range p.free {
		known[port] = true
		if start <= port && port <= end {
			used = append(used, port)
		}
	}
	p.free = nil
	for port := start; port <= end; port++ {
		if !known[port] && p.leased[port] == nil {
			p.free = append(p.free, port)
		}
	}
	p.free = append(p.free, used...)
	p.start, p.end = start, end
	p.announce()
}

// Leases lists what is leased, by port.
func (p *Pool) Leases() []Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	infos := make([]Info, 0, len(p.leased))
	for _, l := range p.leased {
		infos = append(infos, l.info)
	}
	slices.SortFunc(infos, func(a, b Info) int { return a.Port - b.Port })
	return infos
}

// Changed returns a channel that is closed at the next Release or Resize. To miss none, take it before the
// call of Lease whose failure you want to repeat.
func (p *Pool) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Port returns the leased port.
func (l *Lease) Port() int { return l.info.Port }

// Release gives the port back. Call it when the worker has exited, not before. Further calls do nothing.
func (l *Lease) Release() {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	port := l.info.Port
	if p.leased[port] != l {
		return
	}
	delete(p.leased, port)
	if p.start <= port && port <= p.end {
		p.free = append(p.free, port)
	}
	p.announce()
}

// announce wakes those who wait on Changed. The caller holds the lock.
func (p *Pool) announce() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// exhausted explains why there is no port: every free one has just been found held by another process.
func (p *Pool) exhausted() error {
	var owners []string
	for port := p.start; port <= p.end; port++ {
		if l := p.leased[port]; l != nil {
			owners = append(owners, l.info.Owner)
		}
	}
	by := ""
	if len(owners) > 0 {
		by = " (" + abbreviate(owners, 5) + ")"
	}
	return fmt.Errorf("%w: of %d-%d, %d leased%s, %d held by other processes; widen workers.port_range_start to workers.port_range_end",
		ErrExhausted, p.start, p.end, len(owners), by, len(p.free))
}

func abbreviate(names []string, limit int) string {
	if len(names) <= limit {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
}
