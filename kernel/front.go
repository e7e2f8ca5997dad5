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

	settling time.Duration // how long clients that have just connected may take, while the server stops, to begin what they came for
}

// era is one server with the connections that it was given. All but srv and in is guarded by front.mu.
type era struct {
	srv   *http.Server
	in    *handoff
	open  map[net.Conn]struct{} // except upgraded ones
	ended bool                  // it gets no more
}

func newFront(lis net.Listener, srv *http.Server, failed func(error)) *front {
	f := &front{lis: lis, failed: failed, settling: 500 * time.Millisecond}
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
	e := &era{srv: srv, open: map[net.Conn]struct{}{}, in: &handoff{addr: f.lis.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}}
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
		f.change(e, func() { f.taken++ })
	case http.StateClosed, http.StateHijacked:
		f.change(e, func() {
			delete(e.open, c)
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
	if e.ended && len(e.open) == 0 {
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
	if !f.offer(c, nil) {
		f.done.Go(func() { f.turnAway(c, nil) })
	}
}

// give hands a connection, and what was read of it already, to the newest server. When all are shutting down, the client
// is told.
func (f *front) give(c net.Conn, early []byte) {
	if !f.offer(c, early) {
		f.turnAway(c, early)
	}
}

func (f *front) turnAway(c net.Conn, early []byte) {
	if f.lane == nil {
		_ = c.Close()
		return
	}
	f.lane.TurnAway(c, early)
}

// offer gives a connection to the newest server, also when that changes meanwhile, and reports whether there is one.
func (f *front) offer(c net.Conn, early []byte) bool {
	c = proxy.Strict(c, early)
	for e := f.current(); ; {
		f.change(e, func() { e.open[c] = struct{}{} })
		if e.in.give(c) {
			return true
		}
		f.change(e, func() { delete(e.open, c) })
		newer := f.current()
		if newer == e {
			return false
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
	eras := f.eras()
	errs := make([]error, len(eras), len(eras)+2)
	closed, lane := f.lis.Close(), error(nil)
	var all sync.WaitGroup
	if f.lane != nil {
		all.Go(func() { lane = f.lane.Shutdown(ctx) })
	}
	for _, e := range eras {
		_ = e.in.Close()
		e.srv.SetKeepAlivesEnabled(false)
	}
	f.settle(ctx)
	for i, e := range eras {
		all.Go(func() { errs[i] = e.srv.Shutdown(ctx) })
	}
	all.Wait()
	return errors.Join(append(errs, closed, lane)...)
}

// settle waits until all connections have begun what they are for, and closes those that do not. A server that shuts down
// drops a first request without an answer, and does not see HTTP/2 begin.
func (f *front) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, f.settling)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for calm := 0; calm < 2 && ctx.Err() == nil; calm++ { // the server is told of a request a moment before it takes it
		if len(f.open(proxy.Fresh)) > 0 {
			calm = -1
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	for _, c := range f.open(proxy.Fresh) {
		_ = c.Close()
	}
}

// open returns those of the servers' connections that are wanted.
func (f *front) open(wanted func(net.Conn) bool) []net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []net.Conn
	for _, e := range f.all {
		for c := range e.open {
			if wanted(c) {
				all = append(all, c)
			}
		}
	}
	return all
}

// close cuts what is left. It closes all connections at the same time before the servers do so one by one: those of
// clients that were refused take a moment each.
func (f *front) close() error {
	var all sync.WaitGroup
	for _, c := range f.open(func(net.Conn) bool { return true }) {
		all.Go(func() { _ = c.Close() })
	}
	all.Wait()
	var err error
	for _, e := range f.eras() {
		err = errors.Join(err, e.srv.Close())
	}
	if f.lane != nil {
		err = errors.Join(err, f.lane.Close())
	}
	f.done.Wait()
	return err
}

func (f *front) eras() []*era {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
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
