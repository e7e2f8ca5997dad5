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
	lis  net.Listener
	mu   sync.Mutex
	all  []*http.Server
	cur  *handoff
	done sync.WaitGroup
}

func newFront(lis net.Listener, srv *http.Server) *front {
	f := &front{lis: lis}
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
	delay := 5 * time.Millisecond
	for {
		c, err := f.lis.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			time.Sleep(delay) // nothing else tells when there are descriptors again
			delay = min(2*delay, time.Second)
			continue
		}
		delay = 5 * time.Millisecond
		f.mu.Lock()
		cur := f.cur
		f.mu.Unlock()
		cur.give(c)
	}
}

// shutdown takes no new connections and waits until the requests of the others have ended, or ctx.
func (f *front) shutdown(ctx context.Context) error {
	err := f.lis.Close()
	for _, srv := range f.servers() {
		srv.SetKeepAlivesEnabled(false)
		err = errors.Join(err, srv.Shutdown(ctx))
	}
	return err
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
