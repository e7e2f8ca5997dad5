package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/proxy"
)

const (
	http2Begin  = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" // with settings, which are empty
	http2GoAway = 7
)

// http2Frames returns the types of the whole frames in b.
func http2Frames(b []byte) (types []byte) {
	for len(b) >= 9 {
		types = append(types, b[3])
		b = b[min(len(b), 9+int(binary.BigEndian.Uint32(b)>>8)):]
	}
	return types
}

// tappedConn remembers what was read.
type tappedConn struct {
	net.Conn
	mu   sync.Mutex
	read bytes.Buffer
}

func (c *tappedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read.Write(p[:n])
	return n, err
}

func (c *tappedConn) frames() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return http2Frames(c.read.Bytes())
}

// http2Front is a front whose pages are h.
func http2Front(t *testing.T, fast bool, h http.HandlerFunc) *front {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := proxy.New(proxy.Options{})
	srv := p.Server("", func() (time.Duration, time.Duration) { return time.Minute, time.Minute })
	srv.Handler = h
	f := newFront(lis, srv, func(error) {})
	limit := func() time.Duration { return time.Minute }
	f.accelerate(p, proxy.LaneOptions{ReadHeader: limit, Idle: limit}, func() bool { return fast })
	f.done.Go(func() { _ = f.run() })
	return f
}

// http2Client is a client of f and the connection that it is going to have.
func http2Client(t *testing.T, f *front) (*http.Client, *tappedConn) {
	t.Helper()
	conn := &tappedConn{Conn: dialFront(t, f)}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}, conn
}

func dialFront(t *testing.T, f *front) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// TestFrontShutsDownHTTP2: a connection without a request is told and closed while the request of another is under way,
// which is answered to its end before that is told and closed.
func TestFrontShutsDownHTTP2(t *testing.T) {
	for _, fast := range []bool{false, true} {
		t.Run(fmt.Sprint("fast ", fast), func(t *testing.T) {
			release := make(chan struct{})
			f := http2Front(t, fast, func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, "begun, ")
				_ = http.NewResponseController(w).Flush()
				<-release
				io.WriteString(w, "ended")
			})
			idle := dialFront(t, f)
			if _, err := io.WriteString(idle, http2Begin); err != nil {
				t.Fatal(err)
			}
			ack := make([]byte, 1)
			if _, err := io.ReadFull(idle, ack); err != nil {
				t.Fatal(err)
			}
			c, conn := http2Client(t, f)
			res, err := c.Get("http://" + f.lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- f.shutdown(t.Context()) }()
			rest, err := io.ReadAll(idle)
			if types := http2Frames(append(ack, rest...)); err != nil || !slices.Contains(types, http2GoAway) {
				t.Errorf("without a request: frames %v, %v", types, err)
			}
			select {
			case err := <-ended:
				t.Error("not waited for the other: ", err)
			default:
			}
			close(release)
			body, err := io.ReadAll(res.Body)
			if string(body) != "begun, ended" || err != nil || res.Proto != "HTTP/2.0" {
				t.Errorf("%s %q, %v", res.Proto, body, err)
			}
			if err := errors.Join(<-ended, f.close()); err != nil {
				t.Error(err)
			}
			if types := conn.frames(); !slices.Contains(types, http2GoAway) {
				t.Errorf("with a request: frames %v", types)
			}
		})
	}
}

// TestFrontDoesNotWaitForHTTP2ThatBeginsLate: the connection was there before the shutdown, but not what it is for.
func TestFrontDoesNotWaitForHTTP2ThatBeginsLate(t *testing.T) {
	f := http2Front(t, false, func(http.ResponseWriter, *http.Request) {})
	f.settling = time.Minute
	conn := dialFront(t, f)
	awaitConnections(t, f, 1)
	ended := make(chan error, 1)
	go func() { ended <- f.shutdown(t.Context()) }()
	<-f.cur.in.closed
	if _, err := io.WriteString(conn, http2Begin); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Error(err)
	}
	if err := errors.Join(<-ended, f.close()); err != nil {
		t.Error(err)
	}
}
