package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if !playRole() {
		goleak.VerifyTestMain(m)
	}
}

// site is a proxy behind a real listener, with one page at "/".
type site struct {
	*Proxy
	t       *testing.T
	backend *Backend
	lane    *Lane // nil: all is served by net/http
	addr    string
	client  *http.Client

	mu  sync.Mutex
	log []Entry
}

// strictListener puts the filter in front of net/http.
type strictListener struct{ net.Listener }

func (l strictListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Strict(c, nil), nil
}

func newSite(t *testing.T, o Options, bo BackendOptions) *site {
	t.Helper()
	return newSiteIn(t, *fastLane, o, bo)
}

// newSiteIn is newSite with or without lane R in front.
func newSiteIn(t *testing.T, fast bool, o Options, bo BackendOptions) *site {
	t.Helper()
	if !fast {
		return newSiteWith(t, nil, o, bo)
	}
	lane := laneTimeouts(5*time.Second, 30*time.Second)
	return newSiteWith(t, &lane, o, bo)
}

// newSiteWith is newSite with a lane in front unless that is nil.
func newSiteWith(t *testing.T, lane *LaneOptions, o Options, bo BackendOptions) *site {
	t.Helper()
	s := &site{t: t}
	o.Log = func(e *Entry) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.log = append(s.log, e.Clone())
	}
	s.Proxy = New(o)
	s.backend = NewBackend("index", bo)
	must(t, s.SetRoutes([]Route{{Path: "/", Backend: s.backend}}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.addr = l.Addr().String()
	server := s.Server("", func() (time.Duration, time.Duration) { return 5 * time.Second, 30 * time.Second })
	if lane != nil {
		f := newFastSite(s.Proxy, l, *lane)
		s.lane, l = f.lane, f
		t.Cleanup(f.stop)
	} else {
		l = strictListener{l}
	}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	s.client = &http.Client{Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		<-done
	})
	return s
}

// serve gives the site one worker with this handler.
func (s *site) serve(h http.HandlerFunc) *Endpoint {
	e, _ := s.worker(h, EndpointOptions{})
	s.backend.Set(e)
	return e
}

// worker starts a worker that is not ready yet.
func (s *site) worker(h http.HandlerFunc, o EndpointOptions) (*Endpoint, *httptest.Server) {
	s.t.Helper()
	w := httptest.NewUnstartedServer(h)
	w.Config.ErrorLog = log.New(io.Discard, "", 0) // panics are how handlers die here
	w.Start()
	o.Addr = w.Listener.Addr().String()
	e := NewEndpoint(o)
	s.t.Cleanup(func() { e.Close(); w.CloseClientConnections(); w.Close() })
	return e, w
}

func (s *site) request(method, path string, body io.Reader, header ...string) *http.Request {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+s.addr+path, body)
	must(s.t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
	}
	return r
}

func (s *site) do(r *http.Request) (*http.Response, string) {
	s.t.Helper()
	res, err := s.client.Do(r)
	must(s.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(s.t, err)
	return res, string(body)
}

func (s *site) get(path string, header ...string) (*http.Response, string) {
	s.t.Helper()
	return s.do(s.request("GET", path, nil, header...))
}

// dial opens a connection to the front and sends text.
func (s *site) dial(text string) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	must(s.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(c, text)
	must(s.t, err)
	return c, bufio.NewReader(c)
}

// entry waits for the nth log entry.
func (s *site) entry(n int) Entry {
	s.t.Helper()
	var e Entry
	eventually(s.t, "log entry", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.log) > n {
			e = s.log[n]
		}
		return len(s.log) > n
	})
	return e
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition that another process or the kernel makes true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}

func hold(d time.Duration, max int) BackendOptions {
	return BackendOptions{Hold: func() (time.Duration, int) { return d, max }}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc: ", err)
	}
	return len(files)
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, s) }
}

