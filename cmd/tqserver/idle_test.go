//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestIdleConnections holds many connections that have each been used once: the server goes on to answer, and they can
// all be used again, of which a sample is. TQSERVER_IDLE says how many there are; memory counts without the race
// detector only.
func TestIdleConnections(t *testing.T) {
	n := amount(t, "TQSERVER_IDLE", 2000)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if most := int(limit.Max) - 500; n > most {
		t.Logf("%d connections instead of %d: the hard limit of descriptors is %d", most, n, limit.Max)
		n = most
	}
	eachLane(t, func(t *testing.T, l lane) {
		s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
		s.configure("log_level: error\nidle_timeout_seconds: 0\nread_timeout_seconds: 0\n"+l.server, "", "")
		s.start()
		s.awaitBody("/", "ok")
		before := s.weight()
		conns := s.holdIdle(n)
		held := s.weight()
		t.Logf("%d idle connections: %.2f descriptors and %.1f KiB of memory each (PSS; race detector: %v)",
			n, float64(held.files-before.files)/float64(n), float64(held.kib-before.kib)/float64(n), raceDetector())
		if held.files-before.files < n || held.files-before.files > n+50 {
			t.Errorf("the server has %d descriptors more for %d connections", held.files-before.files, n)
		}
		s.awaitBody("/", "ok") // on a new one
		for i := 0; i < n; i += max(1, n/500) {
			if err := useAgain(conns[i]); err != nil {
				t.Fatalf("connection %d of %d cannot be used any more: %v", i, n, err)
			}
		}
	})
}

// weight is what the kernel process holds.
type weight struct{ files, kib int }

func (s *site) weight() (w weight) {
	s.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", s.cmd.Process.Pid)
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := os.ReadFile(proc + "smaps_rollup")
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nPss:")
	if _, err := fmt.Sscan(rest, &w.kib); err != nil {
		s.t.Fatalf("read the memory of the kernel: %v", err)
	}
	w.files = len(files)
	return w
}

// idleConn is a kept connection.
type idleConn struct {
	net.Conn
	r *bufio.Reader
}

// holdIdle opens connections, from several addresses so that ports last, and uses each once. The test closes them.
func (s *site) holdIdle(n int) []idleConn {
	s.t.Helper()
	conns := make([]idleConn, n)
	errs := make([]error, 16)
	var all sync.WaitGroup
	for w := range errs {
		all.Go(func() {
			for i := w; i < n && errs[w] == nil; i += len(errs) {
				conns[i], errs[w] = s.connect(fmt.Sprintf("127.0.0.%d", 2+i/5000))
				if errs[w] == nil {
					errs[w] = useAgain(conns[i])
				}
			}
		})
	}
	all.Wait()
	s.t.Cleanup(func() {
		for _, c := range conns {
			if c.Conn != nil {
				c.Close()
			}
		}
	})
	for _, err := range errs {
		if err != nil {
			s.t.Fatalf("hold %d connections: %v", n, err)
		}
	}
	return conns
}

// connect opens a connection from an address of the loopback network.
func (s *site) connect(from string) (idleConn, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		return idleConn{}, err
	}
	return idleConn{c, bufio.NewReaderSize(c, 512)}, nil
}

// useAgain asks for / and reads the answer, which leaves the connection open.
func useAgain(c idleConn) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != 200 || string(body) != "ok\n" || res.Close) {
		err = fmt.Errorf("it answers %s %q, close %v", res.Status, body, res.Close)
	}
	return err
}
