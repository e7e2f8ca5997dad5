package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// lane is a way for a client's bytes into a proxy.
type lane struct {
	name  string
	serve func(t *testing.T, p *Proxy, l net.Listener) // returns at once
}

// lanes are held against each other, and against httputil.ReverseProxy behind
// net/http alone, which comes last.
var lanes = []lane{
	{"R", func(t *testing.T, p *Proxy, l net.Listener) {
		f := newFastSite(p, l, laneTimeouts(time.Minute, time.Minute))
		serveHTTP(t, p, f)
		t.Cleanup(f.stop)
	}},
	{"S", func(t *testing.T, p *Proxy, l net.Listener) { serveHTTP(t, p, strictListener{l}) }},
	{"net/http", func(t *testing.T, p *Proxy, l net.Listener) {
		oracle := newReverse()
		t.Cleanup(oracle.close)
		p.forward = oracle
		serveHTTP(t, p, l)
	}},
}

func serveHTTP(t *testing.T, p *Proxy, l net.Listener) {
	server := p.Server("", func() (time.Duration, time.Duration) { return time.Minute, time.Minute })
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
}

// listen returns the address of a lane into a proxy in front of worker.
func (l lane) listen(t *testing.T, worker string) (addr string) {
	p := New(Options{})
	b := NewBackend("index", BackendOptions{})
	must(t, p.SetRoutes([]Route{{Path: "/", Backend: b}}))
	e := NewEndpoint(EndpointOptions{Addr: worker})
	b.Set(e)
	t.Cleanup(e.Close)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { lis.Close() })
	l.serve(t, p, lis)
	return lis.Addr().String()
}

// corpusCase is a line of testdata/requests.
type corpusCase struct {
	name string
	text []byte
	want []int // the statuses of the answers, less those of hints

	// The worker gets something else from httputil.ReverseProxy: it passes on
	// offers of HTTP/1.0 clients and of requests with a body to upgrade, and
	// Expect without a body.
	differs bool
}

// readCorpus reads lines such as
//
//	400 bare line feed :: GET / HTTP/1.1|Host: h\nX: y||
//
// with CRLF as |, the escapes of Go, and {x*9} for nine x.
func readCorpus(t testing.TB) (cases []corpusCase) {
	files, err := filepath.Glob("testdata/requests/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no corpus", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSuffix(line, "\n"); line == "" || line[0] == '#' {
				continue
			}
			c, err := parseCase(line)
			if err != nil {
				t.Fatalf("%s: %q: %v", file, line, err)
			}
			c.name = strings.TrimSuffix(filepath.Base(file), ".txt") + ": " + c.name
			cases = append(cases, c)
		}
	}
	return cases
}

func parseCase(line string) (c corpusCase, err error) {
	about, request, ok := strings.Cut(line, " :: ")
	if !ok {
		return c, io.ErrUnexpectedEOF
	}
	for {
		word, rest, _ := strings.Cut(about, " ")
		status, err := strconv.Atoi(word)
		if err != nil || status < 200 {
			break
		}
		c.want, about = append(c.want, status), rest
	}
	c.name, c.differs = strings.CutPrefix(about, "~ ")
	for {
		before, repeated, ok := strings.Cut(request, "{")
		if !ok {
			break
		}
		repeated, after, _ := strings.Cut(repeated, "}")
		what, times, _ := strings.Cut(repeated, "*")
		n, err := strconv.Atoi(times)
		if err != nil {
			return c, err
		}
		request = before + strings.Repeat(what, n) + after
	}
	text, err := strconv.Unquote(`"` + strings.NewReplacer(`"`, `\"`, "|", `\r\n`).Replace(request) + `"`)
	c.text = []byte(text)
	return c, err
}

// witness is a worker that tells what it gets.
type witness struct {
	t        *testing.T
	addr     string
	received chan string
}

func newWitness(t *testing.T) *witness {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &witness{t: t, addr: l.Addr().String(), received: make(chan string, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); w.serve(c) }()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return w
}