// failures are the ways in which a request ends without a worker's answer.
var failures = []struct {
	name    string
	arrange func(*testing.T, *site)
	method  string
	status  int
	kind    string
	text    string
}{
	{"no route", func(t *testing.T, s *site) { must(t, s.SetRoutes(nil)) }, "GET", 404, "route_not_found", "Worker not found\n"},
	{"page removed", func(t *testing.T, s *site) { s.backend.Close() }, "GET", 404, "route_not_found", "Worker not found\n"},
	{"hold timeout", func(*testing.T, *site) {}, "GET", 503, "hold_timeout", "Worker not available, try again soon\n"},
	{"hold full", func(_ *testing.T, s *site) { s.backend.o.Hold = hold(time.Minute, 0).Hold }, "GET", 503, "hold_full", "Worker not available, try again soon\n"},
	{"queue timeout", func(t *testing.T, s *site) { busy(t, s, 50*time.Millisecond, 10) }, "POST", 503, "queue_timeout", "Worker not available, try again soon\n"},
	{"queue full", func(t *testing.T, s *site) { busy(t, s, time.Minute, 0) }, "GET", 503, "queue_full", "Worker not available, try again soon\n"},
	{"build failed", func(t *testing.T, s *site) { s.backend.Fail(errors.New("/secret/main.go:1")) }, "POST", 503, "no_worker", "Worker not available, try again soon\n"},
	{"refused", refused, "POST", 502, "dial", "Worker did not answer\n"},
	{"dies before the answer", func(t *testing.T, s *site) {
		s.serve(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	}, "POST", 502, "worker_closed", "Worker did not answer\n"},
	{"speaks nonsense", func(t *testing.T, s *site) {
		s.serve(func(w http.ResponseWriter, r *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
			c.Close()
		})
	}, "GET", 502, "worker_error", "Worker did not answer\n"},
	{"too slow", func(t *testing.T, s *site) {
		e, _ := s.worker(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			EndpointOptions{ResponseTimeout: 50 * time.Millisecond})
		s.backend.Set(e)
	}, "GET", 504, "response_timeout", "Worker did not answer in time\n"},
}

// refused gives the site a worker that takes no connections.
func refused(t *testing.T, s *site) {
	e, w := s.worker(text(""), EndpointOptions{})
	w.Close()
	s.backend.Set(e)
}

// busy gives the site a worker that has as much to do as it may.
func busy(t *testing.T, s *site, timeout time.Duration, max int) {
	s.backend.o.Queue = queue(timeout, max).Queue
	e, _ := s.worker(text("not reached"), EndpointOptions{MaxInFlight: 1})
	if !e.enter() {
		t.Fatal("an idle worker is full")
	}
	t.Cleanup(e.leave)
	s.backend.Set(e)
}

func TestErrorsSayWhatFailedAndNothingElse(t *testing.T) {
	for _, c := range failures {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, Options{}, hold(50*time.Millisecond, 10))
			c.arrange(t, s)
			res, body := s.do(s.request(c.method, "/x", nil))
			if res.StatusCode != c.status || body != c.text || res.Header.Get("X-TQ-Error") != c.kind {
				t.Errorf("got %d %q %q", res.StatusCode, body, res.Header.Get("X-TQ-Error"))
			}
			if got := res.Header.Get("Retry-After"); (got == "1") != (c.status == 503) {
				t.Errorf("Retry-After: %q", got)
			}
			if e := s.entry(0); e.Status != c.status || !strings.HasPrefix(e.Error, c.kind) || e.RequestID != res.Header.Get("X-Request-Id") {
				t.Errorf("logged %+v", e)
			}
			res, body = s.do(s.request(c.method, "/x", nil, "Accept", "application/json"))
			if want := `"request_id":"` + res.Header.Get("X-Request-Id") + `"}`; res.Header.Get("Content-Type") != "application/json" || !strings.Contains(body, want) {
				t.Errorf("JSON: %s %s", res.Header, body)
			}
			if strings.Contains(body, "127.0.0.1") || strings.Contains(body, "secret") {
				t.Errorf("leaks: %s", body)
			}
			s.entry(1)
			if page, none := s.backend.Traffic(), s.Unrouted(); page.Faults[c.kind]+none.Faults[c.kind] != 2 || page.Statuses[c.status/100]+none.Statuses[c.status/100] != 2 {
				t.Errorf("counted %+v, and without a page %+v", page, none)
			}
		})
	}
}

func TestRevealShowsTheCause(t *testing.T) {
	s := newSite(t, Options{Reveal: func() bool { return true }}, BackendOptions{})
	s.backend.Fail(errors.New("main.go:7:2: undefined: x"))
	if _, body := s.get("/"); !strings.Contains(body, "main.go:7:2: undefined: x") {
		t.Errorf("text: %q", body)
	}
	if _, body := s.get("/", "Accept", "application/json"); !strings.Contains(body, `"detail":"main.go:7:2: undefined: x"`) {
		t.Errorf("JSON: %q", body)
	}
}

func TestPrefersJSON(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                   false,
		"*/*":                                false,
		"application/json":                   true,
		"application/json, */*":              true,
		"*/*, application/json":              true,
		"application/json, text/plain, */*":  true,
		"text/html,application/json;q=0.9":   false,
		"text/html;q=0.5, APPLICATION/JSON ": true,
		"application/json;q=0, text/plain":   false,
		"application/json;q=x":               false,
		"application/problem+json":           true,
		"image/svg+xml,*/*;q=0.8":            false,
	} {
		if got := prefersJSON([]string{accept}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

func TestTargetsThatTwoParsersCouldReadDifferentlyAreRefused(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI+" "+r.Host) })
	for target, want := range map[string]string{
		"/a/../b": "400", "/a/%2e%2e/b": "400", "/a/.": "400", "/a%2F..%2Fb": "400", "/..": "400",
		`/a\b`: "400", "/a%5cb": "400", "/a%00": "400", "/a#b": "400", "//a{b": "400", "*": "400", "ftp://h/": "400", "a": "400",
		"/..a/b..": "/..a/b.. h", "/a%2Fb": "/a%2Fb h", "/a//b": "/a//b h", "//a": "//a h", "/a%2fb{c}|": "/a%2fb{c}| h",
		"/%41?a;b&c=%zz": "/%41?a;b&c=%zz h", "/?": "/? h", "/a?b?c": "/a?b?c h",
		"http://other/x%2Fy": "/x%2Fy other", "http://other": "/ other", "http://other?q": "/?q other",
	} {
		_, r := s.dial("GET " + target + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, err)
		if want == "400" && res.StatusCode != 400 || want != "400" && string(body) != want {
			t.Errorf("%s: got %d %q", target, res.StatusCode, body)
		}
	}
	_, r := s.dial("CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 405 {
		t.Errorf("CONNECT: %v %v", res, err)
	}
}

