package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// hears is the client's side of a connection that says its text, cut into
// pieces.
type hears struct {
	scripted
	cut func() int // the length of the next piece
}

func (h *hears) Read(p []byte) (int, error) {
	h.step = max(1, h.cut())
	return h.scripted.Read(p)
}

// filtered returns what net/http would read of text, by step bytes at most out
// of pieces of the given length.
func filtered(text []byte, step int, cut func() int) ([]byte, error) {
	c := Strict(&hears{scripted{text: text}, cut}, nil)
	defer c.Close()
	c.(*strictConn).taken.Store(true) // whatever is offered
	var got bytes.Buffer
	_, err := io.Copy(&got, iotest.DataErrReader(&stepReader{c, step}))
	return got.Bytes(), err
}

type stepReader struct {
	io.Reader
	step int
}

func (r *stepReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), r.step)]) }

func always(n int) func() int { return func() int { return n } }

func TestWellFormedRequestsPassTheFilterAsTheyAre(t *testing.T) {
	text := strings.ReplaceAll(strings.ReplaceAll(wellFormed, "accept", "Accept"), "ACCEPT-ENCODING", "Accept-Encoding")
	text += "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" +
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n00\r\nX: y\r\n\r\n" +
		"GET /" + strings.Repeat("x", 8000) + " HTTP/1.0\r\nX: " + strings.Repeat("y", 8000) + "\r\n\r\n" +
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nany\x00thing"
	for _, step := range []int{1, 3, 4096, 1 << 20} {
		for _, piece := range []int{1, 2, 5, 1000, 1 << 20} {
			got, err := filtered([]byte(text), step, always(piece))
			if err != nil || string(got) != text {
				t.Errorf("by %d of %d: %v, %d bytes of %d", step, piece, err, len(got), len(text))
			}
		}
	}
	for _, text := range []string{http2Preface + "\x00\x01", http2Preface, "PRI / HTTP/1.1\r\nHost: h\r\n\r\n"} {
		if got, err := filtered([]byte(text), 3, always(2)); err != nil || string(got) != text {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// TestNothingOfARefusedHeadPasses but its method: net/http reads a request that
// stands for it.
func TestNothingOfARefusedHeadPasses(t *testing.T) {
	for bad, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n":                            400,
		"GET / HTTP/1.1\r\n\r\n":                                             400,
		"GET / HTTP/3.1\r\nHost: h\r\n\r\n":                                  505,
		"PUT / HTTP/1.1\r\nHost: h\r\nExpect: wonders\r\n\r\n":               417,
		"G / HTTP/1.1\r\nHost : h\r\n\r\n":                                   400,
		"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n":                              400,
		"OPTIONS / HTTP/1.1\r\nX: " + strings.Repeat("y", 9000) + "\r\n\r\n": 431,
		"HEAD /" + strings.Repeat("y", 9000) + " HTTP/1.1\r\n\r\n":           414,
		"\x16\x03\x01\x02\x00\x01":                                           400,
	} {
		for _, before := range []string{"", wellFormed} {
			for _, piece := range []int{1, 7, 1 << 20} {
				got, err := filtered([]byte(before+bad), 4096, always(piece))
				r := bufio.NewReader(bytes.NewReader(got))
				if before != "" {
					_, err := http.ReadRequest(r)
					must(t, err)
				}
				req, parseErr := http.ReadRequest(r)
				if err != nil || parseErr != nil || r.Buffered() != 0 {
					t.Fatalf("%.40q by %d: %v, %v, %q", bad, piece, err, parseErr, got)
				}
				if _, f := target(req); f == nil || f.status != want || f.kind != kindBadRequest || !req.Close {
					t.Errorf("%.40q by %d: %v, want %d", bad, piece, f, want)
				}
			}
		}
	}
}

func TestABrokenBodyFailsOnce(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, piece := range []int{1, 1 << 20} {
		c := Strict(&hears{scripted{text: []byte(head + "5\r\nhello\n0\r\n\r\n")}, always(piece)}, nil)
		got, err := io.ReadAll(c)
		if _, ok := errors.AsType[*refusal](err); !ok || !strings.HasPrefix(string(got), head) || strings.HasSuffix(string(got), "\n0") {
			t.Errorf("by %d: %q, %v", piece, got, err)
		}
		if n, err := c.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("%d, %v", n, err)
		}
		c.Close()
	}
}

func TestWhatWasReadBeforeIsFiltered(t *testing.T) {
	text := "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" + wellFormed
	for n := range len(text) {
		c := Strict(&scripted{text: []byte(text[n:]), step: 9}, []byte(text[:n]))
		if got, err := io.ReadAll(c); err != nil || !strings.EqualFold(string(got), text) {
			t.Errorf("%d bytes before: %q, %v", n, got, err)
		}
	}
	c := Strict(&scripted{step: 1}, []byte("GET /#\r\nX\r\n\r\n"))
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "- /#") || !strings.HasSuffix(string(got), "close\r\n\r\n") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAnIdleConnectionHoldsNoBuffer(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	c := Strict(server, nil).(*strictConn)
	defer c.Close()
	for range 2 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, piece := range []string{wellFormed[:10], wellFormed[10:]} {
				io.WriteString(client, piece)
			}
		}()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			t.Fatal(err)
		}
		<-done
		if c.buf != nil {
			t.Errorf("holds %d bytes", cap(c.buf))
		}
	}
}

