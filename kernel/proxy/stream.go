package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lingerTimeout is how long a client may go on sending a body that nobody
	// wants after the answer is complete. Closing at once would reset the
	// connection, and the client could lose the answer.
	lingerTimeout = 500 * time.Millisecond

	// discardTimeout is how long net/http may take to read away the body of
	// a request that was refused before it was forwarded.
	discardTimeout = 5 * time.Second
)

// response is the client's side of an answer. It gives every write its own
// deadline and notes what happens.
type response struct {
	http.ResponseWriter
	control  http.ResponseController
	exchange *exchange

	status   int       // of the answer; 0 until it has one
	started  bool      // the head was passed on
	refused  bool      // it is the proxy's own
	hijacked bool      // the connection was upgraded
	armed    time.Time // when the write deadline was set last
	err      error     // the first that the client's connection gave
	bytes    atomic.Int64
}

var (
	_ http.ResponseWriter = (*response)(nil)
	_ http.Hijacker       = (*response)(nil)
)

// Unwrap lets http.ResponseController reach what response does not have.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader passes informational answers on and notes the final one. A 100
// is left to proceed.
func (w *response) WriteHeader(status int) {
	if status == http.StatusContinue {
		return
	}
	if status < 200 {
		w.arm()
	} else {
		w.status, w.started = status, true
		h := w.Header()
		if h["Content-Type"] == nil {
			h["Content-Type"] = nil // or net/http guesses what the worker did not say
		}
		if w.exchange.endpoint != nil && !w.exchange.body.wasRead() {
			// The worker answers before it has got the whole request. What is
			// left of it must not be taken for the next one.
			h.Set("Connection", "close")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// proceed tells the client to go on with its body. net/http would do so when
// the body is first read, but in the goroutine that reads, and while hints may
// be written.
func (w *response) proceed() {
	w.arm()
	w.ResponseWriter.WriteHeader(http.StatusContinue)
}

func (w *response) Write(p []byte) (int, error) {
	w.arm()
	n, err := w.ResponseWriter.Write(p)
	w.bytes.Add(int64(n))
	w.note(err)
	return n, err
}

// readFrom moves src to the client, by splice if net/http lets it.
func (w *response) readFrom(to io.ReaderFrom, src *io.LimitedReader) (int64, error) {
	w.arm()
	n, err := to.ReadFrom(src)
	w.bytes.Add(n)
	return n, err
}

// FlushError is what http.ResponseController.Flush calls.
func (w *response) FlushError() error {
	w.arm()
	err := w.control.Flush()
	w.note(err)
	return err
}

// Hijack gives out the client's connection, which ends with the endpoint that
// it was upgraded for.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.status, w.started, w.hijacked = http.StatusSwitchingProtocols, true, true
	c := &clientConn{Conn: conn, early: rw.Reader, response: w, endpoint: w.exchange.endpoint}
	if !c.endpoint.track(c) {
		conn.Close()
		return nil, nil, errEndpointClosed
	}
	c.arm()
	return c, rw, nil
}

// arm gives the client until now + Timeouts.Write to take what comes next, or
// a little less, since the deadline is moved only now and then. net/http takes
// it away between requests.
func (w *response) arm() {
	if w.exchange.limits.Write > 0 {
		w.armAt(time.Now())
	}
}

func (w *response) armAt(now time.Time) {
	if t := w.exchange.limits.Write; t > 0 && now.Sub(w.armed) > t/16 {
		w.armed = now
		_ = w.control.SetWriteDeadline(now.Add(t)) // a writer without deadlines is a test's
	}
}

func (w *response) note(err error) {
	if w.err == nil && err != nil && !errors.Is(err, http.ErrNotSupported) {
		w.err = err
	}
}

// clientConn is an upgraded connection. Bytes that came along with the upgrade
// are read first.
type clientConn struct {
	net.Conn
	early    *bufio.Reader
	response *response
	endpoint *Endpoint
}

func (c *clientConn) Read(p []byte) (int, error) {
	if n := c.early.Buffered(); n > 0 {
		return c.early.Read(p[:min(n, len(p))])
	}
	return c.Conn.Read(p)
}

func (c *clientConn) Write(p []byte) (int, error) {
	c.arm()
	n, err := c.Conn.Write(p)
	c.response.bytes.Add(int64(n))
	return n, err
}

// CloseWrite passes the end of the worker's data on. The client then has until
// Timeouts.Read to end its own.
func (c *clientConn) CloseWrite() error {
	if t := c.response.exchange.limits.Read; t > 0 {
		_ = c.Conn.SetReadDeadline(time.Now().Add(t))
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

func (c *clientConn) Close() error {
	c.endpoint.untrack(c)
	return c.Conn.Close()
}

func (c *clientConn) arm() {
	if t := c.response.exchange.limits.Write; t > 0 {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(t))
	}
}

var errBodyEnded = errors.New("proxy: request has ended")

// requestBody is the client's side of a request body. It is read in a goroutine
// of its own, which end breaks off. All methods but Read accept a nil
// *requestBody, which is an empty body.
type requestBody struct {
	io.ReadCloser
	control *http.ResponseController
	timeout time.Duration

	mu      sync.Mutex
	reading bool // in Read
	read    bool // to its end
	ended   bool
	err     error // what a Read failed with
	idle    sync.Cond
}

func newRequestBody(r *http.Request, control *http.ResponseController, timeout time.Duration) *requestBody {
	b := &requestBody{ReadCloser: r.Body, control: control, timeout: timeout}
	b.idle.L = &b.mu
	return b
}

// Read gives the client the timeout for the next bytes.
func (b *requestBody) Read(p []byte) (int, error) {
	if err := b.beforeRead(); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	b.afterRead(err)
	return n, err
}

func (b *requestBody) beforeRead() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return errBodyEnded
	}
	b.reading = true
	if b.timeout > 0 && !b.read {
		_ = b.control.SetReadDeadline(time.Now().Add(b.timeout))
	}
	return nil
}

func (b *requestBody) afterRead(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.idle.Broadcast()
	if err == io.EOF { // net/http gives it along with the last bytes
		b.read = true
	} else if err != nil && !b.ended {
		b.err = err
	}
	if b.read && b.timeout > 0 && !b.ended {
		// net/http now reads on to see the client go away; that must not time out.
		_ = b.control.SetReadDeadline(time.Time{})
	}
}

func (b *requestBody) wasRead() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

// failure returns what the client's side of the body failed with.
func (b *requestBody) failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// lastFailure is failure for when the request's context has ended. net/http ends
// it in the midst of a read that fails: its result is about to come.
func (b *requestBody) lastFailure() error {
	if b == nil {
		return nil
	}
	late := time.AfterFunc(settleTimeout, func() { b.end(0) })
	defer late.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.reading {
		b.idle.Wait()
	}
	return b.err
}

// end makes further reads fail, breaks off one that is blocked, and gives
// net/http limit to get rid of what is left of the body; it would wait for the
// client without end. The read must be over before the limit is set, because
// net/http, too, breaks off a read by a deadline and takes it away again.
func (b *requestBody) end(limit time.Duration) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.read {
		return
	}
	if b.control.SetReadDeadline(time.Now()) != nil {
		return // a writer without deadlines is a test's
	}
	for b.reading {
		b.idle.Wait()
	}
	deadline := time.Time{}
	if !b.read {
		deadline = time.Now().Add(limit)
	}
	_ = b.control.SetReadDeadline(deadline)
}
