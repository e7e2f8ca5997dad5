//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestSlowClients: clients that send a head a byte at a time, that stop in the middle of a small or a large body, and that hardly read.
// While they hang on others are served, each costs a descriptor or two and a bounded amount of memory, and each is cut
// off by its timeout. TQSERVER_SLOW says how many there are of each kind.
func TestSlowClients(t *testing.T) {
	n := amount(t, "TQSERVER_SLOW", 60)
	eachLane(t, func(t *testing.T, l lane) {
		c := newCrawl(t, l, n)
		for _, k := range slowKinds {
			c.try(k)
		}
		c.judge()
	})
}

// crawl is a site and its slow clients.
type crawl struct {
	*site
	n       int // of each kind
	clients sync.WaitGroup
	over    chan struct{} // closed when the server has cut off those of a kind; they would read on for long
	mu      sync.Mutex
	ends    map[string]map[string]int // of a kind: how its clients saw the end, and how many
}

// slowKind is a way of being slow.
type slowKind struct {
	name   string
	begin  string // sent at once
	drip   string // then sent again and again, a byte at a time; "": nothing
	reads  bool   // the client reads, a byte at a time
	held   bool   // the page has the request meanwhile
	byKind string // what the log and the answer call the timeout
}

var slowKinds = []slowKind{
	{name: "head", begin: "GET /sdk HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", drip: "x", byKind: "read_timeout"},
	{name: "body", begin: "POST /sdk/sum HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nthat is not all", byKind: "read_timeout"},
	{name: "large body", begin: "POST /sdk/sum HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nthat is not all", held: true, byKind: "read_timeout"},
	{name: "reading", begin: "GET /sdk/endless HTTP/1.1\r\nHost: localhost\r\n\r\n", reads: true, held: true, byKind: "write_timeout"},
}

func newCrawl(t *testing.T, l lane, n int) *crawl {
	t.Helper()
	s := newSite(t, map[string]string{"pages/sdk/main.go": streamFile(t, "sdk/main.go", "one"), "pages/sdk/handler.go": streamFile(t, "handler.go", "one")})
	s.configure("read_timeout_seconds: 2\nwrite_timeout_seconds: 2\n"+l.server, "", "")
	s.start()
	s.awaitBody("/sdk", "one")
	c := &crawl{site: s, n: n, ends: map[string]map[string]int{}}
	for _, k := range slowKinds {
		c.ends[k.name] = map[string]int{}
	}
	return c
}

// try has the clients of a kind begin, weighs them while others are served, and waits until they are cut off.
func (c *crawl) try(k slowKind) {
	c.t.Helper()
	before := c.weight()
	c.over = make(chan struct{})
	for range c.n {
		conn, err := c.dialSlow()
		if err == nil {
			_, err = io.WriteString(conn, k.begin)
		}
		if err != nil {
			c.t.Fatalf("slow %s: %v", k.name, err)
		}
		c.clients.Go(func() { c.dawdle(k, conn) })
	}
	most, inFlight := before, 0
	for range 10 {
		c.awaitBody("/sdk", "one")
		now := c.weight()
		most.files, most.kib, inFlight = max(most.files, now.files), max(most.kib, now.kib), max(inFlight, c.inFlight())
	}
	c.bound(k, float64(most.files-before.files)/float64(c.n), float64(most.kib-before.kib)/float64(c.n), float64(inFlight)/float64(c.n))
	c.await("nothing to be left of slow "+k.name, func() error {
		if files, n := c.weight().files, c.inFlight(); files > before.files+10 || n > 0 {
			return fmt.Errorf("the server has %d descriptors, before %d, and the page %d requests", files, before.files, n)
		}
		return nil
	})
	close(c.over)
	c.clients.Wait()
}

// bound checks what each slow client costs at most.
func (c *crawl) bound(k slowKind, files, kib, held float64) {
	c.t.Helper()
	c.t.Logf("slow %s, %d clients: each costs %.2f descriptors and %.0f KiB (PSS; race detector: %v), and is %.2f requests to the page", k.name, c.n, files, kib, raceDetector(), held)
	most := 1.2
	if k.held {
		most = 2.2 // the worker's connection
	}
	if files > most || !k.held && held > 0 {
		c.t.Errorf("slow %s: each costs %.2f descriptors, and is %.2f requests to the page", k.name, files, held)
	}
	if kib > 200 && !raceDetector() {
		c.t.Errorf("slow %s: each costs %.0f KiB of memory", k.name, kib)
	}
}

// dialSlow opens a connection that takes hardly anything at a time.
func (c *crawl) dialSlow() (net.Conn, error) {
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) })
		if err == nil {
			err = failed
		}
		return err
	}}
	return d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.port))
}

// dawdle goes on until the server ends it, and notes how.
func (c *crawl) dawdle(k slowKind, conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var got strings.Builder
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(done)
		if !k.reads {
			_, _ = io.Copy(&got, conn)
			return
		}
		c.sip(conn, &got)
	})
	for pace := time.NewTicker(300 * time.Millisecond); ; { // the client's slowness is the input
		select {
		case <-done:
			pace.Stop()
			reading.Wait()
			c.note(k, got.String())
			return
		case <-pace.C:
			_, _ = io.WriteString(conn, k.drip)
		}
	}
}

// sip reads a little, far too slowly.
func (c *crawl) sip(conn net.Conn, to io.Writer) {
	for pace := time.NewTicker(300 * time.Millisecond); ; {
		if _, err := io.CopyN(to, conn, 1); err != nil {
			pace.Stop()
			return
		}
		select {
		case <-pace.C:
		case <-c.over:
			pace.Stop()
			return
		}
	}
}

// note counts how a client saw the end: with a status and the name of a timeout, or "" where the connection ends without an answer.
func (c *crawl) note(k slowKind, got string) {
	end := ""
	if status, rest, ok := strings.Cut(got, "\r\n"); ok || got != "" {
		end = status
		if _, named, ok := strings.Cut("\r\n"+strings.ToLower(rest), "\r\nx-tq-error: "); ok {
			named, _, _ = strings.Cut(named, "\r\n")
			end += " " + named
		}
	}
	if k.reads {
		end = "cut" // what came is the beginning of the answer
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends[k.name][end]++
}

// judge checks how the clients ended: with the name of the timeout wherever one can be told it, and in the log.
func (c *crawl) judge() {
	c.t.Helper()
	for _, k := range slowKinds {
		c.t.Logf("slow %s: %v", k.name, c.ends[k.name])
		for end := range c.ends[k.name] {
			if end != "cut" && end != "HTTP/1.1 408 Request Timeout "+k.byKind {
				c.t.Errorf("slow %s ended with %q", k.name, end)
			}
		}
		c.await("the log to name "+k.byKind, func() error {
			if got := strings.Count(c.out.String(), k.byKind); got < c.n {
				return fmt.Errorf("it does so %d times", got)
			}
			return nil
		})
	}
	if status, body, err := c.get("/sdk"); err != nil || status != http.StatusOK {
		c.t.Errorf("afterwards: %d %q, %v", status, body, err)
	}
}

// inFlight is how many requests the page has.
func (c *crawl) inFlight() (n int) {
	c.t.Helper()
	for _, w := range c.page("sdk").Workers {
		n += int(w.InFlight)
	}
	return n
}
