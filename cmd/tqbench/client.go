//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// browserFields are six headers as a browser sends them.
const browserFields = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: identity\r\nCookie: session=0123456789abcdef0123456789abcdef\r\nCache-Control: no-cache\r\n"

// requestsOf gives the bytes of the job's requests, made once.
func requestsOf(j job) (all [][]byte) {
	for _, path := range j.Paths {
		head := j.Method + " " + path + " HTTP/1.1\r\nHost: bench.example\r\n" + browserFields
		if j.Close {
			head += "Connection: close\r\n"
		}
		if j.Upload > 0 {
			head += fmt.Sprintf("Content-Length: %d\r\n", j.Upload)
		}
		all = append(all, []byte(head+"\r\n"+strings.Repeat("x", j.Upload)))
	}
	return all
}

// client asks over one connection at a time. It is not safe for concurrent use.
type client struct {
	addr     string
	want     int64     // bytes that an answer's body must have
	deadline time.Time // after which nothing is waited for
	once     bool      // a connection is for one request
	small    bool      // the buffer is: there are many
	next     int       // request

	conn net.Conn
	in   *bufio.Reader
	used bool // the connection has answered before

	answered, errors, retries uint64
	first                     error
	latency                   histogram
}

// ask makes one request and takes the answer. What is wrong is counted.
func (c *client) ask(requests [][]byte) {
	request := requests[c.next%len(requests)]
	c.next++
	c.settle(c.exchange(request), request)
}

// settle counts what became of a request, and makes it again if that may be.
func (c *client) settle(err error, request []byte) {
	if errors.Is(err, errClosedBefore) {
		c.retries++
		err = c.exchange(request)
	}
	if err != nil {
		c.fail(err)
		return
	}
	c.answered++
}

func (c *client) fail(err error) {
	c.errors++
	if c.first == nil {
		c.first = err
	}
	c.close()
}

// errClosedBefore means that a kept connection was closed by the other side without a byte of an answer. A client
// may then ask again: RFC 9110, section 9.2.2 and RFC 9112, section 9.3.1.
var errClosedBefore = errors.New("kept connection was closed before the answer")

func (c *client) exchange(request []byte) error {
	if err := c.send(request); err != nil {
		return err
	}
	return c.receive()
}

func (c *client) send(request []byte) error {
	if c.conn == nil {
		if err := c.dial(); err != nil {
			return err
		}
	}
	if _, err := c.conn.Write(request); err != nil {
		return c.broken(fmt.Errorf("send a request: %w", err))
	}
	return nil
}

func (c *client) receive() error {
	if _, err := c.in.Peek(1); err != nil {
		return c.broken(fmt.Errorf("await an answer: %w", err))
	}
	a, err := readAnswer(c.in)
	if err == nil && (a.status != 200 || a.length != c.want) {
		err = fmt.Errorf("answer is %d with %d bytes, not 200 with %d", a.status, a.length, c.want)
	}
	c.used = true
	if err != nil || a.close || c.once {
		c.close()
	}
	return err
}

// broken closes the connection and tells whether one may ask again on another.
func (c *client) broken(err error) error {
	var timeout net.Error
	again := c.used && !(errors.As(err, &timeout) && timeout.Timeout())
	c.close()
	if again {
		return fmt.Errorf("%w: %w", errClosedBefore, err)
	}
	return err
}

func (c *client) dial() error {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", c.addr)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(c.deadline); err != nil {
		return errors.Join(err, conn.Close())
	}
	size := 64 << 10
	if c.small {
		size = 2 << 10
	}
	if c.in == nil {
		c.in = bufio.NewReaderSize(conn, size)
	}
	c.in.Reset(conn)
	c.conn, c.used = conn, false
	return nil
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// answer is what is looked at of a response.
type answer struct {
	status int
	length int64 // of the body, without framing
	close  bool
}

// readAnswer reads one response to its end. Its body must be framed, by a length or in chunks.
func readAnswer(in *bufio.Reader) (a answer, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return a, fmt.Errorf("read status line: %w", err)
	}
	if a.status, err = statusOf(line); err != nil {
		return a, err
	}
	a.length = -1
	chunked := false
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return a, fmt.Errorf("read fields: %w", err)
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if a.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return a, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")):
			a.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	if chunked {
		a.length, err = discardChunks(in)
		return a, err
	}
	if a.length < 0 {
		return a, errors.New("answer has neither a length nor chunks")
	}
	if _, err = io.CopyN(io.Discard, in, a.length); err != nil {
		err = fmt.Errorf("read a body of %d bytes: %w", a.length, err)
	}
	return a, err
}

func statusOf(line []byte) (int, error) {
	if rest, ok := bytes.CutPrefix(line, []byte("HTTP/1.")); ok && len(rest) >= len("1 200") {
		if n, err := strconv.Atoi(string(rest[2:5])); err == nil && rest[1] == ' ' {
			return n, nil
		}
	}
	return 0, fmt.Errorf("status line is %q", line)
}

func discardChunks(in *bufio.Reader) (length int64, err error) {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return length, fmt.Errorf("read chunk: %w", err)
		}
		size, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(";"))
		n, err := strconv.ParseUint(string(size), 16, 31)
		if err != nil {
			return length, fmt.Errorf("read chunk: %w", err)
		}
		if n == 0 {
			return length, discardTrailers(in)
		}
		if _, err := in.Discard(int(n) + len("\r\n")); err != nil {
			return length, fmt.Errorf("read chunk: %w", err)
		}
		length += int64(n)
	}
}

func discardTrailers(in *bufio.Reader) error {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("read trailers: %w", err)
		}
		if len(line) <= 2 {
			return nil
		}
	}
}
