package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// scripted is a connection to a worker that says its text, a few bytes at a
// time, whatever it is asked.
type scripted struct {
	text []byte
	step int
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.step)], s.text)
	s.text = s.text[n:]
	return n, nil
}

func (*scripted) Write(p []byte) (int, error)           { return len(p), nil }
func (*scripted) Close() error                          { return nil }
func (*scripted) CloseWrite() error                     { return nil }
func (*scripted) LocalAddr() net.Addr                   { return nil }
func (*scripted) RemoteAddr() net.Addr                  { return nil }
func (*scripted) SetDeadline(time.Time) error           { return nil }
func (*scripted) SetReadDeadline(time.Time) error       { return nil }
func (*scripted) SetWriteDeadline(time.Time) error      { return nil }
func (*scripted) SyscallConn() (syscall.RawConn, error) { return mute{}, nil }

// mute tells nothing about its connection.
type mute struct{}

func (mute) Control(func(uintptr)) error    { return errors.ErrUnsupported }
func (mute) Read(func(uintptr) bool) error  { return errors.ErrUnsupported }
func (mute) Write(func(uintptr) bool) error { return errors.ErrUnsupported }

// recorder takes informational answers for what they are.
type recorder struct{ *httptest.ResponseRecorder }

func (r recorder) WriteHeader(status int) {
	if status >= 200 {
		r.ResponseRecorder.WriteHeader(status)
	}
}

// result is what a client gets when a worker answers a request with text.
type result struct {
	status  int
	body    string
	header  http.Header
	trailer http.Header
	pooled  bool // the connection would be used again
	err     error
}

// answerTo passes text, read step bytes at a time, through the uplink.
func answerTo(t *testing.T, method string, text []byte, step int) result {
	e := NewEndpoint(EndpointOptions{})
	defer e.Close()
	c, err := newWorkerConn(&scripted{text: text, step: step}, e)
	must(t, err)
	w := recorder{httptest.NewRecorder()}
	x := New(Options{}).begin(w, httptest.NewRequest(method, "/", nil))
	x.endpoint = e
	trip := trips.Get().(*trip)
	defer trip.release()
	must(t, trip.prepare(x, e))
	_, err = trip.attempt(c)
	res := w.Result()
	return result{x.out.status, w.Body.String(), res.Header, res.Trailer, len(e.pool.idle) == 1, err}
}

type answerCase struct {
	name, text string
	want       string // status and body, or the error's kind
	pooled     bool
}

