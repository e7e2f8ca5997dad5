package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	receiveBuffer = 16 << 10
	keepBuffer    = 80 << 10 // larger ones are not kept for the next request; a body that was gathered fits, with its head

	// glanceTimeout is how long an answer is waited for, and up to twice that,
	// before anything is arranged to notice that the client leaves. Most answers
	// are faster.
	glanceTimeout = 50 * time.Millisecond

	// settleTimeout is how long the last piece of a request may take to be
	// written after its answer is complete; then the connection is given up.
	settleTimeout = 50 * time.Millisecond

	// maxPause is how long a client that nobody watches may be gone before
	// that is seen; the pauses between the looks grow up to it.
	maxPause = time.Second
)

// uplink is the HTTP/1.1 client of the proxy. The goroutine of the request
// writes it, reads the answer and copies that to the client; there is a second
// one only while a request body is under way.
type uplink struct{}

var _ forwarder = uplink{}

// forward sends the request over a connection that nothing else uses. If that
// turns out to be dead, another worker can have the request, or this one over a
// new connection, as far as this cannot have it executed twice.
func (uplink) forward(x *exchange, e *Endpoint) error {
	t := trips.Get().(*trip)
	defer t.release()
	if err := t.prepare(x, e); err != nil {
		return err
	}
	var c *workerConn
	if !x.repeated {
		c = e.pool.take(x.now)
	}
	again, err := t.attempt(c)
	if again && !x.repeated {
		if t.upload == nil && x.turn.hasOthers(e) {
			return &repeatError{err}
		}
		if e.mayRetry() {
			x.repeated = true // also if it comes to another worker, since this one is gone
			x.attempts++
			x.now = time.Now()
			_, err = t.attempt(nil)
		}
	}
	if _, ok := errors.AsType[*dialError](err); ok && t.upload != nil {
		return fmt.Errorf("%w: %v", io.ErrUnexpectedEOF, err) // no other worker can be given what was read of the body
	}
	return err
}

// trip is a request on its way to a worker and back. Its buffers are used
// again. It belongs to the goroutine of the request.
type trip struct {
	x *exchange
	e *Endpoint
	c *workerConn

	out []byte // the head of the request and what came of its body right away
	n   int    // bytes of out that were written

	in        []byte // what has come is in[r:w]
	r, w      int
	heard     bool // something has come
	answer    answer
	whole     bool          // the answer was read to its end, and no further
	blind     bool          // what comes behind the answer has not been looked for
	deadline  time.Time     // for what is waited for; zero: none, or set when the body is sent
	patient   bool          // the deadline of the connection is the real one
	pause     time.Duration // since the client was looked at last; 0: there was no need
	streaming bool          // the body is being read
	limited   bool          // there is a deadline for its next bytes
	unwatch   func() bool   // nil: nothing happens by itself if the client leaves
	upload    *uploader     // nil: no body, or not begun
	trailers  []field
}

var trips = sync.Pool{New: func() any { return &trip{in: make([]byte, receiveBuffer)} }}

// release gives the trip back. The upload can go on, on a connection that is
// closed; exchange.end waits for it.
func (t *trip) release() {
	clear(t.answer.fields)
	clear(t.trailers)
	in, out := t.in, t.out
	if cap(in) > keepBuffer || cap(out) > keepBuffer {
		return
	}
	*t = trip{in: in, out: out[:0], answer: answer{fields: t.answer.fields[:0]}, trailers: t.trailers[:0]}
	trips.Put(t)
}

func (t *trip) prepare(x *exchange, e *Endpoint) error {
	t.x, t.e = x, e
	var err error
	t.out, err = t.appendHead(t.out[:0])
	return err
}

