package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
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

// response is the client's side in lane S, which net/http serves. It gives every
// write its own deadline and notes what happens.
type response struct {
	http.ResponseWriter
	control  http.ResponseController
	exchange *exchange
	in       *http.Request // as it came
	instead  *breach       // which it stands for, or nil
	promised []string      // the trailers that the head has announced
	armed    time.Time     // when the write deadline was set last
}

// begin takes a request in.
func (p *Proxy) begin(w http.ResponseWriter, r *http.Request) *exchange {
	now := time.Now()
	both := &struct {
		x exchange
		w response
	}{
		exchange{proxy: p, start: now, now: now, limits: p.o.Timeouts(),
			method: r.Method, host: r.Host, secure: r.TLS != nil, old: !r.ProtoAtLeast(1, 1), length: r.ContentLength},
		response{ResponseWriter: w, control: *http.NewResponseController(w), in: r},
	}
	x := &both.x
	x.side, both.w.exchange = &both.w, x
	if refusedBefore(r.URL) != nil {
		if bad := refusedIn(r.Context()); bad != nil {
			both.w.instead, x.method, x.host, x.start = bad, bad.method, "", bad.began
		}
	}
	switch {
	case r.ContentLength != 0:
		x.body = newRequestBody(r, &both.w.control, x.limits.Read)
		x.expects = !x.old && hasToken(r.Header.Get("Expect"), "100-continue")
	case !x.old:
		x.upgrade = askedUpgrade(r.Header)
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		x.peer = peer.Addr().Unmap().WithZone("")
	}
	x.identify()
	return x
}

var (
	_ http.ResponseWriter = (*response)(nil)
	_ http.Hijacker       = (*response)(nil)
	_ side                = (*response)(nil)
)

// Unwrap lets http.ResponseController reach what response does not have.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) context() context.Context { return w.in.Context() }

func (w *response) watch(c *workerConn) (unwatch func() bool) {
	return context.AfterFunc(w.in.Context(), func() { c.Close() })
}

func (w *response) path() string {
	if w.instead != nil {
		return w.instead.path
	}
	return w.in.URL.EscapedPath()
}

func (w *response) values(to []string, name string) []string { return append(to, w.in.Header[name]...) }

func (w *response) appendTarget(b []byte) []byte {
	u := w.in.URL
	path := u.RawPath
	if path == "" {
		path = u.EscapedPath()
	}
	if path == "" {
		path = "/"
	}
	b = append(b, path...)
	if u.ForceQuery || u.RawQuery != "" {
		b = append(append(b, '?'), u.RawQuery...)
	}
	return b
}

func (w *response) appendHeader(b []byte) (_ []byte, ok bool) {
	var listed []string
	for _, line := range w.in.Header["Connection"] {
		listed = appendListed(listed, line)
	}
	for name, values := range w.in.Header {
		if !w.exchange.passes(name, listed) {
			continue
		}
		for _, v := range values {
			if !isLine(v) {
				return b, false
			}
			b = appendField(b, name, v)
		}
	}
	return b, true
}

// WriteHeader passes informational answers on and notes the final one. A 100
// is left to proceed.
func (w *response) WriteHeader(status int) {
	if status == http.StatusContinue {
		return
	}
	if status < 200 {
		w.arm()
	} else {
		w.exchange.out.status, w.exchange.out.started = status, true
		h := w.Header()
		if h["Content-Type"] == nil {
			h["Content-Type"] = nil // or net/http guesses what the worker did not say
		}
		if w.exchange.begun && w.in.ProtoMajor == 1 && !w.exchange.body.wasRead() {
			// It is answered before the whole request has come. What is left of
			// it must not be taken for the next one. HTTP/2 keeps them apart.
			h.Set("Connection", "close")
		}
		if w.exchange.upgrade != "" {
			h.Set("Connection", "close") // the client may speak the other protocol already
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
	w.exchange.out.bytes.Add(int64(n))
	w.exchange.out.note(err)
	return n, err
}

func (w *response) splices() bool {
	_, ok := w.ResponseWriter.(io.ReaderFrom)
	return ok
}

// splice moves src to the client, by splice if net/http lets it.
func (w *response) splice(src *io.LimitedReader) (int64, error) {
	w.arm()
	n, err := w.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
	w.exchange.out.bytes.Add(n)
	return n, err
}

func (w *response) flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController.Flush calls.
func (w *response) FlushError() error {
	w.arm()
	err := w.control.Flush()
	w.exchange.out.note(err)
	return err
}

// Hijack is hijack for those that know net/http only.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, err := w.hijack()
	if err != nil {
		return nil, nil, err
	}
	return c, bufio.NewReadWriter(c.early, bufio.NewWriter(c)), nil
}

// hijack gives out the client's connection, which ends with the endpoint that
// it was upgraded for.
func (w *response) hijack() (*clientConn, error) {
	conn, rw, err := w.control.Hijack()
	if err != nil {
		return nil, err
	}
	if strict, ok := conn.(*strictConn); ok {
		strict.taken.Store(true)
	}
	x := w.exchange
	x.out.status, x.out.started, x.out.hijacked = http.StatusSwitchingProtocols, true, true
	c := &clientConn{Conn: conn, early: rw.Reader, exchange: x, endpoint: x.endpoint}
	if !c.endpoint.track(c) {
		conn.Close()
		return nil, errEndpointClosed
	}
	c.arm()
	return c, nil
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

// end settles the connection to the client before the handler returns: nobody
// reads the body any more, and net/http gets time to write what it buffers.
func (w *response) end(abort bool) {
	x := w.exchange
	if x.out.hijacked {
		return
	}
	switch {
	case abort:
		x.body.end(0)
	case x.begun:
		x.body.end(lingerTimeout)
	default:
		x.body.end(discardTimeout)
	}
	x.upload.wait()
	w.armAt(x.now)
}

// clientConn is an upgraded connection. Bytes that came along with the upgrade
// are read first.
type clientConn struct {
	net.Conn
	early    *bufio.Reader
	exchange *exchange
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
	c.exchange.out.bytes.Add(int64(n))
	return n, err
}

// CloseWrite passes the end of the worker's data on. The client then has until
// Timeouts.Read to end its own.
func (c *clientConn) CloseWrite() error {
	if t := c.exchange.limits.Read; t > 0 {
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
	if t := c.exchange.limits.Write; t > 0 {
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
	chunked bool
	trailer http.Header // filled when the body was read
	timeout time.Duration

	mu      sync.Mutex
	reading bool // in Read
	read    bool // to its end
	ended   bool
	err     error // what a Read failed with
	idle    sync.Cond
}

func newRequestBody(r *http.Request, control *http.ResponseController, timeout time.Duration) *requestBody {
	b := &requestBody{ReadCloser: r.Body, control: control, chunked: r.ContentLength < 0, trailer: r.Trailer, timeout: timeout}
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
