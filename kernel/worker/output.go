package worker

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxLine    = 64 << 10
	lateOutput = 1 << 20 // what a pipe can hold at most, unless root has raised it
	tailLines  = 20
	tailWidth  = 1 << 10
)

// readLines delivers what comes from the pipe, line by line, until its end.
func (w *Worker) readLines(stream Stream, file *os.File) {
	defer file.Close()
	in := bufio.NewReaderSize(&lastWords{file: file, left: lateOutput}, maxLine)
	for inside := false; ; { // inside a line of which a piece was delivered
		line, err := in.ReadSlice('\n')
		text := bytes.TrimSuffix(line, []byte("\n"))
		if len(text) > 0 || len(line) > 0 && !inside {
			w.deliver(stream, text)
		}
		inside = err == bufio.ErrBufferFull
		if err != nil && !inside {
			return
		}
	}
}

func (w *Worker) deliver(stream Stream, line []byte) {
	if stream == Stderr {
		w.tail.add(string(line[:min(len(line), tailWidth)]))
	}
	if w.spec.Output != nil {
		w.spec.Output(stream, time.Now(), bytes.Clone(line))
	}
}

// lastWords reads from a pipe until its end or, once its read deadline has passed, until it is empty: what is in the
// pipe when the process exits gets out even if something else keeps it open, or the reader is slow.
type lastWords struct {
	file *os.File
	late bool
	left int // bounds what is read late: what keeps the pipe open may write without end
}

func (r *lastWords) Read(p []byte) (int, error) {
	if !r.late {
		n, err := r.file.Read(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		r.late = true
		r.file.SetReadDeadline(time.Time{}) // or the next read would not even look
	}
	return r.readNow(p[:min(len(p), r.left)])
}

// readNow reads what is there, without waiting.
func (r *lastWords) readNow(p []byte) (int, error) {
	raw, err := r.file.SyscallConn()
	if err != nil || len(p) == 0 {
		return 0, io.EOF
	}
	n := 0
	raw.Read(func(fd uintptr) bool {
		for n, err = syscall.Read(int(fd), p); err == syscall.EINTR; {
			n, err = syscall.Read(int(fd), p)
		}
		return true
	})
	if err != nil || n <= 0 {
		return 0, io.EOF
	}
	r.left -= n
	return n, nil
}

// tail keeps the end of what was printed, and the line that says why a Go program crashed. The zero value is empty.
type tail struct {
	mu    sync.Mutex
	last  []string
	crash string // the newest such line that is no longer among last
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, line)
	if len(t.last) <= tailLines {
		return
	}
	if out := t.last[0]; strings.HasPrefix(out, "panic: ") || strings.HasPrefix(out, "fatal error: ") {
		t.crash = out
	}
	t.last = t.last[1:]
}

func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	if t.crash != "" {
		all = append(all, t.crash)
	}
	return append(all, t.last...)
}
