package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func flush(w http.ResponseWriter) { http.NewResponseController(w).Flush() }

func TestEveryWriteOfAnUnendingAnswerArrives(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	next := make(chan struct{})
	for _, contentType := range []string{"text/event-stream", "application/octet-stream"} {
		s.serve(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			flush(w)
			for range 3 {
				<-next
				io.WriteString(w, "data: 1\n\n")
				flush(w)
			}
		})
		res, err := s.client.Do(s.request("GET", "/", nil)) // returns on the header alone
		must(t, err)
		for range 3 {
			next <- struct{}{} // the worker writes on only after the client has read
			got := make([]byte, 9)
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != "data: 1\n\n" {
				t.Errorf("%q, %v", got, err)
			}
		}
		if _, err := io.ReadAll(res.Body); err != nil {
			t.Error(err)
		}
		res.Body.Close()
	}
}

func TestAPausedAnswerOfKnownLengthArrives(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	next := make(chan struct{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "a")
		flush(w)
		<-next
		io.WriteString(w, "b")
	})
	res, err := s.client.Do(s.request("GET", "/", nil))
	must(t, err)
	defer res.Body.Close()
	got := make([]byte, 1)
	_, err = io.ReadFull(res.Body, got)
	must(t, err)
	close(next)
	if rest, err := io.ReadAll(res.Body); err != nil || string(got)+string(rest) != "ab" {
		t.Errorf("%s%s, %v", got, rest, err)
	}
}

func TestTrailersBothWays(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Announced")
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
		w.Header().Set("X-Announced", r.Trailer.Get("X-Sum"))
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "u")
	})
	r := s.request("POST", "/", io.MultiReader(strings.NewReader("body")))
	r.Trailer = http.Header{"X-Sum": {"42"}}
	res, body := s.do(r)
	if body != "body" || res.Trailer.Get("X-Announced") != "42" || res.Trailer.Get("X-Unannounced") != "u" {
		t.Errorf("%q %v", body, res.Trailer)
	}
}

func TestContinueAndEarlyHints(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(417)
			return
		}
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(103)
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}}
	s.client.Transport.(*http.Transport).ExpectContinueTimeout = 10 * time.Second
	r := s.request("POST", "/", strings.NewReader("body"), "Expect", "100-continue")
	res, body := s.do(r.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
	if res.StatusCode != 200 || body != "body" || !strings.Contains(fmt.Sprint(hints), "103</style.css>") || !strings.Contains(fmt.Sprint(hints), "100") {
		t.Errorf("%s %q after %v", res.Status, body, hints)
	}
	sent := &countingReader{Reader: strings.NewReader("body")}
	r = s.request("POST", "/no", sent, "Expect", "100-continue")
	if res, _ := s.do(r); res.StatusCode != 417 || sent.n.Load() != 0 {
		t.Errorf("%s after %d bytes", res.Status, sent.n.Load())
	}
}

func TestContinueIsSaidOnce(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	for range 100 {
		c, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
		for _, want := range []int{100, 200} {
			res, err := http.ReadResponse(r, nil)
			must(t, err)
			if res.StatusCode != want {
				t.Fatalf("got %s, want %d", res.Status, want)
			}
			if want == 100 {
				io.WriteString(c, "body")
			}
		}
		c.Close()
	}
}

// TestHintRightAfterContinue: the client is told of both, one after the other.
func TestHintRightAfterContinue(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
		for head(r) != nil {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
			r.Discard(5)
			io.WriteString(c, ok)
		}
	})
	conn, r := s.dial("")
	for range 50 {
		io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		for _, status := range []int{100, 103} {
			if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != status {
				t.Fatalf("%v, %v", res, err)
			}
		}
		io.WriteString(conn, "hello")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if body, err := io.ReadAll(res.Body); string(body) != "ok" || err != nil {
			t.Fatalf("%s %q, %v", res.Status, body, err)
		}
	}
}

type countingReader struct {
	io.Reader
	n atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n.Add(int64(n))
	return n, err
}

func TestAnswersWithoutABody(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "1000")
		}
	})
	for _, c := range []struct {
		method, path string
		status       int
	}{{"HEAD", "/", 200}, {"GET", "/204", 204}, {"GET", "/304", 304}, {"HEAD", "/", 200}} {
		res, body := s.do(s.request(c.method, c.path, nil))
		if res.StatusCode != c.status || body != "" || c.method == "HEAD" && res.ContentLength != 1000 {
			t.Errorf("%s %s: %s %q", c.method, c.path, res.Status, body)
		}
	}
}