func TestLogEntry(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e, _ := s.worker(text("hello"), EndpointOptions{Release: "r1", Worker: "index-1 (pid 7)"})
	s.backend.Set(e)
	before := time.Now()
	s.get("/a%0ab%20c?secret=1")
	got := s.entry(0)
	if got.Time.Before(before) || got.Duration <= 0 || len(got.RequestID) != 32 {
		t.Errorf("got %+v", got)
	}
	got.Time, got.Duration, got.RequestID = time.Time{}, 0, ""
	want := Entry{Method: "GET", Path: "/a%0ab%20c", Host: s.addr, Page: "index", Release: "r1", Worker: "index-1 (pid 7)",
		Client: "127.0.0.1", Status: 200, Bytes: 5, Attempts: 1}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestRequestLimitIsReportedOnceAndServedOn(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var calls []uint64
	var e *Endpoint
	e, _ = s.worker(text("ok"), EndpointOptions{MaxRequests: 3, OnLimit: func() { calls = append(calls, e.Requests()) }})
	s.backend.Set(e)
	for range 6 {
		if res, _ := s.get("/"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
	if len(calls) != 1 || calls[0] != 3 || e.Requests() != 6 {
		t.Errorf("calls at %v, %d requests", calls, e.Requests())
	}
}

func TestOwnIdleTimeoutIsShorterThanTheWorkers(t *testing.T) {
	for worker, want := range map[time.Duration]time.Duration{
		0: 90 * time.Second, 60 * time.Second: 55 * time.Second, 6 * time.Second: 3 * time.Second, time.Second: 500 * time.Millisecond,
	} {
		if got := ownIdleTimeout(worker); got != want {
			t.Errorf("%v: %v", worker, got)
		}
	}
}

func TestDrainSaysWhatIsLeft(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	entered, finish := make(chan struct{}), make(chan struct{})
	e := s.serve(func(w http.ResponseWriter, r *http.Request) { close(entered); <-finish })
	done := make(chan struct{})
	go func() { defer close(done); s.get("/") }()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := e.Drain(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 requests in flight") {
		t.Errorf("got %v", err)
	}
	if s.backend.InFlight() != 1 {
		t.Errorf("in flight: %d", s.backend.InFlight())
	}
	close(finish)
	must(t, e.Drain(t.Context()))
	<-done
}

// TestFailuresAreTheWorkers counts what a worker has failed, not what its visitors, or the wait for it, have.
func TestFailuresAreTheWorkers(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e, _ := s.worker(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/short":
			w.Header().Set("Content-Length", "9")
			_, _ = w.Write([]byte("half"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/late":
			<-r.Context().Done()
		case "/404", "/500":
			status, _ := strconv.Atoi(r.URL.Path[1:])
			w.WriteHeader(status)
		}
	}, EndpointOptions{ResponseTimeout: 100 * time.Millisecond})
	s.backend.Set(e)
	for _, c := range []struct {
		path string
		want uint64 // in all, after it
	}{{"/", 0}, {"/404", 0}, {"/./x", 0}, {"/500", 1}, {"/cut", 2}, {"/late", 3}, {"/short", 4}, {"/", 4}} {
		if res, err := s.client.Get("http://" + s.addr + c.path); err == nil { // of one that is cut short there may be nothing
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		for deadline := time.Now().Add(10 * time.Second); e.Failures() != c.want && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // between two looks: it is counted after the answer
		}
		if got := e.Failures(); got != c.want {
			t.Errorf("after %s the worker has failed %d requests, want %d", c.path, got, c.want)
		}
	}
	ctx, leave := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/late", nil)
	must(t, err)
	if res, err := s.client.Do(req); err == nil {
		res.Body.Close()
		t.Error("the client did not leave")
	}
	eventually(t, "the end of it", func() bool { return e.InFlight() == 0 })
	if got := e.Failures(); got != 4 {
		t.Errorf("a client that left made it %d failures", got)
	}
	f, _ := s.worker(func(http.ResponseWriter, *http.Request) {}, EndpointOptions{})
	s.backend.Set(f)
	s.backend.Set()
	s.backend.Fail(errorString("out of order"))
	res, err := s.client.Get("http://" + s.addr)
	must(t, err)
	res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || e.Failures() != 4 || f.Failures() != 0 {
		t.Errorf("without a worker: %d; failures %d and %d", res.StatusCode, e.Failures(), f.Failures())
	}
}
