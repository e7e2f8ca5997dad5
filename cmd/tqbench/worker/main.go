// Command worker is the page behind every proxy that tqbench measures: it answers every request with as many bytes as
// the last segment of its path says. It speaks HTTP/1.1 by hand, so that it costs little beside the proxy.
//
// It listens on the unix socket TQ_SOCKET if that is set, otherwise on 127.0.0.1 at the port TQ_PORT. It trusts the
// proxy in front of it and must not be asked by anybody else.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"sync"
)

// revision is what a save changes, so that a new release is built.
const revision = "0"

const largest = 16 << 20 // body of an answer, in bytes

func main() {
	l, err := listen()
	if err != nil {
		log.Fatal(err)
	}
	if fd, err := strconv.Atoi(os.Getenv("TQ_READY_FD")); err == nil {
		_, _ = os.NewFile(uintptr(fd), "ready").WriteString("1") // without a reader GET /health tells it
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(c)
	}
}

func listen() (net.Listener, error) {
	if path := os.Getenv("TQ_SOCKET"); path != "" {
		return net.Listen("unix", path)
	}
	port := os.Getenv("TQ_PORT")
	if port == "" {
		return nil, errors.New("neither TQ_SOCKET nor TQ_PORT is set: where to listen?")
	}
	return net.Listen("tcp", "127.0.0.1:"+port)
}

// serve answers one request after the other until the proxy closes the connection.
func serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 64<<10)
	for {
		r, err := readHead(in)
		if err == nil {
			err = r.discardBody(in)
		}
		if err != nil {
			return
		}
		if _, err := c.Write(answer(r.size)); err != nil || r.close {
			return
		}
	}
}

// request is what the worker needs to know of one.
type request struct {
	size    int   // of the answer; -1: unknown path
	length  int64 // of the body
	chunked bool
	close   bool
}

func readHead(in *bufio.Reader) (r request, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return r, err
	}
	words := bytes.Fields(line)
	if len(words) != 3 {
		return r, fmt.Errorf("request line %q", line)
	}
	r.size = sizeOf(words[1])
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return r, err
		}
		if len(line) <= 2 {
			return r, nil
		}
		if err := r.field(line); err != nil {
			return r, err
		}
	}
}

func sizeOf(target []byte) int {
	path, _, _ := bytes.Cut(target, []byte("?"))
	if bytes.Equal(path, []byte("/health")) {
		return len("OK")
	}
	n, err := strconv.Atoi(string(path[bytes.LastIndexByte(path, '/')+1:]))
	if err != nil || n < 0 || n > largest {
		return -1
	}
	return n
}

func (r *request) field(line []byte) (err error) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimSpace(value)
	switch len(name) {
	case len("Content-Length"):
		if bytes.EqualFold(name, []byte("Content-Length")) {
			r.length, err = strconv.ParseInt(string(value), 10, 64)
		}
	case len("Transfer-Encoding"):
		if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			r.chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	case len("Connection"):
		if bytes.EqualFold(name, []byte("Connection")) {
			r.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	return err
}

func (r *request) discardBody(in *bufio.Reader) error {
	if !r.chunked {
		_, err := io.CopyN(io.Discard, in, r.length)
		return err
	}
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := in.Discard(int(n) + len("\r\n")); err != nil || n == 0 {
			return err
		}
	}
}

// answers are whole responses by size, made once.
var answers sync.Map

func answer(size int) []byte {
	if b, ok := answers.Load(size); ok {
		return b.([]byte)
	}
	status := "200 OK"
	body := bytes.Repeat([]byte("x"), max(size, 0))
	if size < 0 {
		status = "404 Not Found"
	}
	head := fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/octet-stream\r\nX-Revision: %s\r\nContent-Length: %d\r\n\r\n", status, revision, len(body))
	b, _ := answers.LoadOrStore(size, append([]byte(head), body...))
	return b.([]byte)
}
