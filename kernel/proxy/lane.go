package proxy

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// LaneOptions configure a [Lane]. The functions must be safe for concurrent use
// and cheap; durations are read anew when they begin to count, and 0 is no
// limit.
type LaneOptions struct {
	// ReadHeader is how long a client may take to send the head of a request,
	// counted from its first byte, and how long that of the first may take to
	// come.
	ReadHeader func() time.Duration

	// Idle is how long a connection may be unused between requests.
	Idle func() time.Duration

	// HandOver takes over a connection that the lane does not serve, and what
	// was read of it already. It must not block for long. Where nobody serves it
	// any more, [Lane.TurnAway] takes it.
	HandOver func(c net.Conn, early []byte)

	// Ready reports whether requests can be routed; while they cannot,
	// connections are handed over. Nil: always.
	Ready func() bool
}

// Lane serves plain HTTP/1.1 without net/http: requests that are no more than a
// head and a small body. It hands a connection over at the first request that
// is anything else, or that is refused, and does not get it back. Answers,
// errors and log entries are those of the [Proxy]. It is safe for concurrent
// use; make one with [Proxy.NewLane].
type Lane struct {
	proxy *Proxy
	o     LaneOptions

	stopping atomic.Bool
	accepted atomic.Uint64
	requests atomic.Uint64
	idled    atomic.Uint64
	handed   [reasons]atomic.Uint64

	mu    sync.Mutex
	conns map[*laneConn]struct{}
	empty chan struct{} // closed when the last of conns is gone; nil unless Shutdown waits
}

// LaneStats are counts since the lane was made.
type LaneStats struct {
	Open       int               // connections now
	Accepted   uint64            // connections
	Requests   uint64            // requests that were served, those cut off for a slow head included
	Idled      uint64            // connections that were closed since no request came in time
	HandedOver map[string]uint64 // connections, by why they were handed over; complete, also where that is 0
}

// NewLane returns a lane of p. It starts nothing.
func (p *Proxy) NewLane(o LaneOptions) *Lane {
	if o.Ready == nil {
		o.Ready = func() bool { return true }
	}
	return &Lane{proxy: p, o: o, conns: make(map[*laneConn]struct{})}
}

// Serve serves a connection. It blocks until the connection is closed, also by
// Shutdown or Close, or handed over. A panic closes it, and goes to
// [Options.ErrorLog], as in net/http.
func (l *Lane) Serve(conn net.Conn) {
	l.accepted.Add(1)
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		l.handOver(handNotTCP, conn, nil)
		return
	}
	c, err := newLaneConn(l, tcp)
	if err != nil {
		_ = conn.Close()
		return
	}
	if !l.add(c) {
		c.turnAway(nil)
		return
	}
	defer l.remove(c)
	defer c.survive()
	c.serve()
}

// TurnAway says to the client of a connection that came too late for whoever
// serves it, in a 503, and closes it. early is what was read of it already; if
// that is nothing, the client has half a second to begin a request, and is not
// answered otherwise. It blocks for a second at most.
func (l *Lane) TurnAway(conn net.Conn, early []byte) {
	tcp, ok := conn.(*net.TCPConn)
	if served, again := conn.(servedConn); again {
		tcp, ok = served.TCPConn, true
	}
	if ok {
		if c, err := newLaneConn(l, tcp); err == nil {
			c.turnAway(early)
			return
		}
	}
	_ = conn.Close()
}

// Shutdown closes unused connections, has the answers to others say that they
// are the last, and waits until all are closed or ctx ends, whose error it
// returns. Requests that would be handed over, and those of later connections,
// get 503.
func (l *Lane) Shutdown(ctx context.Context) error {
	select {
	case <-l.stop():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stop begins a shutdown. The channel is closed when the lane has no
// connections.
func (l *Lane) stop() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopping.Store(true)
	if l.empty == nil {
		l.empty = make(chan struct{})
		if len(l.conns) == 0 {
			close(l.empty)
		}
	}
	for c := range l.conns {
		c.closeUnused()
	}
	return l.empty
}

// Close cuts all connections and waits until Serve has returned for each. What
// a worker is doing for one of them is broken off.
func (l *Lane) Close() error {
	empty := l.stop()
	l.mu.Lock()
	for c := range l.conns {
		c.cut()
	}
	l.mu.Unlock()
	<-empty
	return nil
}

// Stats returns the counts.
func (l *Lane) Stats() LaneStats {
	l.mu.Lock()
	open := len(l.conns)
	l.mu.Unlock()
	s := LaneStats{Open: open, Accepted: l.accepted.Load(), Requests: l.requests.Load(), Idled: l.idled.Load(), HandedOver: make(map[string]uint64, reasons)}
	for why := range reasons {
		s.HandedOver[why.String()] = l.handed[why].Load()
	}
	return s
}

func (l *Lane) add(c *laneConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping.Load() {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *Lane) remove(c *laneConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if l.empty != nil && len(l.conns) == 0 {
		close(l.empty)
	}
}

func (l *Lane) handOver(why reason, conn net.Conn, early []byte) {
	l.handed[why].Add(1)
	l.o.HandOver(conn, early)
}

// reason is why a connection is handed over.
type reason int

const (
	handNotTCP   reason = iota
	handRefused         // the head is not what the parser of the lane takes
	handVersion         // HTTP/1.0
	handTarget          // not a path
	handMethod          // CONNECT
	handUpgrade         // to another protocol
	handExpect          // a body only after a 100
	handBody            // chunked, large or slow
	handNotReady        // there are no routes yet
	reasons
)

func (r reason) String() string {
	return [reasons]string{"not_tcp", "refused", "version", "target", "method", "upgrade", "expect", "body", "not_ready"}[r]
}
