package proxy

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
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

// TestSitesBehindTheLane runs the other tests of the package with lane R in
// front of their sites.
func TestSitesBehindTheLane(t *testing.T) {
	if *fastLane {
		t.Skip("this is that run")
	}
	if testing.Short() {
		t.Skip("takes as long as all others")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	all := exec.CommandContext(ctx, os.Args[0], "-test.run=^Test", "-test.skip=^TestFailedUpgrades", "-fast", "-test.short")
	if out, err := all.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func laneSite(t *testing.T) *site {
	t.Helper()
	return newSiteIn(t, true, Options{}, BackendOptions{})
}

// exchangeRaw sends text and returns all that comes until the connection ends.
func (s *site) exchangeRaw(text string) string {
	s.t.Helper()
	_, r := s.dial(text)
	all, err := io.ReadAll(r)
	must(s.t, err)
	return string(all)
}

func TestLanePipelines(t *testing.T) {
	s := laneSite(t)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Method, r.URL.Path, string(body))
	})
	var text strings.Builder
	const requests = 200
	for i := range requests {
		fmt.Fprintf(&text, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n%03d", i, i)
	}
	_, r := s.dial(text.String())
	for i := range requests {
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, err)
		if want := fmt.Sprintf("POST/%d%03d", i, i); string(body) != want {
			t.Fatalf("answer %d is %q, want %q", i, body, want)
		}
	}
	if n := s.lane.Stats().Requests; n != requests {
		t.Errorf("the lane has served %d", n)
	}
}

// TestLaneHandsOver what it does not serve itself, with what came before and
// after in the same packet.
func TestLaneHandsOver(t *testing.T) {
	const get = "GET /%s HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, c := range []struct {
		why, request string
		status       int
	}{
		{"refused", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"refused", "GET / HTTP/1.1\nHost: h\n\n", 400},
		{"refused", "GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505},
		{"version", "GET / HTTP/1.0\r\nHost: h\r\n\r\n", 200},
		{"method", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 405},
		{"target", "GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 200},
		{"target", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 200},
		{"upgrade", "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", 200},
		{"body", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200},
		{"body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 16385\r\n\r\n" + strings.Repeat("x", 16385), 200},
		{"expect", "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", 200},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := laneSite(t)
			s.serve(func(w http.ResponseWriter, r *http.Request) {
				n, _ := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, r.URL.Path, n)
			})
			_, r := s.dial(fmt.Sprintf(get, "first") + c.request + fmt.Sprintf(get, "last"))
			status := func() int {
				for {
					res, err := http.ReadResponse(r, nil)
					must(t, err)
					if _, err = io.Copy(io.Discard, res.Body); res.StatusCode >= 200 {
						must(t, err)
						return res.StatusCode
					}
				}
			}
			if got := status(); got != 200 {
				t.Errorf("the first: %d", got)
			}
			if got := status(); got != c.status {
				t.Errorf("%q: %d, want %d", c.request[:20], got, c.status)
			}
			stats := s.lane.Stats()
			if stats.Requests != 1 || stats.HandedOver[c.why] != 1 || len(stats.HandedOver) != int(reasons) {
				t.Errorf("%+v", stats)
			}
			eventually(t, "the lane has let go", func() bool { return s.lane.Stats().Open == 0 })
		})
	}
}

// TestLaneWaitsForRoutes in net/http.
func TestLaneWaitsForRoutes(t *testing.T) {
	o := laneTimeouts(5*time.Second, 30*time.Second)
	o.Ready = func() bool { return false }
	s := newSiteWith(t, &o, Options{}, BackendOptions{})
	s.serve(text("hi"))
	if _, body := s.get("/"); body != "hi" || s.lane.Stats().HandedOver["not_ready"] != 1 {
		t.Errorf("%q, %+v", body, s.lane.Stats())
	}
}

