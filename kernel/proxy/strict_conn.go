package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	strictBuffer = 4 << 10

	// earlyBytes is how much of a head net/http gets before it is complete: as
	// much as it waits for before it takes the time of a head.
	earlyBytes = 4

	// maxLinger bounds what is read and dropped of a client that was refused.
	maxLinger = 256 << 10

	http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// Strict returns c for an [http.Server] to serve, which then reads nothing but
// requests that are well-formed in every byte: net/http lets pass what others
// understand in another way. early is what was read of c before; it is copied.
//
// A head is given out when all of it has come and was parsed, a body as far as
// its framing holds. In place of a head that is refused the server reads a
// request with a target that no client can send, so that [Proxy] answers, with
// the reason in the log, after the requests in front of it. The Read of a body
// whose framing breaks fails. What follows an accepted offer to upgrade, or the
// preface of HTTP/2, is not looked at.
//
// Where the server is that of [Proxy.Server] a head has the time that was given
// for it from its first byte on; elsewhere, none but that of the first is limited.
//
// No buffer is held while nothing has come. Close first lets a client that was
// refused read why, for 500 ms at most. Read is for one goroutine at a time,
// everything else is safe for concurrent use.
func Strict(c net.Conn, early []byte) net.Conn {
	served, again := c.(servedConn)
	if again {
		c = served.TCPConn
	}
	s := &strictConn{lazyConn: newLazyConn(c), fresh: !again}
	if len(early) > 0 {
		s.hold(early)
		s.advance()
	}
	return s
}

// servedConn is a connection over which requests came already: what comes next
// is HTTP/1, too, whatever it looks like.
type servedConn struct{ *net.TCPConn }

type strictConn struct {
	*lazyConn
	at     strictState
	fresh  bool   // there was no request yet
	buf    []byte // nil while nothing is held
	r, ok  int    // buf[r:ok] can be read; buf[ok:] is to be judged, and buf[:r] was read if ok is 0
	from   int    // where in buf[ok:] requestEnd goes on
	left   int64  // of a body with a length
	chunks chunks
	failed error         // what Read returns once all of buf was read
	began  time.Time     // when what is held came, or was next
	limit  time.Duration // for a head, from its first byte on; 0: none
	until  time.Time     // when that is over for the head that began last; zero: nobody waits for it
	rests  time.Time     // since when there is no request of HTTP/2; zero: there is one, or it is another protocol

	taken   atomic.Bool // an offer to upgrade was accepted
	refused atomic.Pointer[breach]
	lingers atomic.Bool // when it is closed
	stopped atomic.Bool // Read is to end at once, which is no limit
	idled   atomic.Bool // no request had begun when the last Read met its limit
	begun   atomic.Bool // there was a request, or HTTP/2
}

type strictState uint8

const (
	atHead strictState = iota
	atLength
	atChunks
	atOffer   // to upgrade: what follows is not HTTP any more, if it is accepted
	atRaw     // nothing is looked at any more
	atRefused // nothing is passed on any more
)

var (
	_ net.Conn      = (*strictConn)(nil)
	_ io.ReaderFrom = (*strictConn)(nil)
)

