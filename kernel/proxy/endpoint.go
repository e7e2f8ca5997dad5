package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	dialTimeout           = 2 * time.Second // a worker is on this machine: longer means that its backlog is full
	expectContinueTimeout = time.Second     // then the body is sent unasked, as RFC 9110 10.1.1 allows
	defaultIdleTimeout    = 90 * time.Second
	idleMargin            = 5 * time.Second
)

// EndpointOptions describe one worker.
type EndpointOptions struct {
	Addr string // host:port it listens on, or the absolute path of its unix socket

	// For the log; Worker is short, such as "api-3 (pid 123)".
	Page, Release, Worker string

	// ResponseTimeout is how long the worker may take from the end of the
	// request to its response headers, and before them to take the next bytes
	// of a body; then the client gets 504. 0: no limit.
	ResponseTimeout time.Duration

	// StreamIdleTimeout is how long the worker may send nothing in the midst of
	// an answer; then the answer is cut short. 0: no limit.
	StreamIdleTimeout time.Duration

	// IdleTimeout is after how long the worker closes an idle connection. The
	// proxy closes it earlier, at max(IdleTimeout-5s, IdleTimeout/2), so that no
	// request meets a connection about to be closed. 0: the proxy closes
	// after 90 s, and the worker is taken never to.
	IdleTimeout time.Duration

	// MaxInFlight is how many requests, streams and upgraded connections the
	// worker is given at a time; others wait, see BackendOptions.Queue. One
	// whose client has left counts no more, though the worker may not have
	// noticed yet. 0: no limit. [Endpoint.SetMaxInFlight] changes it.
	MaxInFlight int

	// MaxRequests is how many requests may be given to the worker before
	// OnLimit is called, once. Requests go on being given to it. 0: no limit.
	// OnLimit is called in a request's goroutine and must not block.
	MaxRequests uint64
	OnLimit     func()

	// OnUnreachable is called in a request's path whenever the worker takes no
	// connection. It must not block.
	OnUnreachable func(error)
}

// Endpoint is one worker as the proxy sees it: an address, connections that
// belong to nobody else, and a count of the requests in flight. It is safe for
// concurrent use. It belongs to one [Backend] at a time.
type Endpoint struct {
	o        EndpointOptions
	pool     pool
	inFlight atomic.Int64
	requests atomic.Uint64
	failures atomic.Uint64
	draining atomic.Int32 // callers in Drain
	limit    atomic.Int64 // of inFlight; 0: none
	row      atomic.Int64 // failures in a row
	spell    atomic.Pointer[spell]
	backend  atomic.Pointer[Backend] // the one it was in last; nil: none yet
	record   record                  // guarded by backend.mu

	mu     sync.Mutex
	empty  chan struct{} // closed and replaced when a drained endpoint has nothing in flight
	open   map[io.Closer]struct{}
	closed bool
}

// NewEndpoint returns an endpoint without connections; the first request
// dials.
func NewEndpoint(o EndpointOptions) *Endpoint {
	e := &Endpoint{o: o, empty: make(chan struct{}), open: make(map[io.Closer]struct{})}
	e.pool.timeout = ownIdleTimeout(o.IdleTimeout)
	e.limit.Store(int64(o.MaxInFlight))
	return e
}

// InFlight returns how many requests, streams and upgraded connections the
// worker is serving.
func (e *Endpoint) InFlight() int64 { return e.inFlight.Load() }

// Requests returns how many requests were given to the worker.
func (e *Endpoint) Requests() uint64 { return e.requests.Load() }

// Failures returns how many of the requests the worker has failed: it answered
// with 5xx, broke the connection, or took too long.
func (e *Endpoint) Failures() uint64 { return e.failures.Load() }

// Drain waits until nothing is in flight or ctx ends, then closes idle
// connections. It does not keep requests away: take the endpoint out of its
// backend first. The error wraps that of ctx and says how much was left.
func (e *Endpoint) Drain(ctx context.Context) error {
	defer e.pool.closeIdle()
	e.draining.Add(1)
	defer e.draining.Add(-1)
	for {
		// leave subtracts before it reads draining, and this adds to draining
		// before it reads the count: one of the two sees the other.
		empty := e.whenEmpty()
		left := e.inFlight.Load()
		if left == 0 {
			return nil
		}
		select {
		case <-empty:
		case <-ctx.Done():
			return fmt.Errorf("drain %s: %d requests in flight: %w", e.o.Worker, left, context.Cause(ctx))
		}
	}
}

