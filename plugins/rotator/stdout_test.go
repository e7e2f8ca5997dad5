package rotator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// newTestStdout makes a rotator that writes to f.
func newTestStdout(t *testing.T, f *os.File) *Stdout {
	t.Helper()
	t.Setenv(stdoutVar, strconv.Itoa(int(f.Fd())))
	return NewStdout()
}

// pipe gives one of which both ends are closed with the test.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// records parses what was written.
func records(t *testing.T, text []byte) (all []record) {
	t.Helper()
	for line := range bytes.Lines(text) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil || line[len(line)-1] != '\n' {
			t.Fatalf("no JSON line: %.100q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

func TestLinesAreJSON(t *testing.T) {
	r, w := pipe(t)
	at := time.Date(2026, 1, 31, 12, 0, 0, 1000, time.FixedZone("", 3600))
	b := sdk.Batch{Seq: 1, Stream: "api/users", Page: "api/users", Release: "abcdef0123456789", Worker: "w7", Dropped: 3, Lines: []sdk.Line{
		{Time: at, Source: sdk.Stdout, Text: []byte("<a> \"b\"\x1b[31m\u2028\xff\r")}, {Time: at, Source: sdk.Stderr}}}
	s := newTestStdout(t, w)
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), sdk.Batch{Seq: 1, Stream: "server", Lines: []sdk.Line{{Time: at, Source: sdk.Kernel, Text: []byte("live")}}}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	const fields = `"page":"api/users","worker":"w7","release":"abcdef0123456789","text":`
	const want = `{"time":"2026-01-31T11:00:00.000001Z","stream":"api/users","source":"kernel",` + fields + `"3 lines before this one are lost: they could not be stored in time"}
{"time":"2026-01-31T11:00:00.000001Z","stream":"api/users","source":"stdout",` + fields + `"<a> \"b\"\u001b[31m\u2028\ufffd"}
{"time":"2026-01-31T11:00:00.000001Z","stream":"api/users","source":"stderr",` + fields + `""}
{"time":"2026-01-31T11:00:00.000001Z","stream":"server","source":"kernel","text":"live"}
`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	records(t, got)
}

// numbered is a batch of lines from 0 on, some of them longer than what a pipe takes at once, or than a pipe.
func numbered(stream string, n int) sdk.Batch {
	b := sdk.Batch{Seq: 1, Stream: stream, Page: stream}
	for i := range n {
		size := []int{10, 900, pieceBytes, 3 * pieceBytes, 100_000}[i%5]
		b.Lines = append(b.Lines, sdk.Line{Time: time.Now(), Source: sdk.Stdout, Text: fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", size))})
	}
	return b
}

// TestStuckReader: nobody reads, which ends each Write with an error; then somebody does. All lines arrive, once, whole
// and in order, also those of another stream that came meanwhile.
func TestStuckReader(t *testing.T) {
	r, w := pipe(t)
	s := newTestStdout(t, w)
	s.stuck = 100 * time.Millisecond
	a, b := numbered("a", 50), numbered("b", 5)
	for _, batch := range []sdk.Batch{a, b, a} {
		if err := s.Write(t.Context(), batch); !errors.Is(err, errStuck) {
			t.Fatalf("Write with nobody who reads: %v", err)
		}
	}
	got := make(chan []byte)
	go func() { text, _ := io.ReadAll(r); got <- text }()
	for _, batch := range []sdk.Batch{b, a, a} { // the last one is stored already
		if err := s.Write(t.Context(), batch); err != nil {
			t.Error(err)
		}
	}
	w.Close()
	next := map[string]int{}
	for _, r := range records(t, <-got) {
		if !strings.HasPrefix(r.Text, fmt.Sprint(next[r.Page], " ")) {
			t.Fatalf("line %.10q of %s comes where %d belongs", r.Text, r.Page, next[r.Page])
		}
		next[r.Page]++
	}
	if next["a"] != 50 || next["b"] != 5 {
		t.Errorf("lines written: %v", next)
	}
}

// TestStuckWriteEndsWithItsContext, also while another one waits for its turn.
func TestStuckWriteEndsWithItsContext(t *testing.T) {
	_, w := pipe(t)
	s := newTestStdout(t, w)
	s.stuck = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	for range 2 {
		go func() { errs <- s.Write(ctx, numbered("a", 50)) }()
	}
	cancel()
	for range 2 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("Write = %v", err)
		}
	}
}

func TestReaderThatIsGone(t *testing.T) {
	r, w := pipe(t)
	s := newTestStdout(t, w)
	r.Close()
	for range 2 {
		if err := s.Write(t.Context(), numbered("a", 2)); !errors.Is(err, syscall.EPIPE) || !strings.HasPrefix(err.Error(), "write standard output: ") {
			t.Errorf("Write = %v", err)
		}
	}
}

func TestStdoutThatIsNotThere(t *testing.T) {
	for _, fd := range []string{"", "x", "-1", "987654"} {
		t.Setenv(stdoutVar, fd)
		err := NewStdout().Write(t.Context(), numbered("a", 1))
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("TQSERVER_STDOUT_FD=%q is no open descriptor", fd)) {
			t.Errorf("%s=%q: %v", stdoutVar, fd, err)
		}
	}
}

func TestLedgerForgetsStreamsThatAreStored(t *testing.T) {
	l := ledger{}
	open := sdk.Batch{Seq: 7, Stream: "open"}
	l.remember("open", progress{seq: 7, lines: 3})
	for i := range 3 * streamLimit {
		l.remember(strconv.Itoa(i), progress{seq: 1, all: true})
	}
	if got := l.of(open); got.lines != 3 || len(l) > streamLimit {
		t.Errorf("%d streams are remembered, of the open one %+v", len(l), got)
	}
	if l.remember("0", progress{all: true}); l.of(sdk.Batch{Stream: "0"}).all {
		t.Error("a batch without a number is taken for stored")
	}
}
