package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/proxy"
)

// TestFrontHasALane: it serves new connections while it is on, and the newest server gets what it hands over.
func TestFrontHasALane(t *testing.T) {
	server := func(name string) *http.Server {
		return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, name, string(body))
		})}
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(lis, server("first"), func(error) {})
	var fast atomic.Bool
	limit := func() time.Duration { return time.Minute }
	f.accelerate(proxy.New(proxy.Options{}), proxy.LaneOptions{ReadHeader: limit, Idle: limit}, fast.Load)
	f.done.Go(func() { _ = f.run() })
	// ask sends a body of unknown length, which the lane does not take, or none.
	ask := func(c *http.Client, body string) string {
		method, from := http.MethodGet, io.Reader(nil)
		if body != "" {
			method, from = http.MethodPost, struct{ io.Reader }{strings.NewReader(body)}
		}
		req, err := http.NewRequest(method, "http://"+lis.Addr().String(), from)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(res.StatusCode, " ", string(b))
	}
	client := func() *http.Client {
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: 20 * time.Second}
	}
	const none = "404 Worker not found\n" // the lane has a proxy without routes
	slow := client()
	if got := ask(slow, ""); got != "200 first" {
		t.Errorf("the lane is off: %q", got)
	}
	fast.Store(true)
	if got := ask(slow, ""); got != "200 first" {
		t.Errorf("on a connection from before: %q", got)
	}
	quick := client()
	if got := ask(quick, ""); got != none {
		t.Errorf("the lane is on: %q", got)
	}
	f.renew(server("second"))
	if got := ask(quick, "body"); got != "200 secondbody" {
		t.Errorf("handed over: %q", got)
	}
	if got := ask(quick, ""); got != "200 second" {
		t.Errorf("after it was handed over: %q", got)
	}
	if got := ask(client(), ""); got != none {
		t.Errorf("a new connection: %q", got)
	}
	if err := errors.Join(f.shutdown(t.Context()), f.close()); err != nil {
		t.Error(err)
	}
	if s := f.lane.Stats(); s.Open != 0 || s.Accepted != 2 || s.Requests != 2 || s.HandedOver["body"] != 1 {
		t.Errorf("%+v", s)
	}
}