func (c *strictConn) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if n := c.take(p); n > 0 {
			return n, nil
		}
		if c.at == atOffer && !c.taken.Load() {
			return c.peek(p)
		}
		if c.at == atOffer {
			c.at, c.ok = atRaw, len(c.buf)
			continue
		}
		if err := c.failed; err != nil {
			c.failed = io.EOF // net/http would answer the same error once more
			return 0, err
		}
		if n, err := c.receive(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// peek reads behind an offer that nobody has accepted. net/http reads single
// bytes while a request is served, to see the client leave. If it wants more, the
// offer was declined, and what the client has sent in the other protocol already
// must not be read as HTTP.
func (c *strictConn) peek(p []byte) (int, error) {
	if len(p) > 1 {
		return 0, io.EOF
	}
	if len(c.buf) == 0 {
		return c.lazyConn.Read(p)
	}
	c.ok = 1
	return c.take(p), nil
}

// take reads what was judged, or the beginning of a head that is not there yet.
func (c *strictConn) take(p []byte) int {
	if c.r < c.ok {
		n := copy(p, c.buf[c.r:c.ok])
		c.r += n
		c.shift()
		return n
	}
	if c.ok > 0 || c.at != atHead {
		return 0
	}
	n := copy(p, c.buf[c.r:max(c.r, methodIn(c.buf))])
	c.r += n
	return n
}

// shift lets go of what was read.
func (c *strictConn) shift() {
	if c.r < c.ok {
		return
	}
	rest := copy(c.buf, c.buf[c.ok:])
	c.buf, c.r, c.ok = c.buf[:rest], 0, 0
	if rest > 0 {
		c.began = time.Now()
		c.advance()
	} else {
		c.release()
	}
}

// receive waits for more. What can be passed on at once is in p.
func (c *strictConn) receive(p []byte) (int, error) {
	if len(c.buf) > 0 {
		return 0, c.append()
	}
	if c.at == atHead && len(p) > 1 { // else net/http looks whether the client has gone
		run.giveWay()
	}
	n, err := c.lazyConn.Read(p)
	c.idled.Store(n == 0 && c.at == atHead && isTimeout(err) && !c.stopped.Load())
	if n == 0 || c.at == atRaw {
		return n, err
	}
	if c.at == atRefused {
		return 0, nil
	}
	k, bad := c.judge(p[:n])
	if k < n || bad != nil {
		c.hold(p[k:n])
		if bad != nil {
			c.refuse(bad)
		}
	}
	return k, nil // an error comes again
}

// append reads to the end of what is held.
func (c *strictConn) append() error {
	if len(c.buf) == cap(c.buf) {
		c.buf = append(make([]byte, 0, 2*cap(c.buf)), c.buf...)
	}
	if c.at == atHead && !c.fresh {
		c.limitHead()
	}
	n, err := c.lazyConn.Read(c.buf[len(c.buf):cap(c.buf)])
	if n == 0 && c.at == atHead && isTimeout(err) && !c.stopped.Load() {
		c.refuse(&refusals[slowHead]) // net/http would take what it has for a line, and answer 400
		return nil
	}
	if n == 0 {
		return err
	}
	c.buf = c.buf[:len(c.buf)+n]
	c.advance()
	return nil // an error comes again
}

// limitHead limits how long the head that has begun may take to come. net/http
// would do so from its fourth byte on; the first request has the time that it
// gives to a new connection.
func (c *strictConn) limitHead() {
	if c.until.IsZero() && c.limit > 0 {
		c.until = time.Now().Add(c.limit)
	}
	_ = c.lazyConn.SetReadDeadline(c.until)
}

// advance judges what is held.
func (c *strictConn) advance() {
	k, bad := c.judge(c.buf[c.ok:])
	c.ok += k
	if bad != nil {
		c.refuse(bad)
	}
}

// judge returns how much of b, which is what comes next, can be passed on. A
// head is passed on as a whole. The error is what is wrong behind that.
func (c *strictConn) judge(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		k := len(b) - n
		switch c.at {
		case atHead:
			if k, err = c.judgeHead(b[n:]); k == 0 || c.at == atRaw {
				return n + k, err
			}
		case atOffer:
			return n, nil
		case atLength:
			k = int(min(c.left, int64(k)))
			if c.left -= int64(k); c.left == 0 {
				c.at = atHead
			}
		case atChunks:
			var done bool
			if k, done, err = c.chunks.scan(b[n:]); done {
				c.at = atHead
			}
		}
		n += k
	}
	return n, err
}

func (c *strictConn) judgeHead(b []byte) (int, error) {
	if c.fresh && strings.HasPrefix(http2Preface, view(b[:min(len(b), len(http2Preface))])) {
		if len(b) < len(http2Preface) {
			return 0, nil
		}
		c.at = atRaw
		return len(b), nil
	}
	end, next, err := requestEnd(b, c.from)
	if end == 0 {
		c.from = next
		return 0, err
	}
	r := requests.Get().(*request)
	defer r.release()
	if err := r.parse(b[:end]); err != nil {
		return 0, err
	}
	c.from, c.fresh, c.until = 0, false, time.Time{}
	switch {
	case r.chunked:
		c.at, c.chunks = atChunks, chunks{}
	case r.length > 0:
		c.at, c.left = atLength, r.length
	case r.offersUpgrade():
		c.at = atOffer
	}
	return end, nil
}

