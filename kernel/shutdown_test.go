package kernel

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/proxy"
)

// testFront lets a kernel's page be asked.
func testFront(t *testing.T, k *Kernel, p *page) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.proxy.SetRoutes([]proxy.Route{{Path: "/", Backend: p.backend}}); err != nil {
		t.Fatal(err)
	}
	close(k.routes.ready)
	k.listener = lis
	k.front = newFront(lis, k.server(), func(error) {})
	k.front.accelerate(k.proxy, k.laneOptions(), func() bool { return k.config().Server.FastLane })
	k.front.done.Go(func() { _ = k.front.run() })
	k.routes.leaving.Go(func() { <-p.ctx.Done(); p.takeDown() })
}

// A worker that drains since before the server was told to stop ends in time with it, also when a second signal comes.
func TestShutdownBoundsWhatDrainsAlready(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit time.Duration
		hurry bool
	}{{"limit", 200 * time.Millisecond, false}, {"second signal", time.Hour, true}} {
		t.Run(c.name, func(t *testing.T) {
			k := testKernel(t, func(cfg *config.Config) {
				cfg.Workers.DrainTimeout, cfg.Server.ShutdownTimeout = time.Hour, c.limit
			})
			p := testPage(t, k, "a")
			p.serveRelease(t, testRelease(t, "one", "serve"))
			testFront(t, k, p)
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := client.Get("http://" + k.listener.Addr().String() + "/slow") // goes on until it is cut
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			p.serveRelease(t, testRelease(t, "two", "serve"))
			p.until(t, "the old worker to be told to end", func() bool { return len(p.leaving) == 1 })
			hurry, ended := make(chan struct{}), make(chan error, 1)
			if c.hurry {
				close(hurry)
			}
			go func() { ended <- k.shutdown(newLives(), hurry) }()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the shutdown goes on")
				k.cutNow()
				<-ended
			}
			if n := len(k.ports.Leases()); n != 0 {
				t.Errorf("%d ports are leased", n)
			}
		})
	}
}

// While an older server waits for a request, the newest takes no further ones.
func TestFrontStopsAllServersAtOnce(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun, release := make(chan struct{}), make(chan struct{})
	slow := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(begun); <-release })}
	var stopping atomic.Bool
	quick := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if stopping.Load() {
			t.Error("a request is taken while the server stops")
		}
	})}
	f := newFront(lis, slow, func(error) {})
	f.done.Go(func() { _ = f.run() })
	url := "http://" + lis.Addr().String()
	ask := func(c *http.Client) error {
		resp, err := c.Get(url)
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	first := make(chan error, 1)
	go func() { first <- ask(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}) }()
	<-begun
	f.renew(quick)
	kept := &http.Transport{}
	defer kept.CloseIdleConnections()
	if err := ask(&http.Client{Transport: kept}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	quickEnded := make(chan struct{})
	quick.RegisterOnShutdown(func() { close(quickEnded) })
	go func() { ended <- f.shutdown(t.Context()) }()
	select {
	case <-quickEnded:
	case <-time.After(5 * time.Second):
		t.Error("the newest server waits for the older one")
	}
	stopping.Store(true)
	close(release)
	if err := errors.Join(<-first, <-ended, f.close()); err != nil {
		t.Error(err)
	}
}

// flaky is a listener without file descriptors, for a while.
type flaky struct {
	net.Listener
	left atomic.Int32
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, syscall.EMFILE
	}
	return f.Listener.Accept()
}

func TestFrontTellsThatItCannotAccept(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &flaky{Listener: lis}
	l.left.Store(3)
	told := make(chan error, 3)
	f := newFront(l, &http.Server{}, func(err error) { told <- err })
	f.done.Go(func() { _ = f.run() })
	if err := <-told; !errors.Is(err, syscall.EMFILE) {
		t.Errorf("told %v", err)
	}
	if err := errors.Join(f.shutdown(context.Background()), f.close()); err != nil {
		t.Error(err)
	}
	if len(told) != 0 {
		t.Error("told more than once in a row")
	}
}

// A server that is stopping does not say that it serves because a page got ready meanwhile.
func TestStoppingStaysStopping(t *testing.T) {
	k := testKernel(t)
	close(k.routes.ready)
	k.state.Store(ptr("stopping"))
	if err := k.showProgress(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := *k.state.Load(); s != "stopping" {
		t.Errorf("state is %s", s)
	}
}