// attempt has the request answered over c, or over a new connection if that is
// nil. After an error, again says that another attempt does no harm.
func (t *trip) attempt(c *workerConn) (again bool, err error) {
	if c == nil {
		if c, err = t.e.dial(t.x.side.context()); err != nil {
			return false, err
		}
		t.x.now = time.Now()
	}
	t.c, t.n, t.r, t.w, t.heard, t.whole, t.blind, t.streaming, t.limited, t.pause = c, 0, 0, 0, false, false, false, false, false, 0
	err = t.exchange()
	again = t.mayRepeat(err)
	sound := err == nil && t.whole && t.r == t.w && !t.answer.last && t.sentWhole()
	if t.unwatch != nil {
		sound = t.unwatch() && sound
		t.unwatch = nil
	}
	if sound {
		t.x.now = time.Now()
		c.blind = t.blind || t.w == len(t.in)
		t.e.pool.put(c, t.x.now)
		return again, err
	}
	if t.spokeOutOfTurn(err) || c.reused && err != nil && !t.heard {
		t.e.pool.doubt()
	}
	c.Close()
	return again, err
}

// spokeOutOfTurn reports whether the worker said more than its answer, or what
// is none: that can be what it said too much before.
func (t *trip) spokeOutOfTurn(err error) bool {
	return t.whole && t.r < t.w || errors.Is(err, errAnswer) || errors.Is(err, errFraming)
}

// sentWhole reports whether the worker waits for nothing more of the request.
func (t *trip) sentWhole() bool {
	return t.n == len(t.out) && (t.x.body == nil || t.upload.settle(t.c))
}

// exchange sends the request, or the beginning of it, and passes the answer
// on.
func (t *trip) exchange() error {
	if err := t.send(); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if err := t.readHead(); err != nil {
			return err
		}
		switch status := t.answer.status; {
		case status == http.StatusSwitchingProtocols:
			return t.switchProtocols()
		case status >= 200:
			return t.pass()
		case n == maxInformational:
			return fmt.Errorf("%w: %d informational answers", errAnswer, n)
		case status == http.StatusContinue:
			t.sendExpected()
		case !t.x.old:
			t.x.side.hint(&t.answer)
		}
	}
}

// send writes the head along with what there is of the body. The rest goes its
// own way from then on.
func (t *trip) send() error {
	if t.x.body != nil && !t.x.expects && t.upload == nil {
		t.startUpload()
		t.out = t.upload.begin(t.out)
		t.x.now = time.Now()
	}
	if err := t.upload.failed(); err != nil {
		return err
	}
	now := t.x.now
	switch {
	case t.x.expects:
		t.patient = false
		t.watch()
		_ = t.c.SetDeadline(time.Time{})
		_ = t.c.SetReadDeadline(now.Add(expectContinueTimeout))
	case t.upload.done():
		t.wait(now)
	default:
		t.patient = true
		t.watch()
		_ = t.c.SetDeadline(time.Time{})
		t.upload.allow(t.c)
	}
	if err := t.write(); err != nil && !t.sentHead() {
		return err
	}
	t.upload.carryOn(t.c)
	run.yield(now)
	return nil
}

// sentHead reports whether the worker can answer although it takes no more: it
// has the head, and lacks something of a body that is written with it.
func (t *trip) sentHead() bool {
	return len(t.x.whole) > 0 && t.n >= len(t.out)-len(t.x.whole)
}

// write sends t.out.
func (t *trip) write() error {
	for {
		n, err := t.c.Write(t.out[t.n:])
		t.n += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !t.extend() {
			return err
		}
	}
}

// wait limits how long the worker may take from now on. It begins with a
// glance, during which the client is not watched.
func (t *trip) wait(now time.Time) {
	limit := t.e.o.ResponseTimeout
	t.deadline = time.Time{}
	if limit > 0 {
		t.deadline = now.Add(limit)
	}
	t.patient = false
	if 0 < limit && limit < 2*glanceTimeout {
		_ = t.c.SetDeadline(now.Add(min(glanceTimeout, limit)))
		return
	}
	t.c.glance(now)
}

// extend is called when a deadline of the connection has passed. It reports
// whether the wait goes on.
func (t *trip) extend() bool {
	switch {
	case t.patient:
		return false
	case t.x.expects && t.upload == nil:
		t.sendExpected()
		return true
	}
	now := time.Now()
	if !t.deadline.IsZero() && !now.Before(t.deadline) {
		return false
	}
	t.watch()
	if t.unwatch == nil && t.x.side.context().Err() != nil {
		return false
	}
	t.attend(now)
	return true
}