func (w *witness) serve(c net.Conn) {
	var raw bytes.Buffer
	r := bufio.NewReader(io.TeeReader(c, &raw))
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return // it was cut
		}
		w.check(raw.Bytes()[:raw.Len()-r.Buffered()])
		raw.Next(raw.Len() - r.Buffered())
		req.Header.Del(requestIDHeader)
		w.received <- fmt.Sprintf("%s %s %s %v %d %v %q %v", req.Method, req.RequestURI, req.Host, req.Header, req.ContentLength,
			req.TransferEncoding, body, req.Trailer)
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return
		}
	}
}

// check reads what came with the strict parsers: nobody can understand it in
// two ways.
func (w *witness) check(raw []byte) {
	var r request
	end, _, err := requestEnd(raw, 0)
	if err == nil {
		err = r.parse(bytes.Clone(raw[:end]))
	}
	if err != nil && err != error(&refusals[manyFields]) { // some are added
		w.t.Errorf("the worker got %.400q: %v", raw, err)
		return
	}
	body := raw[end:]
	if r.chunked {
		var s chunks
		if n, done, err := s.scan(body); n != len(body) || !done || err != nil {
			w.t.Errorf("the worker got the body %q: %v", body, err)
		}
	} else if int64(len(body)) != max(r.length, 0) {
		w.t.Errorf("the worker got %d bytes, and %q", len(body), raw[:end])
	}
}

// all returns what came since it was called last.
func (w *witness) all() (all []string) {
	for {
		select {
		case s := <-w.received:
			all = append(all, s)
		default:
			return all
		}
	}
}

const sentinel = "GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n"

// play sends text and returns the statuses of n answers. If the connection
// stays open after them, another request must be answered, as itself.
func play(t *testing.T, addr string, c corpusCase) (statuses []int) {
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, _ = conn.Write(c.text) // it may be refused before its end
	r := bufio.NewReader(conn)
	method, _, _ := strings.Cut(string(c.text), " ")
	last := false
	for len(statuses) < len(c.want) && !last {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			return append(statuses, 0)
		}
		if res.StatusCode < 200 {
			continue
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return append(statuses, -1)
		}
		statuses, last = append(statuses, res.StatusCode), res.Close
	}
	if !last {
		_, _ = io.WriteString(conn, sentinel)
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 200 {
			t.Errorf("%s: the next request is answered with %v, %v", c.name, res, err)
		}
	} else if n, err := r.ReadByte(); err == nil {
		t.Errorf("%s: %q after the last answer", c.name, n)
	}
	return statuses
}

// TestCorpus plays well-formed and hostile requests through every lane. All say
// the same of each, and a worker gets the same of those that are accepted.
func TestCorpus(t *testing.T) {
	w := newWitness(t)
	addrs := make([]string, len(lanes))
	for i, l := range lanes {
		addrs[i] = l.listen(t, w.addr)
	}
	cases := readCorpus(t)
	if len(cases) < 300 {
		t.Errorf("just %d cases", len(cases))
	}
	for _, c := range cases {
		accepted := !slices.ContainsFunc(c.want, func(status int) bool { return status != 200 })
		var first []string
		for i, l := range lanes {
			oracle := i == len(lanes)-1
			if oracle && !accepted {
				continue // net/http lets some pass
			}
			statuses := play(t, addrs[i], c)
			if !slices.Equal(statuses, c.want) {
				t.Errorf("%s: lane %s: got %d, want %d", c.name, l.name, statuses, c.want)
			}
			received := w.all()
			if i == 0 {
				first = received
			} else if !slices.Equal(received, first) && !(oracle && c.differs) {
				t.Errorf("%s: through lane %s:\n%q\nthrough lane %s:\n%q", c.name, lanes[0].name, first, l.name, received)
			}
			if answered := slices.DeleteFunc(slices.Clone(received), func(s string) bool { return strings.HasPrefix(s, "GET /sentinel ") }); len(answered) > count200(c.want) {
				t.Errorf("%s: lane %s: a worker got %q", c.name, l.name, answered)
			}
		}
	}
}

func count200(statuses []int) (n int) {
	for _, s := range statuses {
		if s == 200 {
			n++
		}
	}
	return n
}
