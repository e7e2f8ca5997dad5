package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// tunnelBuffer is small, since many upgraded connections are quiet for long.
const tunnelBuffer = 4 << 10

// errUpgrade is a 101 that does not fit the request.
var errUpgrade = errors.New("proxy: worker switched to a protocol that was not asked for")

// askedUpgrade returns the protocol that a request without a body offers, or
// "". HTTP/2 without TLS is not offered to workers.
func askedUpgrade(h http.Header) string {
	protocol := h.Get("Upgrade")
	if protocol == "" || strings.EqualFold(protocol, "h2c") || !isFieldValue(protocol) {
		return ""
	}
	if slices.ContainsFunc(h["Connection"], func(line string) bool { return hasToken(line, "upgrade") }) {
		return protocol
	}
	return ""
}

// switchProtocols passes a 101 on and then bytes both ways, until both sides
// have ended or one fails.
func (t *trip) switchProtocols() error {
	got := t.answer.upgrade()
	if t.x.upgrade == "" || !strings.EqualFold(t.x.upgrade, got) {
		return fmt.Errorf("%w: %q, asked for %q", errUpgrade, got, t.x.upgrade)
	}
	_ = t.c.SetDeadline(time.Time{})
	t.watch()
	client, err := t.x.side.hijack()
	if err != nil {
		return fmt.Errorf("take over the client's connection: %w", err)
	}
	defer client.Close()
	if _, err := client.Conn.Write(t.appendSwitch(nil, got)); err != nil {
		t.x.out.note(err)
		return err
	}
	both := &tunnel{client: client, worker: t.c}
	both.run(t.in[t.r:t.w])
	if both.byClient {
		t.x.out.note(both.err)
	}
	return both.err
}

// appendSwitch adds the head of the 101 for the client to b.
func (t *trip) appendSwitch(b []byte, protocol string) []byte {
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"...)
	b = appendField(b, "Upgrade", protocol)
	b = appendField(b, requestIDHeader, t.x.id)
	listed := t.answer.listed()
	for _, f := range t.answer.fields {
		if !isHopByHop(f.name) && !isOurs(f.name) && !slices.Contains(listed, f.name) {
			b = appendField(b, f.name, f.value)
		}
	}
	return append(b, "\r\n"...)
}

// tunnel is an upgraded connection: what is left of a request once it speaks
// another protocol.
type tunnel struct {
	client *clientConn
	worker *workerConn

	mu       sync.Mutex
	ended    bool  // the worker has said all, and the client got it
	err      error // that of the side which failed first
	byClient bool  // that was the client
}

// half is a connection of which one direction can end before the other.
type half interface {
	io.ReadWriter
	CloseWrite() error
}

// run returns when both directions have ended. early is what came from the
// worker before.
func (t *tunnel) run(early []byte) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.relay(t.worker, t.client, nil)
	}()
	t.relay(t.client, t.worker, early)
	<-done
}

// relay copies early and then src to dst, and passes the end of src on.
func (t *tunnel) relay(dst, src half, early []byte) {
	buf := make([]byte, tunnelBuffer)
	n := len(early)
	piece := early
	var err error
	for {
		if n > 0 {
			if _, failed := dst.Write(piece); failed != nil {
				t.fail(dst, failed)
				return
			}
		}
		if err != nil {
			break
		}
		n, err = src.Read(buf)
		piece = buf[:n]
	}
	if err != io.EOF {
		t.fail(src, err)
		return
	}
	if dst == half(t.client) {
		t.end()
	}
	if err := dst.CloseWrite(); err != nil {
		t.fail(dst, err)
	}
}

// end notes that whatever happens from now on is no failure.
func (t *tunnel) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
}

// fail ends both directions because of one side.
func (t *tunnel) fail(side half, err error) {
	t.mu.Lock()
	if t.err == nil && !t.ended {
		t.err, t.byClient = err, side == half(t.client)
	}
	t.mu.Unlock()
	t.client.Close()
	t.worker.Close()
}
