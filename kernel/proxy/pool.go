package proxy

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxIdleConns = 256 // how many unused connections to a worker are kept

	// trustAfter is how many connections of a worker must have been found open
	// and silent, none of them otherwise, until one that was used less than
	// trustTime ago is taken without a look.
	trustAfter = 100
	trustTime  = time.Millisecond
)

// pool holds the unused connections to one worker. The one used last is taken
// first, so that under less load the others grow old and are closed. It starts
// no goroutine, and is safe for concurrent use.
type pool struct {
	timeout time.Duration // after which an unused connection is closed
	trust   atomic.Int32  // looks since one that found something

	mu      sync.Mutex
	idle    []*workerConn // by the time of their last use
	reaper  *time.Timer   // nil until something was idle
	reaping bool          // reaper will fire
	shut    bool          // closeIdle was called, and no take since
}

// take returns a connection on which the worker is waiting for a request, or
// nil. It does not block.
func (p *pool) take(now time.Time) *workerConn {
	for {
		c := p.pop()
		if c == nil || p.usable(c, now) {
			return c
		}
		c.Close()
	}
}

// usable looks at a connection before it is used. Under load one is used again
// microseconds later, and the look is as much as a tenth of what the request
// costs: a worker that never gave rise to doubt is spared it there.
func (p *pool) usable(c *workerConn, now time.Time) bool {
	unused, trust := now.Sub(c.idleSince), p.trust.Load()
	switch {
	case unused >= p.timeout:
		return false
	case unused < trustTime && trust >= trustAfter && !c.blind:
		return true
	case !c.quiet():
		p.doubt()
		return false
	}
	if trust < trustAfter {
		p.trust.Add(1)
	}
	return true
}

// doubt has the connections looked at again before each use: one of them was
// closed without a word, or the worker said what nobody had asked for.
func (p *pool) doubt() { p.trust.Store(0) }

func (p *pool) pop() *workerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = false
	last := len(p.idle) - 1
	if last < 0 {
		return nil
	}
	c := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return c
}

// put takes back a connection on which nothing is under way, in neither
// direction, and on which nothing was since.
func (p *pool) put(c *workerConn, since time.Time) {
	c.reused, c.idleSince = true, since
	if !p.push(c) {
		c.Close()
	}
}

func (p *pool) push(c *workerConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut || len(p.idle) == maxIdleConns {
		return false
	}
	p.idle = append(p.idle, c)
	if !p.reaping {
		p.schedule(p.timeout)
	}
	return true
}

// schedule has reap called. p.mu is held.
func (p *pool) schedule(d time.Duration) {
	p.reaping = true
	if p.reaper == nil {
		p.reaper = time.AfterFunc(d, p.reap)
		return
	}
	p.reaper.Reset(d)
}

// reap closes what has been unused for too long.
func (p *pool) reap() {
	for _, c := range p.expired(time.Now()) {
		c.Close()
	}
}

func (p *pool) expired(now time.Time) []*workerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.idle) && now.Sub(p.idle[n].idleSince) >= p.timeout {
		n++
	}
	old := append([]*workerConn(nil), p.idle[:n]...)
	left := copy(p.idle, p.idle[n:])
	clear(p.idle[left:])
	p.idle = p.idle[:left]
	p.reaping = false
	if left > 0 {
		p.schedule(p.timeout - now.Sub(p.idle[0].idleSince))
	}
	return old
}

// closeIdle closes what is unused, and what is put back before the next take.
func (p *pool) closeIdle() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.shut = nil, true
	if p.reaping && p.reaper.Stop() {
		p.reaping = false
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

// stream is what a worker can be reached over.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// workerConn is a connection to a worker, which its endpoint can close. It is
// used by one request at a time.
type workerConn struct {
	stream
	endpoint  *Endpoint
	idleSince time.Time
	reused    bool // it has carried a request before
	blind     bool // more than the last answer may have come with it

	glances atomic.Int64 // until when, in nanoseconds of the clock; 0: another deadline is set

	raw  syscall.RawConn
	look func(fd uintptr) // peek or measure, made once so that a call allocates nothing
	seen glimpse
	part io.LimitedReader // of stream, for splice
}

// glimpse is what a look at a connection's receive buffer has found.
type glimpse struct {
	measure bool // what to look for: the number of bytes
	n       int
	err     error
}

func newWorkerConn(s stream, e *Endpoint) (*workerConn, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &workerConn{stream: s, endpoint: e, raw: raw, part: io.LimitedReader{R: s}}
	c.look = c.seen.look
	return c, nil
}

// glance sets a deadline of once or twice glanceTimeout, which need not be moved
// for each request.
func (c *workerConn) glance(now time.Time) {
	left := time.Duration(c.glances.Load() - now.UnixNano())
	if glanceTimeout <= left && left <= 2*glanceTimeout {
		return
	}
	until := now.Add(2 * glanceTimeout)
	_ = c.stream.SetDeadline(until)
	c.glances.Store(until.UnixNano())
}

func (c *workerConn) SetDeadline(t time.Time) error {
	c.glances.Store(0)
	return c.stream.SetDeadline(t)
}

func (c *workerConn) SetReadDeadline(t time.Time) error {
	c.glances.Store(0)
	return c.stream.SetReadDeadline(t)
}

func (c *workerConn) SetWriteDeadline(t time.Time) error {
	c.glances.Store(0)
	return c.stream.SetWriteDeadline(t)
}

func (c *workerConn) Close() error {
	c.endpoint.untrack(c)
	return c.stream.Close()
}

// quiet reports whether the connection is open and nothing has come that
// nobody asked for. What has come is lost.
func (c *workerConn) quiet() bool {
	c.seen.measure = false
	return c.raw.Control(c.look) == nil && c.seen.err == syscall.EAGAIN
}

// gone reports whether the worker has closed the connection, or it broke, and
// all that came before was read. If it has not, a byte may be lost.
func (c *workerConn) gone() bool {
	c.seen.measure = false
	return c.raw.Control(c.look) != nil || c.seen.n <= 0 && c.seen.err != syscall.EAGAIN
}

// pending returns how many bytes can be read without waiting; 0 where that
// cannot be told.
func (c *workerConn) pending() int64 {
	c.seen.measure = true
	if c.raw.Control(c.look) != nil || c.seen.err != nil {
		return 0
	}
	return int64(c.seen.n)
}

func (g *glimpse) look(fd uintptr) {
	if g.measure {
		g.n, g.err = bytesPending(int(fd))
		return
	}
	var b [1]byte
	for {
		if g.n, g.err = syscall.Read(int(fd), b[:]); g.err != syscall.EINTR {
			return
		}
	}
}
