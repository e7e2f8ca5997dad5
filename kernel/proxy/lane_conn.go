package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// keepTime is how long an unused connection keeps its buffers, roughly: most
	// that are used again are used again at once.
	keepTime = time.Second

	// lastWordTime is how long a client that was told that the connection ends
	// may take to end it. Closing at once would reset the connection if more
	// came from it, and it could lose the answer.
	lastWordTime = 500 * time.Millisecond
)

// laneConn is a client's connection in lane R. It belongs to the goroutine that
// serves it, except for state and gone. It is all there is of a
// connection that waits for its next request.
type laneConn struct {
	lane *Lane
	tcp  *net.TCPConn
	raw  syscall.RawConn
	peer netip.Addr
	from string // peer, in words

	state  atomic.Int32
	served bool // a request was answered

	writable time.Time // until when, as was set last; zero: without end

	look  func(fd uintptr) bool // peek and glance, made once so that a use allocates nothing
	check func(fd uintptr)
	came  bool // look has found something to read
	leave leave
	gone  atomic.Bool // the client has closed the connection, or it broke
}

// The states of a laneConn: whoever sees that it is unused may close it.
const (
	connUnused int32 = iota
	connUsed
	connClosed
)

func newLaneConn(l *Lane, tcp *net.TCPConn) (*laneConn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &laneConn{lane: l, tcp: tcp, raw: raw}
	if a, ok := tcp.RemoteAddr().(*net.TCPAddr); ok {
		c.peer = a.AddrPort().Addr().Unmap().WithZone("")
		c.from = c.peer.String()
	}
	c.look, c.check, c.leave.conn = c.peek, c.glance, c
	return c, nil
}

// serve waits for requests, and keeps no buffer while it waits for long.
func (c *laneConn) serve() {
	limit := c.lane.o.ReadHeader()
	for c.await(limit) {
		k := calls.Get().(*call)
		next := k.serve(c)
		why, rest := k.why, k.rest()
		k.release()
		switch next {
		case nextHandOver:
			c.handOver(why, rest)
			return
		case nextClose:
			_ = c.tcp.Close()
			return
		case nextLast:
			c.end()
			return
		}
		limit = c.lane.o.Idle()
	}
	_ = c.tcp.Close()
}

// survive is deferred around serve.
func (c *laneConn) survive() {
	if bad := recover(); bad != nil {
		_ = c.tcp.Close()
		c.lane.proxy.o.ErrorLog(fmt.Sprintf("proxy: panic serving %s: %v\n%s", c.from, bad, debug.Stack()))
	}
}

// await reports whether something came to be read within limit.
func (c *laneConn) await(limit time.Duration) bool {
	deadline := time.Time{}
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	_ = c.tcp.SetReadDeadline(deadline)
	c.came = false
	err := c.raw.Read(c.look)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.lane.idled.Add(1)
	}
	return err == nil && c.came
}

// peek is for [syscall.RawConn.Read]: it reports whether there is no need to
// wait.
func (c *laneConn) peek(fd uintptr) bool {
	n, err := peekByte(int(fd))
	c.came = n > 0
	return err != syscall.EAGAIN
}

// left reports whether the client has gone. One that has sent more is taken to
// be there.
func (c *laneConn) left() bool {
	if !c.gone.Load() && c.raw.Control(c.check) != nil {
		c.gone.Store(true)
	}
	return c.gone.Load()
}

func (c *laneConn) glance(fd uintptr) {
	if n, err := peekByte(int(fd)); n <= 0 && err != syscall.EAGAIN {
		c.gone.Store(true)
	}
}

// peekByte looks at what comes next without taking it.
func peekByte(fd int) (n int, err error) {
	var b [1]byte
	for {
		n, _, err = syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// use reports whether the connection may be used: nobody has closed it.
func (c *laneConn) use() bool { return c.state.CompareAndSwap(connUnused, connUsed) }

// disuse says that nothing is under way, and reports whether it is worth
// waiting for more.
func (c *laneConn) disuse() bool {
	c.state.Store(connUnused)
	return !c.lane.stopping.Load() || c.pending() // or closeUnused has seen it unused
}

// pending reports whether something of a request has come.
func (c *laneConn) pending() (yes bool) {
	_ = c.raw.Control(func(fd uintptr) {
		n, _ := peekByte(int(fd))
		yes = n > 0
	})
	return yes
}

// closeUnused may be called by others.
func (c *laneConn) closeUnused() {
	if !c.pending() && c.state.CompareAndSwap(connUnused, connClosed) {
		_ = c.tcp.Close()
	}
}

// cut may be called by others. What is under way sees it at its next look.
func (c *laneConn) cut() {
	c.gone.Store(true)
	_ = c.tcp.Close()
}

// handOver gives the connection away with what was read of it.
func (c *laneConn) handOver(why reason, rest []byte) {
	_ = c.tcp.SetDeadline(time.Time{})
	var conn net.Conn = c.tcp
	if c.served {
		conn = servedConn{c.tcp}
	}
	c.lane.handOver(why, conn, rest)
}

// turnAway refuses the request that early begins, or the one that comes now.
func (c *laneConn) turnAway(early []byte) {
	k := calls.Get().(*call)
	k.conn, k.began, k.w = c, time.Now(), copy(k.in, early) // enough to say in the log what it was
	if k.w == 0 {
		_ = c.tcp.SetReadDeadline(k.began.Add(lastWordTime))
		k.w, _ = c.tcp.Read(k.in) // without a byte there is nothing to answer
	}
	next := nextClose
	if k.w > 0 {
		next = k.decline(&fault{status: 503, kind: kindNoWorker, cause: errStopping})
	}
	k.release()
	if next == nextLast {
		c.end()
		return
	}
	_ = c.tcp.Close()
}

// end closes the connection after the client had the time to read the answer.
func (c *laneConn) end() {
	if c.tcp.CloseWrite() == nil {
		_ = c.tcp.SetReadDeadline(time.Now().Add(lastWordTime))
		b := dregs.Get().(*[512]byte)
		for n := 0; n < maxDregs; {
			k, err := c.tcp.Read(b[:])
			if err != nil {
				break
			}
			n += k
		}
		dregs.Put(b)
	}
	_ = c.tcp.Close()
}

// maxDregs is how much is read of what nobody wants.
const maxDregs = 256 << 10

var dregs = sync.Pool{New: func() any { return new([512]byte) }}
