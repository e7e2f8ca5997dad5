package proxy

import (
	"bytes"
	"context"
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
	"time"
)

const copyBufferSize = 32 << 10

// reverse forwards with httputil.ReverseProxy, tuned as far as it goes: the
// oracle that the uplink is compared with.
type reverse struct {
	proxy      httputil.ReverseProxy
	transports sync.Map // by *Endpoint
}

// carried is an exchange on its way through httputil.ReverseProxy.
type carried struct {
	*exchange
	sendErr error // why the last attempt got no answer
	copyErr error // why the worker's answer could not be read to its end
}

type exchangeKey struct{}

func exchangeOf(r *http.Request) *carried { return r.Context().Value(exchangeKey{}).(*carried) }

var _ forwarder = (*reverse)(nil)

func newReverse() *reverse {
	f := &reverse{proxy: httputil.ReverseProxy{
		Rewrite:        rewrite,
		ModifyResponse: modify,
		ErrorHandler:   func(_ http.ResponseWriter, r *http.Request, err error) { exchangeOf(r).sendErr = err },
		FlushInterval:  100 * time.Millisecond,
		BufferPool:     buffers{},
		ErrorLog:       log.New(io.Discard, "", 0),
	}}
	f.proxy.Transport = f
	return f
}

func (f *reverse) forward(x *exchange, _ *Endpoint) (err error) {
	c := &carried{exchange: x}
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			panic(v)
		}
		err = errors.Join(c.sendErr, c.copyErr, x.out.err)
	}()
	w := x.side.(*response)
	in := w.in.WithContext(context.WithValue(w.in.Context(), exchangeKey{}, c))
	switch {
	case x.body != nil:
		in.Body = x.body
	case len(x.whole) > 0:
		in.Body = io.NopCloser(bytes.NewReader(x.whole))
	}
	f.proxy.ServeHTTP(w, in)
	return nil
}

// RoundTrip sends a request over the connections of the endpoint that its
// exchange has chosen.
func (f *reverse) RoundTrip(r *http.Request) (*http.Response, error) {
	e := exchangeOf(r).endpoint
	transport, ok := f.transports.Load(e)
	if !ok {
		transport, _ = f.transports.LoadOrStore(e, &http.Transport{
			DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) },
			DisableCompression:    true,
			MaxIdleConnsPerHost:   maxIdleConns,
			IdleConnTimeout:       ownIdleTimeout(e.o.IdleTimeout),
			ResponseHeaderTimeout: e.o.ResponseTimeout,
			ExpectContinueTimeout: expectContinueTimeout,
		})
	}
	return transport.(*http.Transport).RoundTrip(r)
}

// close closes the idle connections.
func (f *reverse) close() {
	f.transports.Range(func(_, transport any) bool {
		transport.(*http.Transport).CloseIdleConnections()
		return true
	})
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
	exchange *carried
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

// setHeaders puts the headers that speak for the client into out, which
// httputil.ReverseProxy has stripped of hop-by-hop headers. Whatever the
// client says about itself goes, unless it is a trusted proxy.
func (x *carried) setHeaders(out http.Header) {
	for name := range out {
		if isForged(name) || !x.trusted && isForwarding(name) {
			delete(out, name)
		}
	}
	out.Set(requestIDHeader, x.id)
	scheme := "http"
	if x.secure {
		scheme = "https"
	}
	x.setForwarded(out, "X-Forwarded-Host", x.host)
	x.setForwarded(out, "X-Forwarded-Proto", scheme)
	if x.peer.IsValid() {
		x.appendForwarded(out, "X-Forwarded-For", x.peer.String())
		if x.trusted && x.value("Forwarded") != "" {
			x.appendForwarded(out, "Forwarded", "for="+forwardedNode(x.peer))
		}
	}
}

// setForwarded keeps what a trusted proxy said, or else sets value.
func (x *carried) setForwarded(out http.Header, name, value string) {
	if said := x.side.values(nil, name); x.trusted && len(said) > 0 {
		out[name] = said
		return
	}
	out.Set(name, value)
}

// appendForwarded puts value after what a trusted proxy said.
func (x *carried) appendForwarded(out http.Header, name, value string) {
	if said := x.side.values(nil, name); x.trusted && len(said) > 0 {
		value = strings.Join(said, ", ") + ", " + value
	}
	out.Set(name, value)
}
