//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"testing"
)

// streamKinds are a page with the SDK and one without.
var streamKinds = []string{"sdk", "plain"}

// streamFile is one of the sources in testdata/stream, for a release.
func streamFile(t *testing.T, name, release string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/stream/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(string(text), `const release = "one"`, fmt.Sprintf("const release = %q", release), 1)
}

// newStreamSite is a site with both kinds of the page that does everything.
func newStreamSite(t *testing.T) *site {
	t.Helper()
	files := map[string]string{}
	for _, kind := range streamKinds {
		files["pages/"+kind+"/handler.go"] = streamFile(t, "handler.go", "one")
		files["pages/"+kind+"/main.go"] = streamFile(t, kind+"/main.go", "one")
	}
	s := newSite(t, files)
	s.configure("", "keep_warm_ms: 0", "") // a worker that is replaced ends as soon as it can
	return s
}

// in is the site as a subtest uses it.
func (s *site) in(t *testing.T) *site {
	sub := *s
	sub.t = t
	return &sub
}

// TestStreams sends everything that HTTP/1.1 has through a server, to a page with the SDK and to one without.
func TestStreams(t *testing.T) {
	s := newStreamSite(t)
	s.start()
	for _, kind := range streamKinds {
		for name, test := range map[string]func(s *site, base string){
			"WebSocket": checkWebSocket, "upload": checkUpload, "download": checkDownload, "trailers": checkTrailers,
			"expect continue": checkContinue, "early hints": checkHints, "answers without a body": checkBodiless,
			"errors": checkErrors, "forwarded": checkForwarded, "early answer": checkEarlyAnswer,
		} {
			t.Run(kind+"/"+name, func(t *testing.T) { test(s.in(t), "/"+kind) })
		}
	}
}

func checkWebSocket(s *site, base string) {
	ws := s.openSocket(base+"/ws", "early")
	ws.wantMessage("one:early")
	for i := range 20 {
		text := strings.Repeat("x", i*3000)
		ws.send(frame(2, text))
		ws.wantMessage("one:" + text)
	}
	ws.send(frame(1, "a") + frame(1, "b"))
	ws.wantMessage("one:a")
	ws.wantMessage("one:b")
	ws.hangUp()
}

const large = 64 << 20