// refuse ends what the client is listened to.
func (c *strictConn) refuse(err error) {
	b := &breach{began: c.began}
	b.why, _ = errors.AsType[*refusal](err)
	if c.at == atHead {
		b.method, b.path = subject(c.buf[c.ok:])
		given := c.buf[c.ok:max(c.ok, c.r)] // of this head
		c.buf = appendRefused(c.buf[:c.ok+len(given)], len(given), err)
		c.ok = len(c.buf)
	} else {
		c.buf, c.failed = c.buf[:c.ok], err
	}
	c.at = atRefused
	c.refused.Store(b)
	c.lingers.Store(true)
}

type strictKey struct{}

// withStrict is for [http.Server.ConnContext]: it lets the requests of a
// connection find it, and tells it how long a head may take.
func withStrict(readHeader time.Duration) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, c net.Conn) context.Context {
		if s, ok := c.(*strictConn); ok {
			s.limit = readHeader
		}
		return context.WithValue(ctx, strictKey{}, c)
	}
}

// refusedIn returns what is why no more is read from the connection of a
// request, or nil. net/http has other words for it.
func refusedIn(ctx context.Context) *breach {
	if c, ok := ctx.Value(strictKey{}).(*strictConn); ok {
		return c.refused.Load()
	}
	return nil
}

// methodIn returns how much of the method, and of the space behind it, is at
// the beginning of b, up to earlyBytes.
func methodIn(b []byte) int {
	for i, c := range b[:min(len(b), earlyBytes)] {
		if c == ' ' && i > 0 {
			return i + 1
		}
		if !isToken(c) {
			return i
		}
	}
	return min(len(b), earlyBytes)
}

// hold keeps a copy of b.
func (c *strictConn) hold(b []byte) {
	c.buf = append(strictBuffers.Get().(*[strictBuffer]byte)[:0], b...)
	c.began = time.Now()
}

func (c *strictConn) release() {
	if cap(c.buf) == strictBuffer {
		strictBuffers.Put((*[strictBuffer]byte)(c.buf[:strictBuffer]))
	}
	c.buf = nil
}

// SetReadDeadline tells a limit from the way in which net/http breaks off a
// Read: with a time that is long past.
func (c *strictConn) SetReadDeadline(t time.Time) error {
	c.stopped.Store(!t.IsZero() && t.Unix() < 1<<20)
	return c.lazyConn.SetReadDeadline(t)
}

// Idled is to be told of each state that an [http.Server] with that IdleTimeout
// sees a connection from [Strict] in, by the server's ConnState. It reports
// whether the connection, which is closed, was open without a request for as
// long as it may: with HTTP/1 since it was last read from, with HTTP/2, where
// net/http has a timer of its own, since the last of its requests had ended.
func Idled(c net.Conn, state http.ConnState, idle time.Duration) bool {
	s, ok := c.(*strictConn)
	if !ok || state == http.StateNew {
		return false
	}
	s.begun.Store(true)
	if state == http.StateClosed {
		return s.idled.Load() || idle > 0 && !s.rests.IsZero() && time.Since(s.rests) >= idle
	}
	s.rests = time.Time{}
	if state == http.StateIdle && s.at == atRaw {
		s.rests = time.Now()
	}
	return false
}

// Fresh reports whether nothing has come over c yet, which is a connection from
// [Strict], as far as [Idled] was told.
func Fresh(c net.Conn) bool {
	s, ok := c.(*strictConn)
	return ok && !s.begun.Load()
}

// Close lingers after a refusal. To close with bytes unread would reset the
// connection, and the client could lose the answer.
func (c *strictConn) Close() error {
	if c.lingers.Swap(false) && c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTimeout)) == nil {
		_, _ = io.CopyN(io.Discard, c.lazyConn, maxLinger)
	}
	return c.lazyConn.Close()
}

var strictBuffers = sync.Pool{New: func() any { return new([strictBuffer]byte) }}
