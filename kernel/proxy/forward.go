package proxy

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	copyBufferSize = 32 << 10

	// flushInterval is for answers of a known length whose worker pauses while
	// it writes them. Those of unknown length are flushed at every write.
	flushInterval = 100 * time.Millisecond
)

// forwarder carries one request to one worker and the answer back. It is all
// that a faster client would have to replace.
type forwarder interface {
	// forward sends x.in to e and copies the answer to x.out. It returns nil
	// once the answer has been copied whole or the upgraded connection has
	// ended. An error without x.out.started means that the client has got
	// nothing yet; a *dialError that the worker has not either.
	forward(x *exchange, e *Endpoint) error
}

// errUpgrade is a 101 that does not fit the request.
var errUpgrade = errors.New("proxy: worker switched to a protocol that was not asked for")

// reverse forwards with httputil.ReverseProxy. What it would get wrong is put
// right at its edges: a 101 of the wrong protocol is refused in modify, since it
// would leak the connection (go.dev/issue/80875); bytes that the client sent
// along with its upgrade are kept by clientConn, since it would lose them; the
// query and the path are restored in rewrite; and the request body is let go of
// in requestBody.end, since a blocked read of it would hold the answer back
// (go.dev/issue/80085).
type reverse struct {
	proxy httputil.ReverseProxy
}

var _ forwarder = (*reverse)(nil)

func newReverse() *reverse {
	return &reverse{httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      endpointTransport{},
		ModifyResponse: modify,
		ErrorHandler:   func(_ http.ResponseWriter, r *http.Request, err error) { exchangeOf(r).sendErr = err },
		FlushInterval:  flushInterval,
		BufferPool:     buffers{},
		ErrorLog:       log.New(io.Discard, "", 0), // Entry.Error says it
	}}
}

func (f *reverse) forward(x *exchange, _ *Endpoint) (err error) {
	x.sendErr = nil
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			panic(v)
		}
		err = errors.Join(x.sendErr, x.copyErr, x.out.err)
	}()
	f.proxy.ServeHTTP(&x.out, x.in)
	return nil
}

// endpointTransport sends a request over the connections of the endpoint that
// its exchange has chosen.
type endpointTransport struct{}

func (endpointTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return exchangeOf(r).endpoint.transport.RoundTrip(r)
}

// rewrite completes the request to the worker. The path and the query go out
// byte for byte as they came in.
func rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In)
	out := pr.Out
	out.URL.Scheme, out.URL.Host = "http", x.endpoint.o.Addr
	out.URL.RawQuery = pr.In.URL.RawQuery
	if needsOpaque(out.URL) {
		out.URL.Opaque = out.URL.RawPath
	}
	out.Trailer = pr.In.Trailer // the map that fills up as the body is read; a clone would stay empty
	if strings.EqualFold(out.Header.Get("Upgrade"), "h2c") {
		out.Header.Del("Connection")
		out.Header.Del("Upgrade")
		out.Header.Del("Http2-Settings")
	}
	x.setHeaders(out.Header)
}

// modify checks the worker's answer and completes its header.
func modify(res *http.Response) error {
	x := exchangeOf(res.Request)
	if res.StatusCode == http.StatusSwitchingProtocols {
		asked, got := upgrade(res.Request.Header), upgrade(res.Header)
		if asked == "" || !strings.EqualFold(asked, got) {
			return fmt.Errorf("%w: %q, asked for %q", errUpgrade, got, asked)
		}
		stripHopByHop(res.Header, got)
	} else {
		res.Body = &answerBody{ReadCloser: res.Body, exchange: x}
	}
	res.Header.Del(errorHeader)
	res.Header.Set(requestIDHeader, x.id)
	return nil
}

// upgrade returns the protocol that a header offers or accepts, or "".
func upgrade(h http.Header) string {
	for _, line := range h["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return h.Get("Upgrade")
			}
		}
	}
	return ""
}

// stripHopByHop leaves of a 101's connection headers just the upgrade.
func stripHopByHop(h http.Header, protocol string) {
	for _, line := range h["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			h.Del(textproto.TrimString(token))
		}
	}
	for _, name := range [...]string{"Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding"} {
		h.Del(name)
	}
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", protocol)
}

// answerBody remembers why the worker's answer ended early.
type answerBody struct {
	io.ReadCloser
	exchange *exchange
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.exchange.copyErr = err
	}
	return n, err
}

// buffers lends the buffers that answers are copied through.
type buffers struct{}

var bufferPool = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

func (buffers) Get() []byte  { return bufferPool.Get().(*[copyBufferSize]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[copyBufferSize]byte)(b)) }

// isDisconnect reports whether err is a connection that the worker, or
// Endpoint.Close, has ended.
func isDisconnect(err error) bool {
	for _, end := range [...]error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	// net/http keeps this error to itself.
	return strings.Contains(err.Error(), "server closed idle connection")
}
