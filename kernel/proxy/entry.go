package proxy

import (
	"strings"
	"time"
)

// Entry is one finished request, for the log. No field holds control
// characters. Its strings may be views of a buffer that the next request
// overwrites: see [Options.Log].
type Entry struct {
	Time      time.Time // when the request came
	Method    string
	Path      string // escaped, without the query
	Host      string
	Page      string // "" if no route matched
	Release   string // of the worker that answered or was tried last; "" if none
	Worker    string
	RequestID string
	Client    string // address, without port
	Error     string // "", or the value of X-TQ-Error and then its cause
	Status    int    // as sent; 101 for upgraded connections, 499 if the client left before there was one
	Bytes     int64  // of the body, as handed to net/http; for upgraded connections what the client got
	Duration  time.Duration
	Attempts  int // how often it was given to a worker; 1 is the usual, 0 if there was none
}

// Clone gives a copy that stays valid.
func (e *Entry) Clone() Entry {
	c := *e
	for _, s := range []*string{&c.Method, &c.Path, &c.Host, &c.Page, &c.Release, &c.Worker, &c.RequestID, &c.Client, &c.Error} {
		*s = strings.Clone(*s)
	}
	return c
}

// report counts and logs the request, which has ended. Every lane calls it once
// for each request that it has taken in.
func (x *exchange) report(f *fault) {
	x.describe(f)
	x.tally().count(&x.entry, f)
	x.proxy.o.Log(&x.entry)
}

func (x *exchange) describe(f *fault) {
	x.entry = Entry{
		Time:      x.start,
		Method:    x.method,
		Path:      x.side.path(),
		Host:      printable(x.host),
		Page:      x.page,
		RequestID: x.id,
		Client:    x.client(),
		Attempts:  x.attempts,
		Status:    x.out.status,
		Bytes:     x.out.bytes.Load(),
		Duration:  x.now.Sub(x.start),
	}
	e := &x.entry
	if x.endpoint != nil {
		e.Release, e.Worker = x.endpoint.o.Release, x.endpoint.o.Worker
	}
	if f != nil {
		e.Error = f.String()
		if e.Status == 0 {
			e.Status = f.status
		}
	}
}

// tally is the one of the page, or of all requests that belong to none.
func (x *exchange) tally() *tally {
	if b := x.turn.backend; b != nil {
		return &b.tally
	}
	return &x.proxy.unrouted
}
