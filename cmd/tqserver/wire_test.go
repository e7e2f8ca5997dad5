//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// wire is a connection to the server on which a test writes what it likes.
type wire struct {
	*net.TCPConn
	t *testing.T
	r *bufio.Reader
}

// dial connects and sends text in one packet.
func (s *site) dial(text string) *wire {
	s.t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	w := &wire{conn.(*net.TCPConn), s.t, bufio.NewReader(conn)}
	w.send(text)
	return w
}

func (w *wire) send(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		w.t.Fatal(err)
	}
}

// answer reads an answer and its body; an informational one has none.
func (w *wire) answer(method string) (*http.Response, string) {
	w.t.Helper()
	res, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		w.t.Fatal(err)
	}
	if res.StatusCode < 200 {
		return res, ""
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("read the body of a %d: %v", res.StatusCode, err)
	}
	return res, string(body)
}

// openSocket makes a WebSocket and sends the first message along with the handshake.
func (s *site) openSocket(path, first string) *wire {
	s.t.Helper()
	w := s.dial("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + frame(1, first))
	res, _ := w.answer("GET")
	// The accept value is that of the example in RFC 6455, section 1.3.
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		s.t.Fatalf("handshake: %s %v", res.Status, res.Header)
	}
	return w
}

// frame is a masked WebSocket frame of up to 65,535 bytes.
func frame(opcode byte, text string) string {
	b := []byte{0x80 | opcode, 0x80 | 126}
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i := range len(text) {
		b = append(b, text[i]^mask[i%4])
	}
	return string(b)
}

// message reads an unmasked frame.
func (w *wire) message() (opcode byte, text string, err error) {
	head := make([]byte, 2, 4)
	if _, err := io.ReadFull(w.r, head); err != nil {
		return 0, "", err
	}
	n := int(head[1])
	if n == 126 {
		long := make([]byte, 2)
		if _, err := io.ReadFull(w.r, long); err != nil {
			return 0, "", err
		}
		n = int(binary.BigEndian.Uint16(long))
	}
	body := make([]byte, n)
	_, err = io.ReadFull(w.r, body)
	return head[0] & 0xf, string(body), err
}

func (w *wire) wantMessage(want string) {
	w.t.Helper()
	if _, text, err := w.message(); err != nil || text != want {
		w.t.Fatalf("got the message %.80q, %v; want %.80q", text, err, want)
	}
}

// hangUp ends a WebSocket as the protocol has it.
func (w *wire) hangUp() {
	w.t.Helper()
	w.endSocket()
	w.Close()
}

// endSocket has the page end a WebSocket, and leaves the client's side open.
func (w *wire) endSocket() {
	w.t.Helper()
	w.send(frame(8, "\x03\xe8"))
	if opcode, _, err := w.message(); err != nil || opcode != 8 {
		w.t.Errorf("the close was answered with %d, %v", opcode, err)
	}
	if _, err := w.r.ReadByte(); err != io.EOF {
		w.t.Errorf("after the close: %v, want the end", err)
	}
}

// openEvents begins to read server-sent events.
func (s *site) openEvents(path string) *bufio.Scanner {
	s.t.Helper()
	res, err := http.Get(s.url(path))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { res.Body.Close() })
	if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || got != "text/event-stream" {
		s.t.Fatalf("events: %s, %s", res.Status, got)
	}
	return bufio.NewScanner(res.Body)
}

// event reads up to the next event; "" is the end.
func event(lines *bufio.Scanner) string {
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			return data
		}
	}
	return ""
}
