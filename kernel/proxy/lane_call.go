package proxy

import (
	"errors"
	"os"
	"sync"
	"time"
)

const (
	callBuffer = 4 << 10
	callOut    = 4 << 10

	// maxSmallBody is how long a body may be that is read before the request
	// is forwarded.
	maxSmallBody = 16 << 10
)

// call is what a connection of lane R needs while it is used: the buffers, and
// one request after the other as the client's side of an exchange. It belongs
// to the goroutine of the connection.
type call struct {
	conn *laneConn
	x    exchange
	req  request // views of in

	in    []byte // what has come is in[r:w]
	r, w  int
	body  int       // where the body begins; the head is what is before it
	began time.Time // when the first byte of the head was there
	first time.Time // until when the connection may be quiet, as was set last; zero: something else is set

	out     []byte // of the answer, not sent yet
	closing bool   // this answer is the last
	chunked bool   // the answer is
	ended   bool   // its last chunk is in out

	why reason // of nextHandOver
}

// next is what happens to a connection after a call.
type next int

const (
	nextWait     next = iota
	nextClose         // it is broken, or has to look so
	nextLast          // the client was told that it ends
	nextHandOver      // with what is left in the buffer
)

var calls = sync.Pool{New: func() any { return &call{in: make([]byte, callBuffer), out: make([]byte, 0, callOut)} }}

// release gives the call back. Nothing may hold a view of its buffers.
func (k *call) release() {
	if cap(k.in) > keepBuffer || cap(k.out) > keepBuffer {
		return
	}
	clear(k.req.fields)
	in, out, fields := k.in, k.out[:0], k.req.fields[:0]
	*k = call{in: in, out: out}
	k.req.fields = fields
	calls.Put(k)
}

// rest is what was read and not used, for a connection that is handed over.
func (k *call) rest() []byte { return append([]byte(nil), k.in[k.r:k.w]...) }

// serve serves requests until none has come for a while.
func (k *call) serve(c *laneConn) next {
	k.conn = c
	for used := false; ; used = true {
		next, ok := k.read(used)
		if !ok {
			return next
		}
		if k.why, ok = k.boring(); !ok {
			return k.pass()
		}
		if sound := k.answer(); !sound {
			return nextClose
		}
		c.served = true
		if k.closing {
			return nextLast
		}
	}
}

// read reads a request, unless next says what else is to happen. used tells
// that there was one before: the connection is marked as used only while there
// is a request.
func (k *call) read(used bool) (_ next, ok bool) {
	if k.r == k.w {
		k.r, k.w = 0, 0
		if used && !k.conn.disuse() {
			return nextLast, false
		}
		if next, ok := k.await(); !ok {
			return next, false
		}
		if !k.conn.use() {
			return nextClose, false
		}
	}
	k.began = time.Now()
	for from := 0; ; {
		end, next, err := requestEnd(k.in[k.r:k.w], from)
		switch {
		case err != nil:
			k.why = handRefused
			return k.pass(), false
		case end > 0:
			k.body = k.r + end
			return 0, true
		}
		from = next
		if err := k.more(k.conn.lane.o.ReadHeader()); err != nil {
			return k.slow(err), false
		}
	}
}

// await reads what comes first. The deadline is moved only now and then.
func (k *call) await() (_ next, ok bool) {
	now := k.x.now
	if now.IsZero() { // something is there
		now = time.Now()
	}
	if k.first.Sub(now) < keepTime*3/4 {
		k.first = now.Add(keepTime)
		_ = k.conn.tcp.SetReadDeadline(k.first)
	}
	run.yield(now)
	n, err := k.conn.tcp.Read(k.in)
	k.w = n
	switch {
	case n > 0:
		return 0, true
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nextWait, false
	}
	return nextClose, false
}

