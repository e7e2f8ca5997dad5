package proxy

import (
	"context"
	"flag"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// fastLane has every site of the tests serve over lane R first.
var fastLane = flag.Bool("fast", false, "put the fast lane in front of every test's site")

// fastSite puts a lane in front of the site's server: it accepts for it, and
// gives the server what it hands over.
type fastSite struct {
	net.Listener
	lane   *Lane
	handed chan net.Conn
	closed chan struct{}
	once   sync.Once
	all    sync.WaitGroup
}

func newFastSite(p *Proxy, l net.Listener, o LaneOptions) *fastSite {
	f := &fastSite{Listener: l, handed: make(chan net.Conn), closed: make(chan struct{})}
	o.HandOver = f.take
	f.lane = p.NewLane(o)
	f.all.Go(f.accept)
	return f
}

func (f *fastSite) accept() {
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			return
		}
		f.all.Go(func() { f.lane.Serve(c) })
	}
}

func (f *fastSite) take(c net.Conn, early []byte) {
	c = Strict(c, early)
	select {
	case f.handed <- c:
	case <-f.closed:
		c.Close()
	}
}

// Accept is for the server: what the lane does not serve.
func (f *fastSite) Accept() (net.Conn, error) {
	select {
	case c := <-f.handed:
		return c, nil
	case <-f.closed:
		return nil, http.ErrServerClosed
	}
}

func (f *fastSite) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Listener.Close()
}

// stop cuts everything that the lane serves.
func (f *fastSite) stop() {
	f.Close()
	f.lane.Close()
	f.all.Wait()
}

func laneTimeouts(readHeader, idle time.Duration) LaneOptions {
	return LaneOptions{ReadHeader: func() time.Duration { return readHeader }, Idle: func() time.Duration { return idle }}
}

var _ = context.Background
var _ testing.TB
