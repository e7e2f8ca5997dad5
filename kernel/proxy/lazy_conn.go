package proxy

import (
	"io"
	"net"
	"sync"
	"time"
)

// lazyConn sets a deadline when something waits for it. net/http sets eight for
// each request, most of which end before anything is read or written.
type lazyConn struct {
	net.Conn
	in, out lazyDeadline
}

func newLazyConn(c net.Conn) *lazyConn {
	l := &lazyConn{Conn: c}
	l.in.apply, l.out.apply = c.SetReadDeadline, c.SetWriteDeadline
	return l
}

func (l *lazyConn) Read(p []byte) (int, error) {
	l.in.begin()
	defer l.in.end()
	return l.Conn.Read(p)
}

func (l *lazyConn) Write(p []byte) (int, error) {
	l.out.begin()
	defer l.out.end()
	return l.Conn.Write(p)
}

// ReadFrom lets the kernel move the bytes where it can.
func (l *lazyConn) ReadFrom(r io.Reader) (int64, error) {
	l.out.begin()
	defer l.out.end()
	if to, ok := l.Conn.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{l.Conn}, r)
}

func (l *lazyConn) CloseWrite() error {
	if half, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

func (l *lazyConn) SetReadDeadline(t time.Time) error  { return l.in.set(t) }
func (l *lazyConn) SetWriteDeadline(t time.Time) error { return l.out.set(t) }

func (l *lazyConn) SetDeadline(t time.Time) error {
	if err := l.in.set(t); err != nil {
		return err
	}
	return l.out.set(t)
}

// lazyDeadline is that of one direction. It is safe for concurrent use.
type lazyDeadline struct {
	apply func(time.Time) error

	mu      sync.Mutex
	wanted  time.Time
	applied time.Time
	waiting int // how many wait for it
}

// set returns nil also on a closed connection, unless something waits.
func (d *lazyDeadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
	if d.waiting == 0 {
		return nil
	}
	return d.settle()
}

// settle has what is wanted hold. d.mu is held.
func (d *lazyDeadline) settle() error {
	if d.wanted == d.applied {
		return nil
	}
	d.applied = d.wanted
	return d.apply(d.wanted)
}

func (d *lazyDeadline) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting++
	_ = d.settle() // what waits sees that the connection is closed
}

func (d *lazyDeadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting--
}
