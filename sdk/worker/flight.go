package worker

import (
	"net"
	"net/http"
	"sync"
)

// flight knows what is in flight: connections with a request, until the last
// byte of its response is written, and handlers, because that of a hijacked
// connection runs on after net/http has let go of it.
//
// http.Server.Shutdown is not used: it throws away a request that it has just
// read, and it polls at up to half a second, as long as the default grace.
type flight struct {
	mu       sync.Mutex
	active   map[net.Conn]struct{}
	handlers int
	empty    chan struct{} // closed once nothing is in flight; nil until landed is called
}

// connState is the server's ConnState hook.
func (f *flight) connState(conn net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state != http.StateActive {
		delete(f.active, conn)
		f.check()
		return
	}
	if f.active == nil {
		f.active = make(map[net.Conn]struct{})
	}
	f.active[conn] = struct{}{}
}

func (f *flight) enter() {
	f.mu.Lock()
	f.handlers++
	f.mu.Unlock()
}

func (f *flight) leave() {
	f.mu.Lock()
	f.handlers--
	f.check()
	f.mu.Unlock()
}

// landed returns a channel that is closed as soon as nothing is in flight.
// Requests that begin meanwhile, on connections that are open already, count.
func (f *flight) landed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.empty == nil {
		f.empty = make(chan struct{})
		f.check()
	}
	return f.empty
}

// check is called with mu held.
func (f *flight) check() {
	if f.empty == nil || f.handlers > 0 || len(f.active) > 0 {
		return
	}
	select {
	case <-f.empty:
	default:
		close(f.empty)
	}
}
