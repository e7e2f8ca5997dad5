package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// exchange is one request and its answer on their way through the proxy. It
// belongs to the goroutine of the request. What is not the same in every lane is
// behind its side.
type exchange struct {
	proxy  *Proxy
	side   side
	start  time.Time
	method string
	host   string // as in the Host field
	secure bool   // it came over TLS
	old    bool   // in HTTP/1.0, which knows no informational answers

	length  int64        // of the body; -1: its end tells
	body    *requestBody // nil: there is none to be read
	whole   []byte       // the body, where all of it was read before a worker was chosen
	expects bool         // the client waits for a 100 before it sends the body
	upgrade string       // the protocol that the client asks for, or ""
	brief   bool         // side takes what it is given at once: a view of a buffer will do

	begun    bool        // body is being read, or may be at any time
	gathered *bodyBuffer // that holds whole; nil: none of ours

	peer    netip.Addr // zero: unknown
	trusted bool       // peer is a trusted proxy
	from    string     // peer, in words; "" if that was not needed yet
	id      string
	digits  [requestIDLength]byte // of an id of our own

	limits   Timeouts
	page     string
	turn     turn
	endpoint *Endpoint // the last that was tried
	attempts int       // to have a worker answer it
	repeated bool      // it goes to a worker for the second time, so that the connection must be new
	upload   *uploader // what sends the body; nil until it is begun
	out      outcome
	entry    Entry     // for the log, once the request has ended
	now      time.Time // a moment ago
}

// outcome is what has become of an answer.
type outcome struct {
	status   int   // of the answer; 0 until it has one
	started  bool  // the head was passed on
	refused  bool  // it is the proxy's own
	hijacked bool  // the connection was upgraded
	err      error // the first that the client's connection gave
	bytes    atomic.Int64
}

func (o *outcome) note(err error) {
	if o.err == nil && err != nil && !errors.Is(err, http.ErrNotSupported) {
		o.err = err
	}
}

// side is the client's side of an exchange: the request as it came, and where
// the answer goes. An error of the client's connection is noted in the outcome.
type side interface {
	// context ends when the client has left. It may take a call of Err or Done
	// to find that out.
	context() context.Context

	// watch has c closed when the client leaves, until unwatch is called. If
	// that is nil, the context has to be asked now and then.
	watch(c *workerConn) (unwatch func() bool)

	path() string                              // escaped, without the query, for the log
	values(to []string, name string) []string  // appends those of a field, by its canonical name
	appendTarget(b []byte) []byte              // path and query, byte for byte as they came
	appendHeader(b []byte) (_ []byte, ok bool) // the fields that exchange.passes; not ok: a value is more than a line

	head(a *answer, bodiless bool) // begins the answer
	hint(a *answer)                // an informational answer
	Write(p []byte) (int, error)   // of the body
	flush()                        // sends what was written
	splices() bool                 // splice can be used
	splice(src *io.LimitedReader) (int64, error)
	trailers(fields []field)                        // of a chunked answer, after its body
	refuse(status int, fields []field, body []byte) // answers all by itself

	proceed()                     // a 100, for an exchange that expects it
	hijack() (*clientConn, error) // the connection, for an upgrade
}

// serve has the request answered that path leads to. A fault says why it was
// not, or not to the end.
func (x *exchange) serve(path string) *fault {
	route, ok := x.proxy.Lookup(x.host, path)
	if !ok {
		return &fault{status: http.StatusNotFound, kind: kindRouteNotFound}
	}
	x.page = route.Backend.page
	x.turn = turn{backend: route.Backend}
	f := x.gather()
	if f == nil {
		f = x.deliver(&x.turn)
	}
	x.gathered.release()
	return f
}

// answerItself says that the server is there, which is all that can be said of
// it: its pages differ in what they take.
func (x *exchange) answerItself() {
	x.out.refused = true
	x.side.refuse(http.StatusOK, []field{{requestIDHeader, x.id}, {"Content-Length", "0"}}, nil)
}

