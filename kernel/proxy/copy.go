package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	// spliceMin is from how many bytes on the kernel moves them from one
	// connection to the other by itself, and splicePart how many at most
	// while the client gets one write timeout for them.
	spliceMin  = 16 << 10
	splicePart = 64 << 10

	maxChunkLine = 4 << 10
)

// errStreamIdle is an answer that did not go on in time.
var errStreamIdle = errors.New("proxy: worker sent nothing")

// pass copies the answer to the client.
func (t *trip) pass() error {
	t.upload.unlimit(t.c)
	bodiless := t.answer.bodiless(t.x.method)
	t.x.side.head(&t.answer, bodiless)
	switch {
	case bodiless:
		if t.answer.status == http.StatusNoContent && (t.answer.chunked || t.answer.length > 0) {
			t.answer.last = true // a body may follow all the same
		}
		t.whole, t.blind = true, true // some send a body all the same
		return nil
	case t.answer.chunked:
		return t.copyChunks()
	case t.answer.length >= 0:
		return t.copyLength(t.answer.length)
	}
	return t.copyToEnd()
}

// isOurs reports whether the proxy, and not the worker, says the field.
func isOurs(name string) bool {
	return name == "Content-Length" || name == requestIDHeader || name == errorHeaderKey
}

// announced returns the trailers that a header promises.
func announced(fields []field) (names []string) {
	for _, f := range fields {
		if f.name == "Trailer" {
			for _, name := range appendListed(nil, f.value) {
				if isTrailer(name) && isFieldName(name) {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// copyLength copies n bytes.
func (t *trip) copyLength(n int64) error {
	for {
		piece := t.in[t.r:t.w]
		piece = piece[:min(n, int64(len(piece)))]
		if err := t.give(piece); err != nil {
			return err
		}
		n -= int64(len(piece))
		if n == 0 {
			t.whole = true
			return nil
		}
		pending, err := t.ready()
		if err != nil {
			return err
		}
		if min(n, pending) >= spliceMin && t.x.side.splices() {
			moved, err := t.splice(min(n, pending, splicePart))
			if n -= moved; err != nil {
				return err
			}
		} else if err := t.fill(); err != nil {
			return early(err)
		}
	}
}

// copyToEnd copies until the worker closes the connection.
func (t *trip) copyToEnd() error {
	t.answer.last = true
	for {
		if err := t.give(t.in[t.r:t.w]); err != nil {
			return err
		}
		_, err := t.ready()
		if err == nil {
			err = t.fill()
		}
		if err == io.EOF {
			t.whole = true
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyChunks copies a chunked body and the trailers that follow it.
func (t *trip) copyChunks() error {
	for {
		line, err := t.line()
		if err != nil {
			return err
		}
		n, err := parseChunkSize(line)
		if err != nil {
			return err
		}
		if n == 0 {
			return t.copyTrailers()
		}
		if err := t.copyChunk(n); err != nil {
			return err
		}
	}
}

// copyChunk copies a chunk of n bytes and passes over the CRLF behind it.
func (t *trip) copyChunk(n int64) error {
	for {
		piece := t.in[t.r:t.w]
		piece = piece[:min(n, int64(len(piece)))]
		if err := t.give(piece); err != nil {
			return err
		}
		if n -= int64(len(piece)); n == 0 {
			break
		}
		if err := t.more(); err != nil {
			return err
		}
	}
	for _, c := range []byte("\r\n") {
		if t.r == t.w {
			if err := t.more(); err != nil {
				return err
			}
		}
		if t.in[t.r] != c {
			return fmt.Errorf("%w: no CRLF after a chunk", errFraming)
		}
		t.r++
	}
	return nil
}

// line returns the next line without its CRLF.
func (t *trip) line() ([]byte, error) {
	for {
		have := t.in[t.r:t.w]
		end := indexLF(have)
		if end > 0 && have[end-1] == '\r' {
			t.r += end + 1
			return have[:end-1], nil
		}
		if end >= 0 || len(have) > maxChunkLine {
			return nil, fmt.Errorf("%w: chunk size %.40q", errFraming, have)
		}
		if err := t.more(); err != nil {
			return nil, err
		}
	}
}

// copyTrailers passes on what follows the last chunk.
func (t *trip) copyTrailers() error {
	for from := 0; ; {
		end, next, err := fieldsEnd(t.in[t.r:t.w], from)
		if err != nil {
			return err
		}
		if end > 0 {
			text := t.text(t.in[t.r:t.r+end], 0)
			t.r += end
			if t.trailers, err = appendFields(t.trailers[:0], text); err != nil {
				return err
			}
			t.x.side.trailers(t.trailers)
			t.whole = true
			return nil
		}
		from = next
		if err := t.more(); err != nil {
			return err
		}
	}
}

// give passes on a piece that was read.
func (t *trip) give(piece []byte) error {
	if len(piece) == 0 {
		return nil
	}
	t.r += len(piece)
	_, err := t.x.side.Write(piece)
	return err
}

// flush sends what the side buffers.
func (t *trip) flush() error {
	t.x.side.flush()
	return t.x.out.err
}

// more appends to t.in, and lets the client have what there is before it
// waits.
func (t *trip) more() error {
	if _, err := t.ready(); err != nil {
		return err
	}
	if err := t.room(); err != nil {
		return err
	}
	return t.read()
}

// ready returns how much can be read without waiting. If that is nothing, the
// client gets what there is, and is watched from now on. If it is not, what
// limited the wait for it must not limit what follows: it may be the client that
// takes its time.
func (t *trip) ready() (int64, error) {
	if !t.streaming {
		t.streaming = true
		_ = t.c.SetDeadline(time.Time{})
	}
	pending := t.c.pending()
	if pending > 0 {
		if t.limited {
			t.limited = false
			_ = t.c.SetReadDeadline(time.Time{})
		}
		return pending, nil
	}
	if err := t.flush(); err != nil {
		return 0, err
	}
	t.watch()
	t.standStill()
	return 0, nil
}

// standStill limits how long the worker may send nothing, now that the client
// has all there was.
func (t *trip) standStill() {
	now := time.Time{}
	t.deadline, t.pause = time.Time{}, 0
	limit := t.e.o.StreamIdleTimeout
	if limit > 0 || t.unwatch == nil {
		now = time.Now()
	}
	if limit > 0 {
		t.deadline = now.Add(limit)
	}
	t.attend(now)
}

// fill replaces what was passed on by what comes next, also if that is more than
// belongs to the answer: it would be the next one's.
func (t *trip) fill() error {
	t.r, t.w, t.blind = 0, 0, false
	for {
		k, err := t.c.Read(t.in)
		t.w = k
		switch {
		case k > 0:
			return nil // an error comes again
		case !errors.Is(err, os.ErrDeadlineExceeded) || !t.extend():
			return t.named(err)
		}
	}
}

// splice moves n bytes that the connection has pending to the client.
func (t *trip) splice(n int64) (int64, error) {
	t.r, t.w, t.blind = 0, 0, true
	t.c.part.N = n
	moved, err := t.x.side.splice(&t.c.part)
	if err != nil && (isTimeout(err) || !t.c.gone()) {
		t.x.out.note(err)
	}
	return moved, err
}
