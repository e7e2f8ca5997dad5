package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestChaos: workers die and clients leave at any point, answers come early,
// and endpoints are swapped and closed all the while. No client gets anything
// that was said to another, what looks whole is whole, and no POST is executed
// twice.
func TestChaos(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	w := &chaoticWorker{t: t, executed: make(map[string]int)}
	e := s.raw(EndpointOptions{}, w.serve)
	w.meet(s, 8, 60, func(stop <-chan struct{}) { swapUntil(s, e, stop) })
}

// meet has clients send requests, beside swap, and looks at what was executed.
func (w *chaoticWorker) meet(s *site, clients, requests int, swap func(stop <-chan struct{})) {
	stop := make(chan struct{})
	var swaps, all sync.WaitGroup
	swaps.Go(func() { swap(stop) })
	for n := range clients {
		all.Go(func() {
			c := &chaoticClient{t: w.t, site: s}
			defer c.leave()
			for i := range requests {
				c.request(fmt.Sprintf("%d-%d", n, i))
			}
		})
	}
	all.Wait()
	close(stop)
	swaps.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, n := range w.executed {
		if n > 1 {
			w.t.Errorf("POST %s was executed %d times", id, n)
		}
	}
	if len(w.executed) == 0 {
		w.t.Error("nothing was executed")
	}
}

func swapUntil(s *site, e *Endpoint, stop <-chan struct{}) {
	for tick := time.NewTicker(20 * time.Millisecond); ; { // some time under load is the input
		select {
		case <-stop:
			tick.Stop()
			e.Close()
			return
		case <-tick.C:
		}
		next := NewEndpoint(e.o)
		s.backend.Set(next)
		e.Close()
		e = next
	}
}

// oneIn is true now and then.
func oneIn(n int) bool { return rand.IntN(n) == 0 }

// text of a message consists of its id, so that it cannot be taken for
// another's.
func chaoticText(id string) string {
	return strings.Repeat(id+" ", [...]int{0, 1, 100, 3_000, 20_000}[rand.IntN(5)])
}

// chunkedOrNot frames a body. The trailer has the id.
func chunkedOrNot(id, body string) string {
	if oneIn(2) {
		return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	var b strings.Builder
	b.WriteString("Trailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n")
	for len(body) > 0 {
		n := min(len(body), 1+rand.IntN(30_000))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	fmt.Fprintf(&b, "0\r\nX-End: %s\r\n\r\n", id)
	return b.String()
}

type chaoticWorker struct {
	t        *testing.T
	mu       sync.Mutex
	executed map[string]int // POSTs, by id
}

func (w *chaoticWorker) serve(c net.Conn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil || oneIn(30) {
			return
		}
		early := oneIn(5)
		if !early && !w.execute(c, req) {
			return
		}
		if w.answer(c, req) != nil || early {
			if oneIn(2) {
				c.(*net.TCPConn).SetLinger(0)
			}
			return
		}
	}
}

func (w *chaoticWorker) execute(c net.Conn, req *http.Request) bool {
	id := req.URL.Path[1:]
	if req.Header.Get("Expect") != "" {
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Id: "+id+"\r\n\r\n")
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return false
	}
	if string(body) != strings.Repeat(id+" ", len(body)/len(id+" ")) {
		w.t.Errorf("%s has the body of another", id)
	}
	if req.Method == "POST" {
		w.mu.Lock()
		w.executed[id]++
		w.mu.Unlock()
	}
	return true
}

func (w *chaoticWorker) answer(c net.Conn, req *http.Request) error {
	id := req.URL.Path[1:]
	text := chaoticText(id)
	framed := chunkedOrNot(id, text)
	if req.Method == "HEAD" {
		framed, _, _ = strings.Cut(framed, "\r\n\r\n")
		framed += "\r\n\r\n"
	}
	all := fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Id: %s\r\nX-Size: %d\r\n%s", id, len(text), framed)
	if oneIn(5) {
		io.WriteString(c, all[:rand.IntN(len(all))])
		return errors.New("died")
	}
	_, err := io.WriteString(c, all)
	return err
}

type chaoticClient struct {
	t    *testing.T
	site *site
	c    net.Conn // nil: none is open
	r    *bufio.Reader
}

func (c *chaoticClient) leave() {
	if c.c != nil {
		c.c.Close()
		c.c = nil
	}
}

func (c *chaoticClient) request(id string) {
	if c.c == nil {
		conn, err := net.Dial("tcp", c.site.addr)
		if err != nil {
			c.t.Error(err)
			return
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		c.c, c.r = conn, bufio.NewReader(conn)
	}
	method := [...]string{"GET", "HEAD", "POST"}[rand.IntN(3)]
	all := fmt.Sprintf("%s /%s HTTP/1.1\r\nHost: h\r\n", method, id)
	switch {
	case method != "POST":
		all += "\r\n"
	case oneIn(3):
		all += "Expect: 100-continue\r\n" + chunkedOrNot(id, chaoticText(id))
	default:
		all += chunkedOrNot(id, chaoticText(id))
	}
	if oneIn(10) {
		io.WriteString(c.c, all[:rand.IntN(len(all))])
		c.leave()
		return
	}
	var sent sync.WaitGroup
	conn := c.c
	sent.Go(func() { io.WriteString(conn, all) }) // an answer can come before the end
	if oneIn(10) || !c.answer(method, id) {
		c.leave()
	}
	sent.Wait()
}

// answer reads the final one. It reports whether another request can follow.
func (c *chaoticClient) answer(method, id string) bool {
	for {
		res, err := http.ReadResponse(c.r, &http.Request{Method: method})
		if err != nil {
			return false // the proxy had to reset: the rest of the request was not wanted
		}
		if said := res.Header.Get("X-Id"); said != "" && said != id {
			c.t.Errorf("%s got the answer to %s", id, said)
		}
		if res.StatusCode < 200 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		if res.StatusCode == 200 && err == nil && method != "HEAD" {
			c.check(id, res, string(body))
		}
		return err == nil && !res.Close
	}
}

func (c *chaoticClient) check(id string, res *http.Response, body string) {
	size, _ := strconv.Atoi(res.Header.Get("X-Size"))
	if len(body) != size || body != strings.Repeat(id+" ", size/len(id+" ")) {
		c.t.Errorf("%s got %d bytes of %d, or others", id, len(body), size)
	}
	if res.TransferEncoding != nil && res.Trailer.Get("X-End") != id {
		c.t.Errorf("%s got the trailer %v", id, res.Trailer)
	}
}