// conclude answers with f if there is no answer. It reports whether the
// connection to the client must be cut, so that the client can tell.
func (x *exchange) conclude(f *fault) (abort bool) {
	if f != nil {
		x.refuse(f)
	}
	if x.endpoint != nil {
		x.endpoint.judge(f)
		if x.failed(f) {
			x.endpoint.failures.Add(1)
		}
	}
	return f != nil && (f.kind == kindClientClosed || x.out.started && !x.out.refused)
}

// deliver tries endpoints until one has the request. It goes on only while
// nothing of the request has reached a worker, or where that does no harm.
func (x *exchange) deliver(t *turn) *fault {
	for {
		e, err := t.next(x.side.context())
		if err != nil {
			return x.diagnose(err)
		}
		x.endpoint = e
		if t.waited() {
			x.now = time.Now()
		}
		if err = x.via(e); err == nil {
			return nil
		}
		if repeat, ok := errors.AsType[*repeatError](err); ok {
			x.repeated = true
			t.elsewhere(e, repeat.error)
			continue
		}
		dial, ok := errors.AsType[*dialError](err)
		if !ok || isLocalLimit(err) || x.side.context().Err() != nil {
			return x.diagnose(err)
		}
		t.unreachable(e, dial)
	}
}

// via forwards to e, which has been entered, and leaves it.
func (x *exchange) via(e *Endpoint) error {
	defer e.leave()
	e.count()
	x.attempts++
	x.beginBody()
	return x.proxy.forward.forward(x, e)
}

// beginBody says that the body is going to be read. Without it net/http reads
// the whole request before it sends the first byte of the answer. HTTP/2 needs
// no asking.
func (x *exchange) beginBody() {
	if x.body != nil && !x.begun {
		x.begun = true
		_ = x.body.control.EnableFullDuplex()
	}
}

// diagnose says which part failed.
func (x *exchange) diagnose(err error) *fault {
	if f := asFault(err); f != nil {
		return f
	}
	bodyErr := x.body.failure()
	if x.side.context().Err() != nil {
		bodyErr = x.body.lastFailure()
	}
	if bodyErr != nil {
		if bad := refusedIn(x.side.context()); bad != nil {
			return &fault{bad.why.status, kindBadRequest, bad.why}
		}
		if isTimeout(bodyErr) {
			return &fault{http.StatusRequestTimeout, kindReadTimeout, late(bodyErr, "the client sent nothing more of its request", x.limits.Read)}
		}
		return &fault{statusClientClosed, kindClientClosed, bodyErr}
	}
	if isTimeout(x.out.err) {
		return &fault{statusClientClosed, kindWriteTimeout, late(x.out.err, "the client took nothing of the answer", x.limits.Write)}
	}
	if x.out.err != nil || x.side.context().Err() != nil {
		return &fault{statusClientClosed, kindClientClosed, x.out.err}
	}
	f := diagnoseWorker(err)
	if f.kind == kindResponseTimeout && x.endpoint != nil {
		f.cause = late(f.cause, "the worker sent no answer", x.endpoint.o.ResponseTimeout)
	}
	return f
}

func diagnoseWorker(err error) *fault {
	_, isDial := errors.AsType[*dialError](err)
	switch {
	case isDial && isLocalLimit(err):
		return &fault{http.StatusServiceUnavailable, kindProxyLimit, err}
	case isDial:
		return &fault{http.StatusBadGateway, kindDial, err}
	case errors.Is(err, errFraming):
		return &fault{http.StatusBadGateway, kindBadFraming, err}
	case errors.Is(err, errUpgrade):
		return &fault{http.StatusBadGateway, kindBadUpgrade, err}
	case errors.Is(err, errStreamIdle):
		return &fault{http.StatusGatewayTimeout, kindStreamIdle, err}
	case isTimeout(err):
		return &fault{http.StatusGatewayTimeout, kindResponseTimeout, err}
	case isDisconnect(err):
		return &fault{http.StatusBadGateway, kindWorkerClosed, err}
	}
	return &fault{http.StatusBadGateway, kindWorkerError, err}
}

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}