// TestSlowBodyIsHandedOver: one that comes in pieces, of which the lane has
// seen the first.
func TestSlowBodyIsHandedOver(t *testing.T) {
	s := laneSite(t)
	s.serve(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	c, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
	eventually(t, "it is handed over", func() bool { return s.lane.Stats().HandedOver["body"] == 1 })
	io.WriteString(c, "llo")
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	if body, err := io.ReadAll(res.Body); string(body) != "hello" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
}

// laneAnswers are what a worker says, and what a client of the lane gets less
// Date and X-Request-Id.
var laneAnswers = []struct{ name, request, answer, want string }{
	{"length", "GET", "HTTP/1.1 200 Fine\r\nx-a: 1\r\nConnection: x-b\r\nX-B: 2\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nhi"},
	{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"},
	{"trailers", "GET", "HTTP/1.1 200 OK\r\nTrailer: X-End, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n0\r\nx-end: 1\r\nX-Late: 2\r\nSet-Cookie: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n1\r\nh\r\n0\r\nX-End: 1\r\nX-Late: 2\r\n\r\n"},
	{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nhi", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
	{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"},
	{"head, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"},
	{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
	{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"},
	{"hints", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{"unknown status", "GET", "HTTP/1.1 299 What\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 299 status code 299\r\nContent-Length: 0\r\n\r\n"},
	{"two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\nX-TQ-Error: bad_framing\r\n" +
		"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 22\r\n\r\nWorker did not answer\n"},
	{"dies in the body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi"},
}

func TestLaneAnswers(t *testing.T) {
	for _, c := range laneAnswers {
		t.Run(c.name, func(t *testing.T) {
			s := laneSite(t)
			s.raw(EndpointOptions{}, func(w net.Conn, r *bufio.Reader) {
				head(r)
				io.WriteString(w, c.answer)
			})
			got := s.exchangeRaw(c.request + " / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			var b strings.Builder
			dates, closes := 0, 0
			for line := range strings.Lines(got) {
				switch {
				case strings.HasPrefix(line, "Date: "):
					dates++
				case line == "Connection: close\r\n":
					closes++
				case !strings.HasPrefix(line, requestIDHeader):
					b.WriteString(line)
				}
			}
			if b.String() != c.want || dates != 1 || closes != 1 {
				t.Errorf("got\n%q\nwant\n%q", got, c.want)
			}
		})
	}
}

// TestSlowHeadIsCutOff with an answer, and noted; a connection on which nothing
// came, without.
func TestSlowHeadIsCutOff(t *testing.T) {
	o := laneTimeouts(50*time.Millisecond, 50*time.Millisecond)
	s := newSiteWith(t, &o, Options{}, BackendOptions{})
	s.serve(text("hi"))
	if got := s.exchangeRaw("GET / HT"); !strings.HasPrefix(got, "HTTP/1.1 408 ") || !strings.Contains(got, "X-TQ-Error: read_timeout\r\n") || !strings.Contains(got, "Connection: close\r\n") {
		t.Errorf("%q", got)
	}
	if e := s.entry(0); e.Status != 408 || !strings.HasPrefix(e.Error, "read_timeout") || e.Method != "GET" || e.Path != "/" {
		t.Errorf("logged %+v", e)
	}
	if got := s.exchangeRaw(""); got != "" {
		t.Errorf("to silence: %q", got)
	}
	if got := s.exchangeRaw("GET / HTTP/1.1\r\nHost: h\r\n\r\n"); !strings.HasSuffix(got, "hi") {
		t.Errorf("before an unused connection is closed: %q", got)
	}
	c, _ := s.dial("")
	c.Close() // by the client
	eventually(t, "the lane has let go", func() bool { return s.lane.Stats().Open == 0 && s.lane.Stats().Accepted == 4 })
	if n := s.lane.Stats().Idled; n != 2 {
		t.Errorf("%d connections idled", n)
	}
}

// TestClientLeavesTheLane while it is held, while the worker thinks, and while
// an answer stands still.
func TestClientLeavesTheLane(t *testing.T) {
	for _, path := range []string{"/held", "/thinks", "/stream"} {
		t.Run(path[1:], func(t *testing.T) {
			s := laneSite(t)
			left := make(chan bool, 1)
			if path != "/held" {
				s.serve(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/stream" {
						io.WriteString(w, "x")
						flush(w)
					}
					<-r.Context().Done()
					left <- true
				})
			}
			c, r := s.dial("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
			if path == "/stream" {
				_, err := http.ReadResponse(r, nil)
				must(t, err)
			} else {
				eventually(t, "it is under way", func() bool { return s.backend.Held()+s.backend.InFlight() == 1 })
			}
			c.Close()
			if e := s.entry(0); !strings.HasPrefix(e.Error, kindClientClosed) {
				t.Errorf("logged %+v", e)
			}
			if path != "/held" {
				<-left
			}
		})
	}
}

// TestStreamThatStandsStillIsCut in both lanes, and one that goes on is not.
func TestStreamThatStandsStillIsCut(t *testing.T) {
	for _, fast := range []bool{false, true} {
		for _, length := range []string{"", "9"} {
			s := newSiteIn(t, fast, Options{}, BackendOptions{})
			e, _ := s.worker(func(w http.ResponseWriter, r *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				for range 5 {
					io.WriteString(w, "x")
					flush(w)
				}
				<-r.Context().Done()
			}, EndpointOptions{StreamIdleTimeout: 200 * time.Millisecond})
			s.backend.Set(e)
			_, r := s.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			res, err := http.ReadResponse(r, nil)
			must(t, err)
			if body, err := io.ReadAll(res.Body); string(body) != "xxxxx" || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q, %v", body, err)
			}
			if e := s.entry(0); !strings.HasPrefix(e.Error, "stream_idle_timeout: ") || e.Status != 200 {
				t.Errorf("logged %+v", e)
			}
		}
	}
}

// TestLaneShutsDown: unused connections are closed, what is under way ends, and
// its answer says that it is the last.
func TestLaneShutsDown(t *testing.T) {
	s := laneSite(t)
	release := make(chan bool)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-release
		}
		io.WriteString(w, "hi")
	})
	_, fresh := s.dial("")
	_, kept := s.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	_, err := http.ReadResponse(kept, nil)
	must(t, err)
	_, busy := s.dial("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
	eventually(t, "three connections", func() bool { return s.lane.Stats().Open == 3 && s.backend.InFlight() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.lane.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("shut down with a request under way: ", err)
	}
	if n, err := io.Copy(io.Discard, fresh); n != 0 || err != nil {
		t.Errorf("a fresh one: %d, %v", n, err)
	}
	if n, err := io.Copy(io.Discard, kept); n != 2 || err != nil {
		t.Errorf("an unused one: %d, %v", n, err)
	}
	close(release)
	res, err := http.ReadResponse(busy, nil)
	must(t, err)
	if body, err := io.ReadAll(res.Body); string(body) != "hi" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if _, err := busy.ReadByte(); !errors.Is(err, io.EOF) {
		t.Error("after the last answer: ", err)
	}
	must(t, s.lane.Shutdown(t.Context()))
	if got := s.exchangeRaw(""); got != "" {
		t.Errorf("after it: %q", got)
	}
}

// TestLaneCloses although a worker takes its time.
func TestLaneCloses(t *testing.T) {
	s := laneSite(t)
	s.serve(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, r := s.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	eventually(t, "it is under way", func() bool { return s.backend.InFlight() == 1 })
	must(t, s.lane.Close())
	if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n := s.lane.Stats().Open; n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestLaneSurvivesAPanic: it costs the connection, and is noted.
func TestLaneSurvivesAPanic(t *testing.T) {
	var noted atomic.Pointer[string]
	p := New(Options{
		Log:      func(e *Entry) { panic("bug in " + e.Path) },
		ErrorLog: func(line string) { noted.Store(&line) },
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f := newFastSite(p, l, laneTimeouts(time.Minute, time.Minute))
	t.Cleanup(f.stop)
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(time.Minute)))
		io.WriteString(c, "GET /it HTTP/1.1\r\nHost: h\r\n\r\n")
		if got, err := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.1 404 ") || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	eventually(t, "the lane has let go", func() bool { return f.lane.Stats().Open == 0 })
	if line := noted.Load(); line == nil || !strings.Contains(*line, "panic serving 127.0.0.1") || !strings.Contains(*line, "bug in /it") {
		t.Errorf("noted %v", line)
	}
}
