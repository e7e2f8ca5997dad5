package checker

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// The whole way: somebody who listens and says nothing, then nobody, then somebody again.
func TestConnections(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	defer func() { lis.Close() }()
	c := NewTCP()
	if err := c.Configure(t.Context(), TCPConfig{IntervalMS: 10, TimeoutMS: 5000, Failures: 3, Successes: 1}); err != nil {
		t.Fatal(err)
	}
	sets, reports, done := make(chan sdk.TargetSet, 1), make(chan sdk.Health, 10), make(chan error, 1)
	sets <- sdk.TargetSet{Version: 1, Targets: []sdk.Target{{ID: "w1", Addr: addr}}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() { done <- c.Check(ctx, sets, func(h sdk.Health) error { reports <- h; return nil }) }()
	next := func(healthy bool, reason string) {
		t.Helper()
		select {
		case h := <-reports:
			if h.Healthy != healthy || !strings.HasPrefix(h.Reason, reason) || (h.Reason == "") != (reason == "") {
				t.Errorf("report %+v, want healthy %v and reason %q", h, healthy, reason)
			}
		case err := <-done:
			t.Fatal(err)
		}
	}
	next(true, "")
	lis.Close()
	next(false, "dial tcp "+addr+": connect: connection refused")
	if lis, err = net.Listen("tcp", addr); err != nil {
		t.Skipf("somebody else took the port: %v", err)
	}
	next(true, "")
	cancel()
	<-done
}

func TestConnectionThatDoesNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewTCP()
		r := c.current()
		r.probe = func(ctx context.Context, _ sdk.Target) error { return hang(ctx, "") }
		c.apply(r)
		run := &check{checker: c.checker}
		if err := run.once(t.Context(), &target{}, r); err == nil || err.Error() != "no answer to a connection within 5s" {
			t.Errorf("error is %v", err)
		}
	})
}

func TestTCPConfig(t *testing.T) {
	sdk.Config(NewTCP().Configure) // panics at a wrong tag
	if r := NewTCP().current(); r.interval != 30*time.Second || r.timeout != 5*time.Second || r.failures != 3 || r.successes != 1 {
		t.Errorf("the default is %+v", r)
	}
}
