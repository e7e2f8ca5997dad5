package rotator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tqserver/tqserver/sdk"
)

const (
	// stdoutVar names the descriptor of the server's standard output. The plugin's own is the protocol's.
	stdoutVar = "TQSERVER_STDOUT_FD"

	// pieceBytes is PIPE_BUF of Linux: a pipe takes so much at once, not mixed with what others write, and without
	// blocking when poll(2) says so.
	pieceBytes = 4096

	// stuckLimit is below the time limit of a call, so that the kernel learns the reason.
	stuckLimit = 2 * time.Second
)

// Stdout writes log lines as JSON, one object a line, to the standard output of the server. It is safe for concurrent
// use.
type Stdout struct {
	stuck  time.Duration // that a reader may read nothing
	turn   chan struct{} // held by the one that writes
	fd     int           // -1: not known yet
	stored ledger
	rest   []byte // of a line whose beginning is written
}

var _ sdk.Rotator = (*Stdout)(nil)

// NewStdout makes a rotator that looks for the descriptor with the first Write.
func NewStdout() *Stdout {
	return &Stdout{stuck: stuckLimit, turn: make(chan struct{}, 1), fd: -1, stored: ledger{}}
}

// ServeStdout runs a Stdout as a plugin.
func ServeStdout() { sdk.Serve("stdout", sdk.Version, NewStdout()) }

// Write writes the lines of a batch. After nil all of them went through write(2). When nobody reads, or nobody is left
// to, it gives an error within seconds; what is written by then is not written again when the stream's
// next batch has the same Seq, and a line that was begun is ended first.
func (s *Stdout) Write(ctx context.Context, b sdk.Batch) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	if err := s.open(); err != nil {
		return err
	}
	n, err := s.put(ctx, s.rest)
	s.rest = s.rest[n:]
	p := s.stored.of(b)
	for err == nil && p.lines < lineCount(b) {
		n, err = s.writeSome(ctx, b, p.lines)
		p.lines += n
	}
	p.all = p.lines == lineCount(b)
	s.stored.remember(b.Stream, p)
	return err
}

func (s *Stdout) open() error {
	if s.fd >= 0 {
		return nil
	}
	fd, err := strconv.Atoi(os.Getenv(stdoutVar))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("find the server's standard output: %s=%q is no open descriptor: a tqserver passes it to its rotator", stdoutVar, os.Getenv(stdoutVar))
	}
	s.fd = fd
	return nil
}

// writeSome writes lines from the given one on, as many as fit into one piece, and tells how many. One that was begun
// counts.
func (s *Stdout) writeSome(ctx context.Context, b sdk.Batch, from int) (int, error) {
	var buf []byte
	var ends []int
	for i := from; i < lineCount(b); i++ {
		line := jsonLine(b, i)
		if i > from && len(buf)+len(line) > pieceBytes {
			break
		}
		buf = append(buf, line...)
		ends = append(ends, len(buf))
	}
	n, err := s.put(ctx, buf)
	whole := sort.SearchInts(ends, n+1)
	if begun := append([]int{0}, ends...)[whole]; n > begun {
		s.rest = slices.Clone(buf[n:ends[whole]])
		whole++
	}
	return whole, err
}

// put writes p in pieces, and tells how much was written.
func (s *Stdout) put(ctx context.Context, p []byte) (n int, err error) {
	for n < len(p) {
		if err := s.await(ctx); err != nil {
			return n, err
		}
		m, err := unix.Write(s.fd, p[n:min(n+pieceBytes, len(p))])
		n += max(m, 0)
		if err != nil && err != unix.EINTR && err != unix.EAGAIN {
			return n, fmt.Errorf("write standard output: %w", err)
		}
	}
	return n, nil
}

var errStuck = errors.New("write standard output: nothing reads it: see to the program that does, the lines are kept meanwhile")

// await waits until a piece can be written without blocking. The descriptor cannot be made non-blocking: other
// processes have it, too.
func (s *Stdout) await(ctx context.Context) error {
	for limit := time.Now().Add(s.stuck); ctx.Err() == nil; {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds, 100)
		switch {
		case n > 0: // also when the reader is gone: the write tells
			return nil
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("wait for standard output: %w", err)
		case time.Now().After(limit):
			return errStuck
		}
	}
	return ctx.Err()
}

// record is a line in JSON, as `tqserver logs --json` prints it, and with the page.
type record struct {
	Time    time.Time `json:"time"`
	Stream  string    `json:"stream"`
	Source  string    `json:"source"`
	Page    string    `json:"page,omitempty"`
	Worker  string    `json:"worker,omitempty"`
	Release string    `json:"release,omitempty"`
	Text    string    `json:"text"`
}

// jsonLine formats line i. JSON has an escape for whatever could forge another line; what is not UTF-8 is replaced.
func jsonLine(b sdk.Batch, i int) []byte {
	l, _ := lineAt(b, i)
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(record{Time: l.Time.UTC(), Stream: b.Stream, Source: l.Source.String(), Page: b.Page, Worker: b.Worker,
		Release: b.Release, Text: string(bytes.TrimSuffix(l.Text, []byte{'\r'}))}) // strings and a year of four digits
	return out.Bytes()
}