// Close ends what is in flight, upgraded connections included, and all
// connections. It does not wait for the requests to return; clients of
// unfinished responses see them cut short. Later requests cannot reach the
// worker.
func (e *Endpoint) Close() {
	e.mu.Lock()
	e.closed = true
	open := e.open
	e.open = nil
	e.mu.Unlock()
	for c := range open {
		c.Close()
	}
	e.pool.closeIdle()
}

// MaxInFlight returns the limit of what is in flight; 0 is none.
func (e *Endpoint) MaxInFlight() int { return int(e.limit.Load()) }

// SetMaxInFlight changes the limit of what is in flight, for requests to come.
// It does not block.
func (e *Endpoint) SetMaxInFlight(n int) {
	e.limit.Store(int64(n))
	if b := e.backend.Load(); b != nil {
		b.handOn()
	}
}

// enter counts a request in, unless there is no room. Every one that was counted
// in needs a leave.
func (e *Endpoint) enter() bool {
	if !e.occupy() {
		return false
	}
	if b := e.backend.Load(); b != nil {
		b.came()
	}
	return true
}

// occupy is enter for a request that the backend has counted in.
func (e *Endpoint) occupy() bool {
	for {
		limit := e.limit.Load()
		if limit <= 0 {
			e.inFlight.Add(1)
			return true
		}
		n := e.inFlight.Load()
		if n >= limit {
			return false
		}
		if e.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (e *Endpoint) full() bool {
	limit := e.limit.Load()
	return limit > 0 && e.inFlight.Load() >= limit
}

// leave counts a request out and gives its place to the first in line.
func (e *Endpoint) leave() {
	if e.inFlight.Add(-1) == 0 && e.draining.Load() > 0 {
		e.mu.Lock()
		close(e.empty)
		e.empty = make(chan struct{})
		e.mu.Unlock()
	}
	b := e.backend.Load()
	if b == nil {
		return
	}
	b.went()
	if b.inLine.Load() > 0 {
		b.handOn()
	}
}

// count notes that the worker was given a request.
func (e *Endpoint) count() {
	if e.requests.Add(1) == e.o.MaxRequests && e.o.OnLimit != nil {
		e.o.OnLimit()
	}
}

func (e *Endpoint) whenEmpty() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.empty
}

// track makes Close close c, too. It reports false if Close was called.
func (e *Endpoint) track(c io.Closer) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.open[c] = struct{}{}
	return true
}

func (e *Endpoint) untrack(c io.Closer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.open, c)
}

// dialError says that no byte has reached the worker.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

var errEndpointClosed = errors.New("proxy: endpoint is closed")

// dial connects to the worker.
func (e *Endpoint) dial(ctx context.Context) (*workerConn, error) {
	conn, err := dialWorker(ctx, e.network(), e.o.Addr)
	if err != nil {
		if ctx.Err() == nil && !isLocalLimit(err) && e.o.OnUnreachable != nil {
			e.o.OnUnreachable(err)
		}
		return nil, &dialError{err}
	}
	c, err := newWorkerConn(conn.(stream), e)
	if err != nil {
		conn.Close()
		return nil, &dialError{err}
	}
	if !e.track(c) {
		c.Close()
		return nil, &dialError{errEndpointClosed}
	}
	return c, nil
}

// network is what [net.Dial] calls the kind of the worker's address.
func (e *Endpoint) network() string {
	if strings.HasPrefix(e.o.Addr, "/") {
		return "unix"
	}
	return "tcp"
}

// host is what a request is addressed to that does not say so itself.
func (e *Endpoint) host() string {
	if e.network() == "unix" {
		return "localhost"
	}
	return e.o.Addr
}

// isLocalLimit reports whether a dial failed for want of something on our
// side, which says nothing about the worker.
func isLocalLimit(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENOBUFS)
}

// ownIdleTimeout is when the proxy closes an idle connection to a worker that
// closes it after t.
func ownIdleTimeout(t time.Duration) time.Duration {
	if t <= 0 {
		return defaultIdleTimeout
	}
	return max(t-idleMargin, t/2)
}
