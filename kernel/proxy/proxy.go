// Package proxy is the data path of the kernel: it routes a request to a
// page, picks one of the page's ready workers, forwards, and answers for the
// worker when there is none.
//
// A [Proxy] holds an immutable table of [Route]s. A route leads to a [Backend],
// the point at which the workers of a page are swapped. A backend holds
// [Endpoint]s, one per running worker, each with connections of its own.
//
// Nothing here starts processes, reads configuration or calls a plugin.
package proxy

import (
	"log"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// maxHeaderBytes bounds the head of a request; more is answered with 431.
const maxHeaderBytes = 64 << 10

// Options configure a [Proxy]. The zero value trusts no peer, sets no timeout
// and logs nothing. Every function must be safe for concurrent use and cheap:
// it is called inside requests.
type Options struct {
	// TrustedProxies lists the peers whose X-Forwarded-*, Forwarded, X-Real-IP
	// and X-Request-Id headers are believed. Nil or empty: nobody's are.
	TrustedProxies func() []netip.Prefix

	// Timeouts is read once per request, so a changed value applies to the
	// next one. Nil: no timeouts.
	Timeouts func() Timeouts

	// Log is called once per finished request, in the request's goroutine. The
	// entry and its strings are valid during the call only, since they may be
	// views of a buffer: what is to be kept has to be copied ([Entry.Clone]).
	Log func(*Entry)

	// ErrorLog gets what net/http has to say about broken connections and
	// panics, one line without its newline per call. Nil: dropped.
	ErrorLog func(line string)

	// Reveal reports whether the body of an error may say its cause. It is
	// meant for dev mode; the cause can hold addresses and paths.
	Reveal func() bool
}

// Timeouts bound how long a client may stand still. Neither limits the length
// of a transfer, and time spent waiting for a worker never counts. 0 is no
// limit.
type Timeouts struct {
	Read  time.Duration // for the next bytes of the request body
	Write time.Duration // for the client to take what is written at a time, 64 KiB at most
}

// Proxy is an [http.Handler] that forwards to the workers of pages. It is safe
// for concurrent use. Make one with [New].
type Proxy struct {
	o       Options
	table   atomic.Pointer[table]
	forward forwarder

	unrouted tally // of requests that belong to no page
}

var _ http.Handler = (*Proxy)(nil)

// New returns a proxy without routes: it answers 404 until [Proxy.SetRoutes].
func New(o Options) *Proxy {
	if o.TrustedProxies == nil {
		o.TrustedProxies = func() []netip.Prefix { return nil }
	}
	if o.Timeouts == nil {
		o.Timeouts = func() Timeouts { return Timeouts{} }
	}
	if o.Log == nil {
		o.Log = func(*Entry) {}
	}
	if o.ErrorLog == nil {
		o.ErrorLog = func(string) {}
	}
	if o.Reveal == nil {
		o.Reveal = func() bool { return false }
	}
	p := &Proxy{o: o, forward: uplink{}}
	p.table.Store(&table{})
	return p
}

// SetRoutes replaces all routes at once. It returns an error that wraps
// [ErrRoute] and changes nothing if a path is not canonical, a backend is
// missing, or two routes share host and path. Requests that are being served
// go on with the backend they were routed to.
func (p *Proxy) SetRoutes(routes []Route) error {
	t, err := newTable(routes)
	if err != nil {
		return err
	}
	p.table.Store(t)
	return nil
}

// Lookup returns the route for a host, as in the Host header, and a decoded
// path. Routes of that very host (any case, port ignored) are tried before
// those of every host; the longest path that ends on a "/" boundary wins.
func (p *Proxy) Lookup(host, path string) (Route, bool) {
	return p.table.Load().lookup(host, path)
}

// ServeHTTP forwards r to the worker its route leads to. It returns when the
// answer has been copied or the upgraded connection has ended, and panics with
// [http.ErrAbortHandler] where an answer was cut short, so that net/http closes
// the connection and the client can tell.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := p.begin(w, r)
	path, f := target(r)
	switch {
	case f == nil && path == serverItself:
		x.answerItself()
	case f == nil:
		f = x.serve(path)
	}
	abort := x.conclude(f)
	x.now = time.Now()
	x.side.(*response).end(abort)
	x.report(f)
	if abort && !x.out.hijacked {
		panic(http.ErrAbortHandler)
	}
}

// Server returns a front for p on addr, for HTTP/1 and, where the client begins
// with it, HTTP/2; the caller starts and stops it. There
// is no write timeout, since that would cut live streams: [Options.Timeouts]
// replaces it. t is read now, once: net/http cannot change the two later.
func (p *Proxy) Server(addr string, t func() (readHeader, idle time.Duration)) *http.Server {
	readHeader, idle := t()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols:                    &protocols,
		Addr:                         addr,
		Handler:                      p,
		DisableGeneralOptionsHandler: true, // it would answer unseen
		ConnContext:                  withStrict(readHeader),
		ReadHeaderTimeout:            readHeader,
		IdleTimeout:                  idle,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     log.New(lineWriter(p.o.ErrorLog), "", 0),
	}
}

// lineWriter passes each line of a log.Logger to a function.
type lineWriter func(line string)

func (f lineWriter) Write(p []byte) (int, error) {
	line := string(p)
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	f(line)
	return len(p), nil
}
