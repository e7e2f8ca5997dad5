package proxy

import (
	"errors"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// exchange is one request and its answer on their way through the proxy. It
// belongs to the goroutine of the request.
type exchange struct {
	proxy    *Proxy
	start    time.Time
	in       *http.Request // as it came, except for the body
	out      response
	body     *requestBody // nil: the request has none
	peer     netip.Addr   // zero: unknown
	trusted  bool         // peer is a trusted proxy
	id       string
	limits   Timeouts
	page     string
	endpoint *Endpoint // the last that was tried
	upload   *uploader // what sends the body; nil until it is begun
	sent     bool      // a worker may have got a part of the request
	now      time.Time // a moment ago
}

// begin takes a request in.
func (p *Proxy) begin(w http.ResponseWriter, r *http.Request) *exchange {
	now := time.Now()
	x := &exchange{proxy: p, start: now, now: now, in: r, limits: p.o.Timeouts()}
	x.out = response{ResponseWriter: w, control: *http.NewResponseController(w), exchange: x}
	if r.ContentLength != 0 {
		x.body = newRequestBody(r, &x.out.control, x.limits.Read)
		in := *r // a handler must not change the request it is given
		in.Body = x.body
		x.in = &in
	}
	x.identify()
	return x
}

// serve routes the request and has it answered. A fault says why it was not,
// or not to the end.
func (x *exchange) serve() *fault {
	path, f := target(x.in)
	if f != nil {
		return f
	}
	route, ok := x.proxy.Lookup(x.in.Host, path)
	if !ok {
		return &fault{status: http.StatusNotFound, kind: kindRouteNotFound}
	}
	x.page = route.Backend.page
	return x.deliver(&turn{backend: route.Backend})
}

// deliver tries endpoints until one has the request. It goes on only while
// nothing of the request has reached a worker.
func (x *exchange) deliver(t *turn) *fault {
	for {
		e, err := t.next(x.in.Context())
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
		dial, ok := errors.AsType[*dialError](err)
		if !ok || isLocalLimit(err) || x.in.Context().Err() != nil {
			return x.diagnose(err)
		}
		t.unreachable(e, dial)
	}
}

// via forwards to e, which has been entered, and leaves it.
func (x *exchange) via(e *Endpoint) error {
	defer e.leave()
	e.count()
	if x.body != nil {
		// Without this net/http reads the whole request before it sends the
		// first byte of the answer. HTTP/2 needs no asking.
		_ = x.out.control.EnableFullDuplex()
	}
	return x.proxy.forward.forward(x, e)
}

// diagnose says which part failed.
func (x *exchange) diagnose(err error) *fault {
	if f := asFault(err); f != nil {
		return f
	}
	bodyErr := x.body.failure()
	if x.in.Context().Err() != nil {
		bodyErr = x.body.lastFailure()
	}
	if bodyErr != nil {
		if isTimeout(bodyErr) {
			return &fault{http.StatusRequestTimeout, kindReadTimeout, bodyErr}
		}
		return &fault{statusClientClosed, kindClientClosed, bodyErr}
	}
	if isTimeout(x.out.err) {
		return &fault{statusClientClosed, kindWriteTimeout, x.out.err}
	}
	if x.out.err != nil || x.in.Context().Err() != nil {
		return &fault{statusClientClosed, kindClientClosed, x.out.err}
	}
	return diagnoseWorker(err)
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
	case isTimeout(err):
		return &fault{http.StatusGatewayTimeout, kindResponseTimeout, err}
	case isDisconnect(err):
		return &fault{http.StatusBadGateway, kindWorkerClosed, err}
	}
	return &fault{http.StatusBadGateway, kindWorkerError, err}
}

// end settles the connection to the client before the handler returns: nobody
// reads the body any more, and net/http gets time to write what it buffers.
func (x *exchange) end(abort bool) {
	if x.out.hijacked {
		return
	}
	switch {
	case abort:
		x.body.end(0)
	case x.endpoint != nil:
		x.body.end(lingerTimeout)
	default:
		x.body.end(discardTimeout)
	}
	x.upload.wait()
	x.out.armAt(x.now)
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
