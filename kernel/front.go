package kernel

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tqserver/tqserver/kernel/proxy"
)

// front accepts connections and hands each to the newest of its servers. net/http cannot change the timeouts of a
// server that runs: a reload adds a server for new connections, and an older one goes with its last connection.
type front struct {
	lis    net.Listener
	failed func(error) // told of the first of a row of failures to accept
	lane   *proxy.Lane // nil: the servers get all
	fast   func() bool // new connections begin in the lane
	mu     sync.Mutex
	all    []*era
	cur    *era
	taken  uint64 // connections that a server was given
	idled  uint64 // those of them that were closed since no request came in time
	done   sync.WaitGroup
}

// era is one server with the connections that it was given. All but srv and in is guarded by front.mu.
type era struct {
	srv   *http.Server
	in    *handoff
	open  int  // connections, except upgraded ones
	ended bool // it gets no more
}

func newFront(lis net.Listener, srv *http.Server, failed func(error)) *front {
	f := &front{lis: lis, failed: failed}
	f.renew(srv)
	return f
}

// accelerate puts a lane in front of the servers, for the connections that are accepted while fast is true. It must be
// called before run.
func (f *front) accelerate(p *proxy.Proxy, o proxy.LaneOptions, fast func() bool) {
	o.HandOver = f.give
	f.lane, f.fast = p.NewLane(o), fast
}

// renew serves further connections with srv, whose ConnState it sets.
func (f *front) renew(srv *http.Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.cur
	e := &era{srv: srv, in: &handoff{addr: f.lis.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}}
	srv.ConnState = func(c net.Conn, state http.ConnState) { f.connState(e, c, state) }
	f.all, f.cur = append(f.all, e), e
	f.done.Go(func() {
		_ = srv.Serve(e.in) // its only error is that it was shut down
		f.change(e, func() { e.ended = true })
	})
	if old != nil {
		_ = old.in.Close()
	}
}

func (f *front) connState(e *era, c net.Conn, state http.ConnState) {
	idled := proxy.Idled(c, state, e.srv.IdleTimeout)
	switch state {
	case http.StateNew:
		f.change(e, func() { e.open++; f.taken++ })
	case http.StateClosed, http.StateHijacked:
		f.change(e, func() {
			e.open--
			if idled {
				f.idled++
			}
		})
	}
}

// change forgets an era that is over.
func (f *front) change(e *era, do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	if e.ended && e.open == 0 {
		f.all = slices.DeleteFunc(f.all, func(other *era) bool { return other == e })
	}
}

// run accepts until the listener is closed. A shortage of file descriptors is waited out.
func (f *front) run() error {
	const shortest = 5 * time.Millisecond
	delay := shortest
	for {
		c, err := f.lis.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			if delay == shortest {
				f.failed(err)
			}
			time.Sleep(delay) // nothing else tells when there are descriptors again
			delay = min(2*delay, time.Second)
			continue
		}
		delay = shortest
		f.serve(c)
	}
}

func (f *front) serve(c net.Conn) {
	if f.lane != nil && f.fast() {
		f.done.Go(func() { f.lane.Serve(c) })
		return
	}
	f.give(c, nil)
}

// give hands a connection, and what was read of it already, to the newest server, also when that changes meanwhile.
func (f *front) give(c net.Conn, early []byte) {
	c = proxy.Strict(c, early)
	for e := f.current(); !e.in.give(c); {
		newer := f.current()
		if newer == e {
			_ = c.Close() // it is shutting down
			return
		}
		e = newer
	}
}

func (f *front) current() *era {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cur
}

// shutdown takes no new connections and waits until the requests of the others have ended, or ctx. All servers and the
// lane stop at once: one that waits must not let another go on with new requests.
func (f *front) shutdown(ctx context.Context) error {
	err := f.lis.Close()
	servers := f.servers()
	errs := make([]error, len(servers))
	var all sync.WaitGroup
	for i, srv := range servers {
		srv.SetKeepAlivesEnabled(false)
		all.Go(func() { errs[i] = srv.Shutdown(ctx) })
	}
	if f.lane != nil {
		err = errors.Join(err, f.lane.Shutdown(ctx))
	}
	all.Wait()
	return errors.Join(append(errs, err)...)
}

// close cuts what is left.
func (f *front) close() error {
	var err error
	for _, srv := range f.servers() {
		err = errors.Join(err, srv.Close())
	}
	if f.lane != nil {
		err = errors.Join(err, f.lane.Close())
	}
	f.done.Wait()
	return err
}

func (f *front) servers() []*http.Server {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*http.Server
	for _, e := range f.all {
		all = append(all, e.srv)
	}
	return all
}

// handoff is a listener whose connections are given to it.
type handoff struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

var _ net.Listener = (*handoff)(nil)

// give reports whether the server has taken the connection; it does not any more once it is closed.
func (h *handoff) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		return false
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error   { h.once.Do(func() { close(h.closed) }); return nil }
func (h *handoff) Addr() net.Addr { return h.addr }