// TestARefusedClientIsToldWhy, in the header and in the log, and the connection
// is closed.
func TestARefusedClientIsToldWhy(t *testing.T) {
	s := newSite(t, Options{Reveal: func() bool { return true }}, BackendOptions{})
	worker := s.serve(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	for i, text := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("x", 1<<20),
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nz\r\n",
	} {
		c, r := s.dial("")
		go io.WriteString(c, text) // the server stops reading
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 400 || res.Header.Get(errorHeader) != kindBadRequest || !res.Close || !strings.Contains(string(body), "h") {
			t.Errorf("%d: %v, %v, %q, %v", i, res.Status, res.Header, body, err)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%d: not closed: %v", i, err)
		}
		c.Close()
		if e := s.entry(i); e.Status != 400 || !strings.HasPrefix(e.Error, kindBadRequest+": ") || e.Path != "/" || e.Method != []string{"GET", "POST"}[i] {
			t.Errorf("logged %+v", e)
		}
	}
	if n := worker.Failures(); n != 0 {
		t.Errorf("the worker is blamed for %d", n)
	}
}

// TestABreachDoesNotHarmTheRequestBefore: it is under way when the next one is
// refused.
func TestABreachDoesNotHarmTheRequestBefore(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	came, goOn := make(chan struct{}), make(chan struct{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		close(came)
		<-goOn
		io.WriteString(w, "whole")
	})
	c, r := s.dial(wellFormed)
	<-came
	_, err := io.WriteString(c, "GET /\r\nbad\r\n\r\n")
	must(t, err)
	time.AfterFunc(10*time.Millisecond, func() { close(goOn) }) // the breach may be seen before or after
	for _, want := range []int{200, 400} {
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		if res.StatusCode != want || err != nil || want == 200 && string(body) != "whole" {
			t.Errorf("%s %q %v, want %d", res.Status, body, err, want)
		}
	}
}

// TestADeclinedUpgradeEndsTheConnection: what comes behind the offer was never
// looked at.
func TestADeclinedUpgradeEndsTheConnection(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(echoHeader)
	_, r := s.dial("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nGET / HTTP/1.1\nHost: h\n\n")
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	io.Copy(io.Discard, res.Body)
	if _, err := r.ReadByte(); res.StatusCode != 200 || !res.Close || err == nil {
		t.Errorf("%s, %v, %v", res.Status, res.Header, err)
	}
}
