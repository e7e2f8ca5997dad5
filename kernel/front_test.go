package kernel

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// askFront makes a request over a client's connections.
func askFront(c *http.Client, f *front) (string, error) {
	res, err := c.Get("http://" + f.lis.Addr().String())
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// TestFrontLetsGoOfOldServers when their last connection has ended, loses no connection over a change, and leaves
// those that are open alone.
func TestFrontLetsGoOfOldServers(t *testing.T) {
	server := func(name string) *http.Server {
		return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })}
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(lis, server("first"), func(error) {})
	ran := make(chan error, 1)
	go func() { ran <- f.run() }()

	kept := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	if got, err := askFront(kept, f); got != "first" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		clients.Go(func() {
			fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			for {
				if _, err := askFront(fresh, f); err != nil {
					t.Errorf("a new connection: %v", err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 200 {
		f.renew(server(fmt.Sprint(i)))
	}
	close(stop)
	clients.Wait()
	if got, err := askFront(kept, f); got != "first" || err != nil {
		t.Errorf("the connection that was open: %q, %v", got, err)
	}
	awaitServers(t, f, 2)
	kept.CloseIdleConnections()
	awaitServers(t, f, 1)
	if err := f.shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func awaitServers(t *testing.T, f *front, want int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		n := len(f.eras())
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d servers, want %d", n, want)
		}
	}
}