// answers are what a worker may say and what becomes of it.
var answers = []answerCase{
	{"plain", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 hi", true},
	{"no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200 ", true},
	{"empty reason", "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n", "299 ", true},
	{"latin-1", "HTTP/1.1 200 \xe4\r\nX: \xe4\r\nContent-Length: 0\r\n\r\n", "200 ", true},
	{"no space after colon", "HTTP/1.1 200 OK\r\nContent-Length:\t2 \t\r\n\r\nhi", "200 hi", true},
	{"lower case", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "200 hi", true},
	{"close", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nhi", "200 hi", false},
	{"until the end", "HTTP/1.1 200 OK\r\n\r\nhi", "200 hi", false},
	{"http/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 hi", false},
	{"http/1.0 kept", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", "200 hi", true},
	{"http/1.0 until the end", "HTTP/1.0 200 OK\r\n\r\nhi", "200 hi", false},
	{"204", "HTTP/1.1 204 No Content\r\n\r\n", "204 ", true},
	{"204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", "204 ", false},
	{"304 with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "304 ", true},
	{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nh\r\n00a;x=y\r\n0123456789\r\n0\r\n\r\n", "200 h0123456789", true},
	{"hints", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 hi", true},
	{"more than asked for", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n", "200 hi", false},
	{"more after chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", "200 ", false},

	{"cut head", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "worker_closed", false},
	{"nothing", "", "worker_closed", false},
	{"cut body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", "worker_closed", false},
	{"cut chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nh", "worker_closed", false},
	{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n", "worker_closed", false},
	{"cut trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n", "worker_closed", false},

	{"ssh", "SSH-2.0-OpenSSH\r\n", "worker_error", false},
	{"http/2", "HTTP/2 200 OK\r\n\r\n", "worker_error", false},
	{"http/1.2", "HTTP/1.2 200 OK\r\n\r\n", "worker_error", false},
	{"leading line break", "\r\nHTTP/1.1 200 OK\r\n\r\n", "worker_error", false},
	{"short status", "HTTP/1.1 20 OK\r\n\r\n", "worker_error", false},
	{"long status", "HTTP/1.1 2000 OK\r\n\r\n", "worker_error", false},
	{"signed status", "HTTP/1.1 +20 OK\r\n\r\n", "worker_error", false},
	{"status 099", "HTTP/1.1 099 OK\r\n\r\n", "worker_error", false},
	{"control in reason", "HTTP/1.1 200 O\x00K\r\n\r\n", "worker_error", false},
	{"line feeds only", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "worker_error", false},
	{"one line feed only", "HTTP/1.1 200 OK\r\nX: y\nSet-Cookie: a=b\r\n\r\n", "worker_error", false},
	{"carriage return only", "HTTP/1.1 200 OK\r\nX: y\rSet-Cookie: a=b\r\n\r\n", "worker_error", false},
	{"continued line", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", "worker_error", false},
	{"space before colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", "worker_error", false},
	{"no colon", "HTTP/1.1 200 OK\r\nX\r\n\r\n", "worker_error", false},
	{"no name", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", "worker_error", false},
	{"nul in value", "HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", "worker_error", false},
	{"name of other letters", "HTTP/1.1 200 OK\r\nX\xe4: a\r\n\r\n", "worker_error", false},
	{"too many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: 1\r\n", maxResponseFields+1) + "\r\n", "worker_error", false},
	{"too large", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxResponseHeader) + "\r\n\r\n", "worker_error", false},
	{"endless hints", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInformational+1), "worker_error", false},
	{"unasked switch", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "bad_upgrade", false},

	{"length and coding", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_framing", false},
	{"coding and length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", "bad_framing", false},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", "bad_framing", false},
	{"the same length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "bad_framing", false},
	{"listed lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi", "bad_framing", false},
	{"signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi", "bad_framing", false},
	{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi", "bad_framing", false},
	{"hexadecimal length", "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nhi", "bad_framing", false},
	{"empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhi", "bad_framing", false},
	{"huge length", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nhi", "bad_framing", false},
	{"other coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "bad_framing", false},
	{"identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhi", "bad_framing", false},
	{"chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_framing", false},
	{"chunked with a vertical tab", "HTTP/1.1 200 OK\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", "worker_error", false},
	{"chunked in http/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_framing", false},
	{"no chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "bad_framing", false},
	{"signed chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nh\r\n0\r\n\r\n", "bad_framing", false},
	{"huge chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nh\r\n0\r\n\r\n", "bad_framing", false},
	{"space after chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nh\r\n0\r\n\r\n", "bad_framing", false},
	{"line feed in extension", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\nh\r\n0\r\n\r\n", "bad_framing", false},
	{"carriage return in extension", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rb\r\nh\r\n0\r\n\r\n", "bad_framing", false},
	{"chunk line without end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("a", 2*maxChunkLine), "bad_framing", false},
	{"chunk longer than it says", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhi\r\n0\r\n\r\n", "bad_framing", false},
	{"line feed after chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\n0\r\n\r\n", "bad_framing", false},
}

func TestAnswers(t *testing.T) {
	for _, c := range answers {
		for _, step := range []int{1, 7, 1 << 20} {
			if step < 10 && len(c.text) > 10_000 {
				continue
			}
			got := answerTo(t, "GET", []byte(c.text), step)
			said := fmt.Sprint(got.status, " ", got.body)
			if got.err != nil {
				said = diagnoseWorker(got.err).kind
			}
			if step == 1 && strings.HasPrefix(c.name, "more") {
				got.pooled = false // what is too much is seen when the connection is taken again
			}
			if said != c.want || got.pooled != c.pooled {
				t.Errorf("%s, by %d: got %q, pooled: %v, %v; want %q, %v", c.name, step, said, got.pooled, got.err, c.want, c.pooled)
			}
		}
	}
}

func TestAnswersToHead(t *testing.T) {
	for text, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n":          "7",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n": "",
		"HTTP/1.1 200 OK\r\n\r\n":                               "",
	} {
		got := answerTo(t, "HEAD", []byte(text), 1<<20)
		if got.err != nil || !got.pooled || got.header.Get("Content-Length") != want || got.header["Transfer-Encoding"] != nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestTrailersThatSayTooMuchAreDropped(t *testing.T) {
	got := answerTo(t, "GET", []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Content-Length, Set-Cookie\r\n\r\n"+
		"2\r\nhi\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\nX-TQ-Error: x\r\nX-Other: 2\r\n\r\n"), 3)
	want := http.Header{"X-Sum": {"1"}, "X-Other": {"2"}}
	if got.err != nil || !reflect.DeepEqual(got.trailer, want) || got.body != "hi" {
		t.Errorf("%v, %q, %v", got.trailer, got.body, got.err)
	}
}

// TestTrailerIsNotTheHeader: they can have fields of the same name.
func TestTrailerIsNotTheHeader(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	for tail, want := range map[string]string{"X-A: tail\r\n": "[tail]", "": "[]"} {
		s.raw(EndpointOptions{}, func(c net.Conn, r *bufio.Reader) {
			head(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nX-A: head\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"+tail+"\r\n")
		})
		res, body := s.get("/")
		if got := fmt.Sprint(res.Trailer["X-A"]); got != want || res.Header.Get("X-A") != "head" || body != "hi" {
			t.Errorf("%q: header %q, trailer %s, %q", tail, res.Header.Get("X-A"), got, body)
		}
	}
}

// FuzzResponse holds the uplink against net/http: what it lets pass, net/http
// reads the same way.
func FuzzResponse(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nhi",
		"HTTP/1.0 200 OK\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2;a=b\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
	} {
		f.Add([]byte(text), byte(1), false)
		f.Add([]byte(text), byte(200), true)
	}
	for _, c := range answers {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text), byte(6), false)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, step byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		got := answerTo(t, method, text, int(step)+1)
		if got.err != nil {
			return
		}
		want, body, err := readAnswer(method, text)
		if err != nil {
			if strings.Contains(err.Error(), "too much non-data") {
				return // a limit, no other reading
			}
			t.Fatalf("passed on, but net/http says %v", err)
		}
		if want.StatusCode != got.status || body != got.body {
			t.Fatalf("got %d %q, net/http %d %q", got.status, got.body, want.StatusCode, body)
		}
		if got.pooled && want.Close {
			t.Fatal("keeps a connection that net/http closes")
		}
		for name, values := range got.header {
			if name != "Trailer" && name != requestIDHeader && !reflect.DeepEqual(values, want.Header[name]) {
				t.Fatalf("%s: got %q, net/http %q", name, values, want.Header[name])
			}
		}
	})
}

// readAnswer has net/http read the final answer in text.
func readAnswer(method string, text []byte) (*http.Response, string, error) {
	r := bufio.NewReader(bytes.NewReader(text))
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return nil, "", err
		}
		if res.StatusCode >= 200 {
			body, err := io.ReadAll(res.Body)
			return res, string(body), err
		}
	}
}
