package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// leakRounds is how often each thing happens that must leave nothing.
const (
	failedUpgrades = 1000
	killedWorkers  = 200
	clientAborts   = 1000
)

// inBothLanes runs test with a site in either lane. It does so once, and not when all tests run in the fast lane.
func inBothLanes(t *testing.T, test func(s *site)) {
	if *fastLane {
		t.Skip("the run without -fast does both")
	}
	for _, fast := range []bool{false, true} {
		t.Run(map[bool]string{false: "standard", true: "fast"}[fast], func(t *testing.T) {
			test(newSiteIn(t, fast, Options{}, BackendOptions{}))
		})
	}
}

// leaves runs something n times, a few at a time, and waits until there are no more goroutines and descriptors than
// before. A first time, which is not counted, leaves what is kept on purpose.
func (s *site) leaves(n int, do func(i int)) {
	s.t.Helper()
	do(0)
	s.settle()
	ignore, files := goleak.IgnoreCurrent(), openFiles(s.t)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := w; i < n; i += 8 {
				do(i)
			}
		})
	}
	all.Wait()
	s.settle()
	eventually(s.t, "the descriptors to be closed", func() bool { return openFiles(s.t) <= files })
	eventually(s.t, "the goroutines to end", func() bool { return goleak.Find(ignore) == nil })
	if res, body := s.get("/still-there"); res.StatusCode != 200 || body != "ok" {
		s.t.Errorf("afterwards: %s %q", res.Status, body)
	}
}

// settle waits until no request is under way, and closes connections that are kept.
func (s *site) settle() {
	s.t.Helper()
	s.client.CloseIdleConnections()
	for _, e := range s.backend.set.Load().endpoints {
		eventually(s.t, "the requests to end", func() bool { return e.InFlight() == 0 })
		e.pool.closeIdle()
	}
}

// TestFailedUpgradesLeaveNothing: the worker refuses, switches to something else, says nothing, or talks nonsense.
func TestFailedUpgradesLeaveNothing(t *testing.T) { inBothLanes(t, (*site).failUpgrades) }

func (s *site) failUpgrades() {
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for h := head(r); h != nil; h = head(r) {
			kind := strings.Fields(h[0])[1][1:]
			if answer, known := upgradeAnswers[kind]; known {
				io.WriteString(c, answer)
				return
			}
			io.WriteString(c, ok)
		}
	})
	kinds := []string{"refused", "other", "several", "unasked", "nonsense", "silent", "plain", "left"}
	s.leaves(failedUpgrades, func(i int) {
		kind := kinds[i%len(kinds)]
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			s.t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\nearly", kind)
		if kind == "left" {
			return
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode == 101 {
			s.t.Errorf("%s: %v, %v", kind, res, err)
		}
	})
}

// upgradeAnswers are what becomes no upgrade. Others are answered with 200.
var upgradeAnswers = map[string]string{
	"refused":  "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
	"other":    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\nearly",
	"several":  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1, other/1\r\n\r\n",
	"unasked":  "HTTP/1.1 101 Switching Protocols\r\n\r\n",
	"nonsense": "SSH-2.0-OpenSSH\r\n\r\n",
	"silent":   "",
}

// TestWorkersThatDieLeaveNothing: each dies in the middle of an answer, of a request's body, or of both.
func TestWorkersThatDieLeaveNothing(t *testing.T) { inBothLanes(t, (*site).loseWorkers) }

func (s *site) loseWorkers() {
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for h := head(r); h != nil; h = head(r) {
			kind := strings.Fields(h[0])[1][1:]
			answer, dies := halfAnswers[kind]
			if !dies {
				answer = ok
			}
			if strings.HasPrefix(h[0], "POST") {
				io.CopyN(io.Discard, r, 100_000)
			}
			io.WriteString(c, answer)
			if dies {
				if strings.HasSuffix(kind, "reset") {
					c.(*net.TCPConn).SetLinger(0)
				}
				return
			}
		}
	})
	var kinds []string
	for kind := range halfAnswers {
		kinds = append(kinds, kind)
	}
	s.leaves(killedWorkers, func(i int) {
		method, body := "GET", io.Reader(nil)
		if i%3 == 0 {
			method, body = "POST", io.LimitReader(zeros{}, 10_000_000)
		}
		res, err := s.client.Do(s.request(method, "/"+kinds[i%len(kinds)], body))
		if err != nil {
			return // while the client was still sending
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err == nil && res.StatusCode != 502 {
			s.t.Errorf("%s looks whole: %s", kinds[i%len(kinds)], res.Status)
		}
	})
}

// halfAnswers end too early.
var halfAnswers = map[string]string{
	"none": "", "none-reset": "", "head": "HTTP/1.1 200 OK\r\nContent-Le", "head-reset": "HTTP/1.1 200",
	"length": "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nsome", "length-reset": "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nsome",
	"chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nffff\r\nmore", "chunk-reset": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nso",
	"trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\nX-A: ", "hint": "HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n",
}

// TestClientsThatLeaveLeaveNothing: in the head, in the body, while they wait, and while they read.
func TestClientsThatLeaveLeaveNothing(t *testing.T) { inBothLanes(t, (*site).leaveSites) }

func (s *site) leaveSites() {
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or net/http does not look whether the client is there
		switch r.URL.Path {
		case "/wait":
			<-r.Context().Done()
		case "/read":
			io.Copy(w, zeros{})
		case "/pause":
			flush(w)
			<-r.Context().Done()
		default:
			io.WriteString(w, "ok")
		}
	})
	requests := []string{
		"", "GET / HT", "GET / HTTP/1.1\r\nHost: h\r\nX-Half", // in the head
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nsome", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nso",
		"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",                          // in the body
		"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n", "POST /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nsome", // while they wait
		"GET /read HTTP/1.1\r\nHost: h\r\n\r\n", "GET /pause HTTP/1.1\r\nHost: h\r\n\r\n", // while they read
	}
	s.leaves(clientAborts, func(i int) {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			s.t.Error(err)
			return
		}
		defer c.Close()
		text := requests[i%len(requests)]
		io.WriteString(c, text)
		if strings.HasPrefix(text, "GET /read") || strings.HasPrefix(text, "GET /pause") {
			io.ReadFull(c, make([]byte, 100))
		}
		if i/len(requests)%2 == 0 {
			c.(*net.TCPConn).SetLinger(0)
		}
	})
}
