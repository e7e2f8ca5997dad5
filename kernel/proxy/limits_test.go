package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimitsOfTheStandardLane: a head that does not go on is answered, noted
// and counted, after whatever is under way before it; a connection without a
// head is closed. All in time.
func TestLimitsOfTheStandardLane(t *testing.T) {
	const (
		get  = "GET /held HTTP/1.1\r\nHost: h\r\n\r\n"
		held = "503 hold_timeout"
		slow = "408 read_timeout"
	)
	for name, c := range map[string]struct {
		sends  []string
		want   string // the answers
		after  time.Duration
		logged string // what the last of them was about
		idled  bool
	}{
		"nothing":       {after: 30 * time.Second, idled: true},
		"half a method": {[]string{"GE"}, slow, 30 * time.Second, "- -", false},
		"half a line":   {[]string{"GET /slow?x"}, slow, 30 * time.Second, "GET /slow", false},
		"in pieces":     {[]string{"G", "ET ", "/slow ", "HTTP/1.1\r\nHo"}, slow, 30 * time.Second, "GET /slow", false},
		"idle":          {[]string{get}, held, 130 * time.Second, "GET /held", true},
		"the second":    {[]string{get, "", "", "POST /slow HTTP/1.1\r\n"}, held + ", " + slow, 45 * time.Second, "POST /slow", false},
		"the method":    {[]string{get, "", "", "GE"}, held + ", " + slow, 45 * time.Second, "- -", false},
		"bit by bit":    {[]string{get, "", "", "P", "OS", "T /sl", "ow HTTP/1.1\r\n"}, held + ", " + slow, 45 * time.Second, "POST /slow", false},
		"not for long":  {[]string{get, "", "", "G", "ET /held HTTP/1.1\r\nHost: h\r\n\r\n"}, held + ", " + held, 150 * time.Second, "GET /held", true},
		"pipelined":     {[]string{get + "POST /slow HTTP/1.1\r\n"}, held + ", " + slow, 40 * time.Second, "POST /slow", false},
		"behind a hold": {[]string{get, "HEAD /slow HTTP/1.1\r\n"}, held + ", " + slow, 40 * time.Second, "HEAD /slow", false},
		"bad behind it": {[]string{get, "PUT /bad HTTP/1.1\r\nno colon\r\n\r\n"}, held + ", 400 bad_request", 10 * time.Second, "PUT /bad", false},
		"too long":      {[]string{"GET /" + strings.Repeat("x", 9000)}, "414 bad_request", 0, "GET -", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, begin := newBubble(t), time.Now()
				if got := b.converse(c.sends); got != c.want || time.Since(begin) != c.after {
					t.Errorf("got %q after %v, want %q after %v", got, time.Since(begin), c.want, c.after)
				}
				b.stop()
				if b.idled != c.idled {
					t.Errorf("idled: %v", b.idled)
				}
				b.checkCounts(c.want)
				if c.logged != "" {
					last := b.log[len(b.log)-1]
					if last.Method+" "+last.Path != c.logged || !c.idled && !last.Time.Add(last.Duration).Equal(begin.Add(c.after)) {
						t.Errorf("logged %+v", last)
					}
				}
			})
		})
	}
}

// TestAClientThatLeavesDoesNotIdle, nor one whose request was the last, though
// net/http has broken off its look for another one.
func TestAClientThatLeavesDoesNotIdle(t *testing.T) {
	for _, text := range []string{"", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t)
			io.WriteString(b.client, text)
			if text != "" {
				_, err := http.ReadResponse(bufio.NewReader(b.client), nil)
				must(t, err)
			}
			synctest.Wait() // until net/http has broken off
			b.client.Close()
			b.stop()
			if b.idled {
				t.Errorf("%q: idled", text)
			}
		})
	}
}