// attend sets the connection's deadline to the real one, or to when the client
// has to be looked at again.
func (t *trip) attend(now time.Time) {
	until := t.deadline
	t.patient = t.unwatch != nil
	if !t.patient {
		t.pause = min(max(2*t.pause, glanceTimeout), maxPause)
		if next := now.Add(t.pause); until.IsZero() || next.Before(until) {
			until = next
		}
	}
	if t.streaming {
		t.limited = !until.IsZero()
		_ = t.c.SetReadDeadline(until)
	} else {
		_ = t.c.SetDeadline(until)
	}
}

// sendExpected sends the body that the worker was asked about. It is sent once.
func (t *trip) sendExpected() {
	if !t.x.expects || t.upload != nil {
		return
	}
	t.patient = true
	_ = t.c.SetReadDeadline(time.Time{})
	t.x.side.proceed()
	t.startUpload()
	t.upload.carryOn(t.c)
}

func (t *trip) startUpload() {
	t.upload = newUpload(t)
	t.x.upload = t.upload
}

// watch breaks the connection off when the client leaves, if the side can have
// that done. It does so once.
func (t *trip) watch() {
	if t.unwatch == nil {
		t.unwatch = t.x.side.watch(t.c)
	}
}

// mayRepeat reports whether the request can be sent once more after err: the
// connection broke before any of the answer came, when the worker cannot have
// seen the request; or when it had been used before, and nothing is wrong with
// the worker's seeing the request twice. A request of which nothing was written
// is not lost, since what was read of its body is still in t.out.
func (t *trip) mayRepeat(err error) bool {
	if err == nil || t.heard || !isDisconnect(err) || t.upload.failed() != nil || t.x.side.context().Err() != nil {
		return false
	}
	return t.n == 0 || t.c.reused && t.x.body == nil && t.x.isRepeatable()
}

// isRepeatable goes by the safe methods of RFC 9110 9.2.1. A POST is never
// repeated, also where it has an Idempotency-Key: the worker may know none.
func (x *exchange) isRepeatable() bool {
	switch x.method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// readHead reads the next head of an answer into t.answer.
func (t *trip) readHead() error {
	for from := 0; ; {
		end, next, err := headEnd(t.in[t.r:t.w], from)
		if err != nil {
			return err
		}
		if end > 0 {
			head := t.text(t.in[t.r:t.r+end], indexLF(t.in[t.r:])+1)
			t.r += end
			return t.answer.parse(head)
		}
		from = next
		if err := t.room(); err != nil {
			return err
		}
		if err := t.read(); err != nil {
			return err
		}
	}
}

// text is b for the side: a copy, unless it is content with a view. The fields,
// which begin at fields, get their canonical names there.
func (t *trip) text(b []byte, fields int) string {
	canonicalise(b[fields:])
	if t.x.brief {
		return view(b)
	}
	return string(b)
}

// room makes room for more in front of t.in's end.
func (t *trip) room() error {
	if t.r > 0 {
		t.w = copy(t.in, t.in[t.r:t.w])
		t.r = 0
	}
	if t.w < len(t.in) {
		return nil
	}
	if len(t.in) >= maxResponseHeader {
		return fmt.Errorf("%w: more than %d bytes of header", errAnswer, maxResponseHeader)
	}
	t.in = append(t.in, make([]byte, len(t.in))...)
	return nil
}

// read appends what the worker sends next to t.in.
func (t *trip) read() error {
	for {
		n, err := t.c.Read(t.in[t.w:])
		t.w += n
		switch {
		case n > 0:
			t.heard = true
			return nil // an error comes again
		case !errors.Is(err, os.ErrDeadlineExceeded) || !t.extend():
			return early(t.named(err))
		}
	}
}

// named is err, but a stream that stood still for too long is called so.
func (t *trip) named(err error) error {
	if t.streaming && isTimeout(err) {
		return fmt.Errorf("%w for %v", errStreamIdle, t.e.o.StreamIdleTimeout)
	}
	return err
}

// early is err with the end of the connection, which came too soon, named so.
func early(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
