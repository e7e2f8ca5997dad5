package proxy

import (
	"io"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	uploadBuffer = 32 << 10

	// firstPieceTimeout is how long the head of a request waits for the
	// beginning of the body, to be sent with it.
	firstPieceTimeout = 5 * time.Millisecond
)

// uploader sends a request body while the answer may already be on its way. All
// methods but begin accept a nil *uploader: a request without a body, or one
// whose body is not asked for yet.
type uploader struct {
	body    *requestBody
	timeout time.Duration // for the answer, counted from when the worker last took something of the body

	buf      *[uploadBuffer]byte
	n        int // of buf, of the first piece
	err      error
	reading  chan struct{} // closed when the first piece is in buf, or err set
	taken    bool          // the first piece was sent with the head
	sending  chan struct{} // closed when carryOn's goroutine has ended; nil: it was not started
	complete bool          // that was all of the body
	sent     bool          // by carryOn's goroutine, the whole of it

	mu       sync.Mutex
	answered bool // the answer has begun
}

var uploadBuffers = sync.Pool{New: func() any { return new([uploadBuffer]byte) }}

func newUpload(t *trip) *uploader {
	return &uploader{body: t.x.body, timeout: t.e.o.ResponseTimeout, buf: uploadBuffers.Get().(*[uploadBuffer]byte)}
}

// begin appends the beginning of the body to head, if it comes soon.
func (u *uploader) begin(head []byte) []byte {
	u.reading = make(chan struct{})
	go func() {
		defer close(u.reading)
		u.n, u.err = u.body.Read(u.buf[:])
	}()
	timer := time.NewTimer(firstPieceTimeout)
	defer timer.Stop()
	select {
	case <-u.reading:
	case <-timer.C:
		return head
	}
	u.taken, u.complete = true, u.err == io.EOF
	return u.appendPiece(head, u.buf[:u.n], u.complete)
}

// done reports whether the whole body is in the head.
func (u *uploader) done() bool { return u == nil || u.complete }

// failed returns why the first piece of the body could not be read.
func (u *uploader) failed() error {
	if u == nil || !u.taken || u.err == io.EOF {
		return nil
	}
	return u.err
}

// carryOn sends the rest of the body to c.
func (u *uploader) carryOn(c *workerConn) {
	if u.done() {
		return
	}
	u.sending = make(chan struct{})
	go func() {
		defer close(u.sending)
		u.limit(c, u.send(c))
	}()
}

// send copies the body. If the worker takes no more, that is the end of it,
// since an answer may still come: the error says why. If the client gives no
// more, the worker must not take what it got for the whole.
func (u *uploader) send(c *workerConn) error {
	n, err := u.first()
	var frame []byte
	for {
		piece := u.buf[:n]
		if u.body.chunked {
			frame = u.appendPiece(frame[:0], piece, err == io.EOF)
			piece = frame
		}
		if failed := u.write(c, piece); failed != nil {
			return failed
		}
		if err != nil {
			break
		}
		n, err = u.body.Read(u.buf[:])
	}
	if err == io.EOF {
		u.sent = true
		return nil
	}
	return c.Close()
}

// write goes on for as long as the worker takes something.
func (u *uploader) write(c *workerConn, piece []byte) error {
	for len(piece) > 0 {
		u.allow(c)
		n, err := c.Write(piece)
		if err != nil && (n == 0 || !isTimeout(err)) {
			return err
		}
		piece = piece[n:]
	}
	return nil
}

// allow gives the worker the time that it has to take something. Once it
// answers, it may take as long as it likes.
func (u *uploader) allow(c *workerConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.answered && u.timeout > 0 {
		_ = c.SetWriteDeadline(time.Now().Add(u.timeout))
	}
}

// first returns what was read of the body already but not sent, or reads.
func (u *uploader) first() (int, error) {
	if u.taken || u.reading == nil {
		return u.body.Read(u.buf[:])
	}
	<-u.reading
	return u.n, u.err
}

// limit gives the worker the time that it has for an answer. That is over if
// it took nothing of the body for as long.
func (u *uploader) limit(c *workerConn, sendErr error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.answered || u.timeout <= 0 {
		return
	}
	end := time.Now()
	if !isTimeout(sendErr) {
		end = end.Add(u.timeout)
	}
	_ = c.SetReadDeadline(end)
}

// unlimit takes all that back when the answer has begun.
func (u *uploader) unlimit(c *workerConn) {
	if u == nil || u.sending == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answered = true
	_ = c.SetDeadline(time.Time{})
}

// settle waits for the body to be sent if all of it was read. It reports
// whether it was sent.
func (u *uploader) settle(c *workerConn) bool {
	if u.done() {
		return u != nil
	}
	if u.sending == nil || !u.body.wasRead() {
		return false
	}
	_ = c.SetWriteDeadline(time.Now().Add(settleTimeout))
	<-u.sending
	return u.sent
}

// wait returns when nobody reads or sends the body any more. Reading must have
// been ended, and the connection closed unless the body was sent.
func (u *uploader) wait() {
	if u == nil {
		return
	}
	if u.reading != nil {
		<-u.reading
	}
	if u.sending != nil {
		<-u.sending
	}
	uploadBuffers.Put(u.buf)
}

// appendPiece adds a piece of the body to b, framed as the head says.
func (u *uploader) appendPiece(b, piece []byte, last bool) []byte {
	if !u.body.chunked {
		return append(b, piece...)
	}
	if len(piece) > 0 {
		b = strconv.AppendInt(b, int64(len(piece)), 16)
		b = append(b, "\r\n"...)
		b = append(b, piece...)
		b = append(b, "\r\n"...)
	}
	if last {
		b = append(b, "0\r\n"...)
		for name, values := range u.body.trailer {
			if isRequestTrailer(name) && !slices.ContainsFunc(values, func(v string) bool { return !isFieldValue(v) }) {
				b = appendValues(b, name, values) // net/http checks headers, but not these
			}
		}
		b = append(b, "\r\n"...)
	}
	return b
}