func TestLargeBodiesStreamBothWays(t *testing.T) {
	const size = 64 << 20
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		flush(w)
		io.Copy(w, r.Body)
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := s.client.Do(s.request("POST", "/", io.LimitReader(zeros{}, size)))
	must(t, err)
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > size/4 {
		t.Errorf("allocated %d bytes", grown)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestEarlyAnswerEndsTheUpload: the worker refuses a body that the client goes
// on sending, or stalls in the middle of.
func TestEarlyAnswerEndsTheUpload(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e := s.serve(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex() // or the worker itself reads on first
		http.Error(w, "too large", 413)
	})
	for _, head := range []string{"Content-Length: 100000000", "Transfer-Encoding: chunked", "Content-Length: 100000"} {
		begin := time.Now()
		_, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\n" + head + "\r\n\r\n5\r\nhello\r\n")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		if res.StatusCode != 413 || string(body) != "too large\n" || err != nil || !res.Close {
			t.Errorf("%s: %s %q %v, close: %v", head, res.Status, body, err, res.Close)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%s: connection is still open: %v", head, err)
		}
		if d := time.Since(begin); d > 4*time.Second {
			t.Errorf("%s: took %v", head, d)
		}
	}
	must(t, e.Drain(t.Context()))
}

// TestRefusedRequestKeepsItsConnection: a small body that nobody wants is read
// away.
func TestRefusedRequestKeepsItsConnection(t *testing.T) {
	s := newSite(t, Options{Timeouts: func() Timeouts { return Timeouts{Read: time.Second, Write: time.Second} }}, BackendOptions{})
	must(t, s.SetRoutes(nil))
	_, r := s.dial(strings.Repeat("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", 3))
	for range 3 {
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if _, err := io.ReadAll(res.Body); res.StatusCode != 404 || err != nil {
			t.Errorf("%s, %v", res.Status, err)
		}
	}
}

func TestKilledWorkerCutsTheAnswerShort(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	for _, length := range []string{"", "1000000"} {
		s.serve(func(w http.ResponseWriter, r *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			io.WriteString(w, "part")
			flush(w)
			panic(http.ErrAbortHandler)
		})
		res, err := s.client.Do(s.request("GET", "/", nil))
		if err != nil {
			continue // not even the head got out
		}
		body, err := io.ReadAll(res.Body)
		if err == nil {
			t.Errorf("length %q: a cut answer looks whole: %s %q", length, res.Status, body)
		}
		res.Body.Close()
	}
	for n := range 2 {
		if e := s.entry(n); e.Status != 200 || !strings.HasPrefix(e.Error, "worker_closed") {
			t.Errorf("logged %+v", e)
		}
	}
}

func TestEndpointCloseEndsWhatIsLeft(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e := s.serve(func(w http.ResponseWriter, r *http.Request) {
		flush(w)
		<-r.Context().Done()
	})
	res, err := s.client.Do(s.request("GET", "/", nil))
	must(t, err)
	defer res.Body.Close()
	s.backend.Set()
	e.Close()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a cut answer looks whole")
	}
	must(t, e.Drain(t.Context()))
}

func TestDrainWaitsForStreams(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	finish := make(chan struct{})
	e := s.serve(func(w http.ResponseWriter, r *http.Request) {
		flush(w)
		<-finish
		io.WriteString(w, "end")
	})
	res, err := s.client.Do(s.request("GET", "/", nil))
	must(t, err)
	defer res.Body.Close()
	drained := make(chan error, 1)
	go func() { drained <- e.Drain(t.Context()) }()
	eventually(t, "drain waits", func() bool { return e.draining.Load() == 1 })
	select {
	case err := <-drained:
		t.Fatalf("drained under a stream: %v", err)
	default:
	}
	close(finish)
	if body, err := io.ReadAll(res.Body); string(body) != "end" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	must(t, <-drained)
}

func TestTimeoutsAreTheClientsOnly(t *testing.T) {
	const limit = 100 * time.Millisecond
	s := newSite(t, Options{Timeouts: func() Timeouts { return Timeouts{Read: limit, Write: limit} }}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		timer := time.NewTimer(3 * limit) // the worker's pause is the input
		defer timer.Stop()
		<-timer.C
		io.WriteString(w, "a")
		flush(w)
		timer.Reset(3 * limit)
		<-timer.C
	})
	for _, r := range []*http.Request{s.request("GET", "/", nil), s.request("POST", "/", strings.NewReader("x"))} {
		if res, body := s.do(r); res.StatusCode != 200 || body != "a" {
			t.Errorf("%s: %s %q", r.Method, res.Status, body)
		}
	}
}

func TestClientThatStopsSendingIsCut(t *testing.T) {
	s := newSite(t, Options{Timeouts: func() Timeouts { return Timeouts{Read: 50 * time.Millisecond} }}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	_, r := s.dial("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhel")
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	if res.StatusCode != 408 || res.Header.Get("X-TQ-Error") != "read_timeout" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
}

func TestClientThatStopsReadingIsCut(t *testing.T) {
	s := newSite(t, Options{Timeouts: func() Timeouts { return Timeouts{Write: 100 * time.Millisecond} }}, BackendOptions{})
	e := s.serve(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, zeros{}) })
	c, r := s.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	must(t, c.(*net.TCPConn).SetReadBuffer(4096))
	_, err := http.ReadResponse(r, nil)
	must(t, err)
	if e := s.entry(0); e.Status != 200 || !strings.HasPrefix(e.Error, "write_timeout") {
		t.Errorf("logged %+v", e)
	}
	must(t, e.Drain(t.Context()))
}