func randomBytes(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

func checkUpload(s *site, base string) {
	hash := sha256.New()
	res, err := http.Post(s.url(base+"/sum"), "application/octet-stream", io.TeeReader(randomBytes(1, large), hash))
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if want := fmt.Sprintf("%d %x\n", large, hash.Sum(nil)); err != nil || string(got) != want {
		s.t.Errorf("the page got %q, %v; sent were %q", got, err, want)
	}
}

func checkDownload(s *site, base string) {
	res, err := http.Get(s.url(fmt.Sprintf("%s/data?n=%d&seed=2", base, large)))
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.ContentLength != -1 {
		s.t.Errorf("the length is %d, want none", res.ContentLength)
	}
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, res.Body)
	if _, err := io.Copy(want, randomBytes(2, large)); err != nil {
		s.t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", want.Sum(nil))
	if err != nil || n != large || fmt.Sprintf("%x", got.Sum(nil)) != sum || res.Trailer.Get("X-Sum") != sum {
		s.t.Errorf("got %d bytes, %v, hash %x, trailer %v; want hash %s", n, err, got.Sum(nil), res.Trailer, sum)
	}
}

func checkTrailers(s *site, base string) {
	w := s.dial("POST " + base + "/sum HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sent\r\nTE: trailers\r\n\r\n" +
		"3\r\nabc\r\n0\r\nX-Sent: kept\r\n\r\n")
	res, body := w.answer("POST")
	if want := fmt.Sprintf("3 %x\n", sha256.Sum256([]byte("abc"))); body != want || res.Trailer.Get("Echo-X-Sent") != "kept" {
		s.t.Errorf("got %q with trailers %v; want %q", body, res.Trailer, want)
	}
}

func checkContinue(s *site, base string) {
	const head = " HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
	w := s.dial("POST " + base + "/sum" + head)
	if res, _ := w.answer("POST"); res.StatusCode != 100 {
		s.t.Fatalf("the first answer is %s, want 100", res.Status)
	}
	w.send("abc")
	if res, body := w.answer("POST"); res.StatusCode != 200 || !strings.HasPrefix(body, "3 ") {
		s.t.Errorf("then %s, %q", res.Status, body)
	}
	w.send("POST " + base + "/refuse" + head) // and no body: it is not wanted
	if res, body := w.answer("POST"); res.StatusCode != 413 || body != "not wanted\n" {
		s.t.Errorf("a body that the page does not want: %s, %q", res.Status, body)
	}
}

func checkHints(s *site, base string) {
	var hints []string
	ctx := httptrace.WithClientTrace(s.t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, "GET", s.url(base+"/hints"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if fmt.Sprint(hints) != "[103 </style.css>; rel=preload; as=style]" || err != nil || string(body) != "after the hints\n" || res.Header.Get("Link") != "" {
		s.t.Errorf("hints %q, then %q, %v, %v", hints, body, err, res.Header)
	}
}

// checkBodiless sends its requests at once: an answer with a wrong length would shift the ones after it.
func checkBodiless(s *site, base string) {
	const rest = " HTTP/1.1\r\nHost: localhost\r\n\r\n"
	w := s.dial("HEAD " + base + "/status?code=200" + rest + "GET " + base + "/status?code=204" + rest +
		"GET " + base + "/status?code=304" + rest + "HEAD " + base + "/nowhere/../" + rest + "GET " + base + rest)
	for i, want := range []struct {
		method string
		code   int
		body   string
	}{{"HEAD", 200, ""}, {"GET", 204, ""}, {"GET", 304, ""}, {"HEAD", 400, ""}, {"GET", 200, "one\n"}} {
		res, body := w.answer(want.method)
		if res.StatusCode != want.code || body != want.body {
			s.t.Fatalf("answer %d: %s, %q; want %d, %q", i, res.Status, body, want.code, want.body)
		}
		if i < 3 && res.Header.Get("Etag") != `"x"` {
			s.t.Errorf("answer %d has lost its ETag: %v", i, res.Header)
		}
		if i == 0 && res.ContentLength != int64(len("method HEAD\n")) {
			s.t.Errorf("the HEAD says %d bytes", res.ContentLength)
		}
	}
}

// failure is the body of an error as JSON.
type failure struct {
	Error     string `json:"error"`
	Status    int    `json:"status"`
	RequestID string `json:"request_id"`
}

func checkErrors(s *site, base string) {
	for _, c := range []struct {
		path, accept, kind, message string
		status                      int
	}{
		{"/nowhere", "application/json", "route_not_found", "Worker not found", 404},
		{"/nowhere", "text/html, application/json;q=0.9", "route_not_found", "Worker not found", 404},
		{"/nowhere", "*/*", "route_not_found", "Worker not found", 404},
		{base + "/abort", "application/json", "worker_closed", "Worker did not answer", 502},
		{base + "/abort", "", "worker_closed", "Worker did not answer", 502},
	} {
		req, err := http.NewRequest("GET", s.url(c.path), nil)
		if err != nil {
			s.t.Fatal(err)
		}
		req.Header.Set("Accept", c.accept)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		id := res.Header.Get("X-Request-Id")
		if err != nil || res.StatusCode != c.status || res.Header.Get("X-TQ-Error") != c.kind || len(id) != 32 {
			s.t.Errorf("%s for %q: %s, %v, %v", c.path, c.accept, res.Status, res.Header, err)
		}
		if c.accept != "application/json" {
			if string(body) != c.message+"\n" || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
				s.t.Errorf("%s for %q: %q, %v", c.path, c.accept, body, res.Header)
			}
			continue
		}
		wantFailure(s.t, res, body, failure{c.message, c.status, id})
	}
}

func wantFailure(t *testing.T, res *http.Response, body []byte, want failure) {
	t.Helper()
	var got failure
	if err := json.Unmarshal(body, &got); err != nil || got != want || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %q of type %s, %v; want %+v", body, res.Header.Get("Content-Type"), err, want)
	}
}

// forged is what a client says about itself.
var forged = map[string]string{
	"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "forged", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/forged",
	"Forwarded": "for=6.6.6.6", "X-Real-Ip": "6.6.6.6", "X_Forwarded_For": "6.6.6.6", "Proxy": "http://6.6.6.6", "X-Request-Id": "forged",
}

// seen is which headers reach the page when a client sends the forged ones.
func (s *site) seen(base string) (headers http.Header, host, id string) {
	s.t.Helper()
	req, err := http.NewRequest("GET", s.url(base+"/headers"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Host = "site.example"
	for name, value := range forged {
		req.Header[name] = []string{value}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	var got struct {
		Host    string
		Headers http.Header
	}
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		s.t.Fatal(err)
	}
	return got.Headers, got.Host, res.Header.Get("X-Request-Id")
}

func checkForwarded(s *site, base string) {
	got, host, id := s.seen(base)
	want := map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "site.example", "X-Forwarded-Proto": "http", "X-Request-Id": id}
	for name := range forged {
		if value := strings.Join(got[name], ", "); value != want[name] {
			s.t.Errorf("the page sees %s: %q, want %q", name, value, want[name])
		}
	}
	if _, _, other := s.seen(base); host != "site.example" || len(id) != 32 || id == other {
		s.t.Errorf("host %q, id %q, then %q", host, id, other)
	}
	s.awaitLog("id=" + id)
}

// checkEarlyAnswer: an answer that comes before the end of the upload arrives, though nobody reads the upload.
func checkEarlyAnswer(s *site, base string) {
	w := s.dial("POST " + base + "/refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nonly this")
	if res, body := w.answer("POST"); res.StatusCode != 413 || body != "not wanted\n" || !res.Close {
		s.t.Errorf("got %s, %q, close %v", res.Status, body, res.Close)
	}
}

// TestTrustedProxy is believed from the moment on at which the configuration names it.
func TestTrustedProxy(t *testing.T) {
	s := newStreamSite(t)
	s.start()
	s.configure("trusted_proxies: [127.0.0.0/8]", "", "")
	s.await("the proxy to be believed", func() error {
		got, _, id := s.seen("/sdk")
		if got.Get("X-Forwarded-For") != "6.6.6.6, 127.0.0.1" || got.Get("X-Forwarded-Proto") != "https" || got.Get("X-Forwarded-Host") != "forged" || id != "forged" {
			return fmt.Errorf("the page sees %v", got)
		}
		if got["X_Forwarded_For"] != nil || got["Proxy"] != nil {
			t.Errorf("the page sees %v", got)
		}
		return nil
	})
	s.awaitLog("client=6.6.6.6")
}

// TestStreamTimeouts cut clients that stand still, and no stream that is quiet.
func TestStreamTimeouts(t *testing.T) {
	s := newStreamSite(t)
	s.configure("read_timeout_seconds: 1\nwrite_timeout_seconds: 1", "default: {write_timeout_seconds: 1}", "")
	s.start()
	for _, kind := range streamKinds {
		t.Run(kind, func(t *testing.T) {
			s, base := s.in(t), "/"+kind
			ws := s.openSocket(base+"/ws", "before")
			ws.wantMessage("one:before")
			sending := s.dial("POST " + base + "/sum HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Length: 100\r\n\r\nonly this")
			silent := s.dial("GET " + base + " HTTP/1.1\r\nHost: loc")
			waiting := s.dial("GET " + base + "/status?code=200&ms=60000 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")
			reading := s.dial("GET " + base + "/endless HTTP/1.1\r\nHost: localhost\r\n\r\n")

			lines := s.openEvents(base + "/sse?n=3&gap=1500")
			for i := range 3 {
				if got, want := event(lines), fmt.Sprint("one ", i); got != want {
					t.Fatalf("event %q, %v; want %q", got, lines.Err(), want)
				}
			}
			if event(lines) != "" || lines.Err() != nil {
				t.Errorf("the end of the events: %v", lines.Err())
			}
			ws.send(frame(1, "after"))
			ws.wantMessage("one:after")
			ws.endSocket() // a client that stands still afterwards must not hold the worker

			wantTimeout(sending, "POST", 408, "read_timeout", "Request Timeout")
			wantTimeout(waiting, "GET", 504, "response_timeout", "Worker did not answer in time")
			if rest, err := io.ReadAll(silent.r); err != nil || len(rest) > 0 && !bytes.HasPrefix(rest, []byte("HTTP/1.1 408")) {
				t.Errorf("half a head: %q, %v", rest, err)
			}
			s.awaitWorkers(kind, "serving 0") // so the client that does not read is cut
			res, err := http.ReadResponse(reading.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, res.Body); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("an answer that was cut after %d bytes ends with %v", n, err)
			}
			s.awaitLog("GET " + base + "/endless - 200")
			s.awaitLog("write_timeout")
		})
	}
}

func wantTimeout(w *wire, method string, status int, kind, message string) {
	w.t.Helper()
	res, body := w.answer(method)
	if res.StatusCode != status || res.Header.Get("X-TQ-Error") != kind {
		w.t.Errorf("got %s, %v; want %d, %s", res.Status, res.Header, status, kind)
	}
	wantFailure(w.t, res, []byte(body), failure{message, status, res.Header.Get("X-Request-Id")})
}

// TestStreamsOutliveASave: they stay with the old worker until they end, while the new one answers what is new.
func TestStreamsOutliveASave(t *testing.T) {
	s := newStreamSite(t)
	s.start()
	for _, kind := range streamKinds {
		t.Run(kind, func(t *testing.T) {
			s, base := s.in(t), "/"+kind
			ws := s.openSocket(base+"/ws", "before")
			ws.wantMessage("one:before")
			lines := s.openEvents(base + "/sse?gap=25")
			event(lines)
			s.write("pages"+base+"/handler.go", streamFile(t, "handler.go", "two"))
			s.awaitBody(base, "two")

			for i := range 20 {
				ws.send(frame(1, fmt.Sprint(i)))
				ws.wantMessage(fmt.Sprint("one:", i))
				if got := event(lines); !strings.HasPrefix(got, "one ") {
					t.Fatalf("event %q, %v", got, lines.Err())
				}
			}
			fresh := s.openSocket(base+"/ws", "new")
			fresh.wantMessage("two:new")
			fresh.hangUp()
			s.awaitWorkers(kind, "draining 2, serving 0")
			ws.send(frame(1, "end"))
			ws.wantMessage("one:end")
			ws.hangUp()
			for event(lines) != "" {
			}
			if lines.Err() != nil {
				t.Errorf("the end of the events: %v", lines.Err())
			}
			s.awaitWorkers(kind, "serving 0")
		})
	}
	if strings.Contains(s.out.String(), "drain_timeout_ms") {
		t.Error("a stream was cut")
	}
}

// TestDrainTimeoutCutsStreams that do not end by themselves, and the log says so.
func TestDrainTimeoutCutsStreams(t *testing.T) {
	s := newStreamSite(t)
	s.configure("", "drain_timeout_ms: 300\nshutdown_grace_period_ms: 100", "")
	s.start()
	for _, kind := range streamKinds {
		t.Run(kind, func(t *testing.T) {
			s, base := s.in(t), "/"+kind
			ws := s.openSocket(base+"/ws", "before")
			ws.wantMessage("one:before")
			lines := s.openEvents(base + "/sse?gap=25")
			event(lines)
			pid := s.page(kind).Workers[0].PID
			s.write("pages"+base+"/handler.go", streamFile(t, "handler.go", "two"))
			for event(lines) != "" {
			}
			if lines.Err() == nil {
				t.Error("events that were cut look whole")
			}
			if _, text, err := ws.message(); err == nil {
				t.Errorf("message %q of a WebSocket that was cut", text)
			}
			s.awaitLog("requests did not end within workers.drain_timeout_ms and are cut: page=" + kind)
			s.awaitBody(base, "two")
			s.await("the old worker to be gone", func() error {
				if alive(pid) {
					return fmt.Errorf("process %d lives", pid)
				}
				return nil
			})
		})
	}
}

// awaitWorkers waits until the workers of a page, with what each has in flight, are these.
func (s *site) awaitWorkers(page, want string) {
	s.t.Helper()
	s.await("the workers "+want, func() error {
		var states []string
		for _, w := range s.page(page).Workers {
			states = append(states, fmt.Sprint(w.State, " ", w.InFlight))
		}
		slices.Sort(states)
		if got := strings.Join(states, ", "); got != want {
			return errors.New(got)
		}
		return nil
	})
}