// more reads more of a request, until limit after it began.
func (k *call) more(limit time.Duration) error {
	if k.r > 0 {
		k.w = copy(k.in, k.in[k.r:k.w])
		k.body -= k.r
		k.r = 0
	}
	if k.w == len(k.in) {
		k.in = append(k.in, make([]byte, len(k.in))...)
	}
	k.first = time.Time{}
	deadline := time.Time{}
	if limit > 0 {
		deadline = k.began.Add(limit)
	}
	_ = k.conn.tcp.SetReadDeadline(deadline)
	n, err := k.conn.tcp.Read(k.in[k.w:])
	k.w += n
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// slow ends a connection on which a head has begun that does not go on.
func (k *call) slow(err error) next {
	if !isTimeout(err) {
		return nextClose
	}
	return k.decline(&fault{status: 408, kind: kindReadTimeout, cause: errSlowHead})
}

// pass has the connection handed over, unless nobody takes it any more.
func (k *call) pass() next {
	if !k.conn.lane.stopping.Load() {
		return nextHandOver
	}
	return k.decline(&fault{status: 503, kind: kindNoWorker, cause: errStopping})
}

// decline answers a request that was not read, or not to its end.
func (k *call) decline(f *fault) next {
	method, path := subject(k.in[k.r:k.w])
	k.req = request{method: method, path: path, fields: k.req.fields[:0]}
	k.begin()
	k.closing = true
	if !k.conclude(f) {
		return nextClose
	}
	return nextLast
}

const (
	errSlowHead = errorString("client did not send the whole head of a request in time")
	errStopping = errorString("the server stops")
)

// boring parses the head and waits a moment for the body. It reports false if
// that is not all there is to the request.
func (k *call) boring() (why reason, ok bool) {
	if err := k.req.parse(k.in[k.r:k.body]); err != nil {
		return handRefused, false
	}
	q := &k.req
	switch {
	case q.old:
		return handVersion, false
	case q.method == "CONNECT":
		return handMethod, false
	case q.path == "" || q.absolute:
		return handTarget, false
	case q.upgrade:
		return handUpgrade, false
	case q.expects:
		return handExpect, false
	case q.chunked, q.length > maxSmallBody, q.length > 0 && !k.gather(int(q.length)):
		return handBody, false
	case !k.conn.lane.o.Ready():
		return handNotReady, false
	}
	return 0, true
}

// gather waits for a body of n bytes. Where it makes room for them the head
// moves, and is parsed again.
func (k *call) gather(n int) bool {
	if k.w-k.body >= n {
		return true
	}
	k.began = time.Now()
	for k.w-k.body < n {
		if k.more(firstPieceTimeout) != nil {
			return false
		}
	}
	return k.req.parse(k.in[k.r:k.body]) == nil
}

// answer has the request answered, and reports whether the connection is sound
// afterwards.
func (k *call) answer() bool {
	k.begin()
	path, f := k.req.routePath()
	if f == nil {
		f = k.x.serve(path)
	}
	if f == nil {
		f = k.finish()
	}
	k.r = k.body + len(k.x.whole)
	return k.conclude(f)
}

// begin makes an exchange of the request.
func (k *call) begin() {
	c, q, x := k.conn, &k.req, &k.x
	p := c.lane.proxy
	*x = exchange{proxy: p, side: k, start: k.began, now: k.began, limits: p.o.Timeouts(), brief: true,
		method: q.method, host: q.host, peer: c.peer, from: c.from}
	if q.length > 0 {
		x.length, x.whole = q.length, k.in[k.body:k.body+int(q.length)]
	}
	x.identify()
	k.out, k.chunked, k.ended = k.out[:0], false, false
	k.closing = q.last || c.lane.stopping.Load()
	c.lane.requests.Add(1)
}

// finish sends what is left of the answer.
func (k *call) finish() *fault {
	if k.chunked && !k.ended {
		k.out = append(k.out, "0\r\n\r\n"...)
	}
	if k.flush(); k.x.out.err != nil {
		return k.x.diagnose(k.x.out.err)
	}
	return nil
}

// conclude ends the exchange. It reports whether the connection is sound.
func (k *call) conclude(f *fault) bool {
	x := &k.x
	abort := x.conclude(f)
	k.flush() // of an answer that is cut short, the client gets what there was
	if k.conn.leave.end() {
		k.first = time.Time{}
	}
	x.now = time.Now()
	x.report(f)
	return !abort && x.out.err == nil
}