// TestLimitsDocument holds the limits that no key sets in docs/timeouts.md to
// the program.
func TestLimitsDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/timeouts.md")
	must(t, err)
	if lingerTimeout != lastWordTime {
		t.Error("the lanes differ in how long a client may go on")
	}
	for what, limit := range map[string]time.Duration{
		"a client goes on sending a body that nobody wants, after its answer": lingerTimeout,
		"the same after a request was refused before it had a worker":         discardTimeout,
		"connecting to a worker": dialTimeout,
		"a request with `Expect: 100-continue` waits for the worker's word":          expectContinueTimeout,
		"the last piece of a request's body is written after the answer is complete": settleTimeout,
	} {
		_, row, ok := strings.Cut(string(text), "\n| "+what+" | ")
		said, _, _ := strings.Cut(row, " |")
		if got, err := time.ParseDuration(strings.ReplaceAll(said, " ", "")); !ok || err != nil || got != limit {
			t.Errorf("%s: the document says %q, the program %v", what, said, limit)
		}
	}
	if idle := fmt.Sprintf("closes it %d s before the worker would (of less than %d s: after half", idleMargin/time.Second, 2*idleMargin/time.Second); !strings.Contains(string(text), idle) {
		t.Errorf("the document does not say %q", idle)
	}
}

// bubble is lane S of a proxy whose page holds requests for 10 s, with one
// client, for synctest.
type bubble struct {
	*Proxy
	t      *testing.T
	page   *Backend
	client net.Conn
	server *http.Server
	done   chan struct{}
	idled  bool // when the connection was closed
	log    []Entry
}

func newBubble(t *testing.T) *bubble {
	b := &bubble{t: t, page: NewBackend("index", hold(10*time.Second, 1)), done: make(chan struct{})}
	b.Proxy = New(Options{Log: func(e *Entry) { b.log = append(b.log, e.Clone()) }})
	must(t, b.SetRoutes([]Route{{Path: "/", Backend: b.page}}))
	client, conn := net.Pipe()
	b.client, b.server = client, b.Server("", func() (time.Duration, time.Duration) { return 30 * time.Second, 120 * time.Second })
	b.server.ConnState = func(c net.Conn, state http.ConnState) { b.idled = Idled(c, state, b.server.IdleTimeout) }
	lis := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	lis.conn <- Strict(conn, nil)
	go func() { defer close(b.done); b.server.Serve(lis) }()
	return b
}

// converse sends one text after the other, each 5 s after the last, and returns
// the statuses of the answers once the server has closed the connection.
func (b *bubble) converse(texts []string) string {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i, text := range texts {
			if i > 0 {
				time.Sleep(5 * time.Second)
			}
			if _, err := io.WriteString(b.client, text); err != nil {
				return
			}
		}
	}()
	all, err := io.ReadAll(b.client)
	must(b.t, err)
	must(b.t, b.client.Close())
	<-sent
	var statuses []string
	for _, m := range regexp.MustCompile(`HTTP/1\.1 ([0-9]{3}) [^\x00]*?X-Tq-Error: (\w+)`).FindAllStringSubmatch(string(all), -1) {
		statuses = append(statuses, m[1]+" "+m[2])
	}
	return strings.Join(statuses, ", ")
}

// checkCounts wants each answer to be logged and counted, once.
func (b *bubble) checkCounts(answers string) {
	want := strings.Split(answers, ", ")
	if answers == "" {
		want = nil
	}
	if len(b.log) != len(want) {
		b.t.Fatalf("logged %+v, want %q", b.log, want)
	}
	page, none := b.page.Traffic(), b.Unrouted()
	for i, answer := range want {
		status, kind, _ := strings.Cut(answer, " ")
		if e := b.log[i]; strconv.Itoa(e.Status) != status || !strings.HasPrefix(e.Error, kind+": ") {
			b.t.Errorf("logged %+v, want %s", e, answer)
		}
		if page.Faults[kind]+none.Faults[kind] != uint64(strings.Count(answers, kind)) {
			b.t.Errorf("%s: counted %v, and %v without a page", kind, page.Faults, none.Faults)
		}
	}
}

// stop waits until the connection is closed, and ends the server.
func (b *bubble) stop() {
	synctest.Wait()
	must(b.t, b.server.Close())
	<-b.done
}

// oneConn is a listener with a single connection.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
