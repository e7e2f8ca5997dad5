package kernel

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// front accepts connections and hands each to the newest of its servers. net/http cannot change the timeouts of a
// server that runs: a reload adds a server for new connections, and those of the older ones live on.
type front struct {
	lis    net.Listener
	failed func(error) // told of the first of a row of failures to accept
	mu     sync.Mutex
	all    []*http.Server
	cur    *handoff
	done   sync.WaitGroup
}

func newFront(lis net.Listener, srv *http.Server, failed func(error)) *front {
	f := &front{lis: lis, failed: failed}
	f.renew(srv)
	return f
}

// renew serves further connections with srv.
func (f *front) renew(srv *http.Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &handoff{addr: f.lis.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	f.all, f.cur = append(f.all, srv), h
	f.done.Go(func() { _ = srv.Serve(h) }) // its only error is that it was shut down
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
		f.mu.Lock()
		cur := f.cur
		f.mu.Unlock()
		cur.give(c)
	}
}

// shutdown takes no new connections and waits until the requests of the others have ended, or ctx. All servers stop at
// once: one that waits must not let another go on with new requests.
func (f *front) shutdown(ctx context.Context) error {
	err := f.lis.Close()
	servers := f.servers()
	errs := make([]error, len(servers))
	var all sync.WaitGroup
	for i, srv := range servers {
		srv.SetKeepAlivesEnabled(false)
		all.Go(func() { errs[i] = srv.Shutdown(ctx) })
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
	f.done.Wait()
	return err
}

func (f *front) servers() []*http.Server {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

// handoff is a listener whose connections are given to it.
type handoff struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

var _ net.Listener = (*handoff)(nil)

func (h *handoff) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		_ = c.Close() // the server is shutting down
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
