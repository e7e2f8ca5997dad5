package proxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
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

// pass copies the answer to the client.
func (t *trip) pass() error {
	t.upload.unlimit(t.c)
	bodiless := t.answer.bodiless(t.x.in.Method)
	t.copyHeader(bodiless)
	t.x.out.WriteHeader(t.answer.status)
	switch {
	case bodiless:
		if t.answer.status == http.StatusNoContent && (t.answer.chunked || t.answer.length > 0) {
			t.answer.last = true // a body may follow all the same
		}
		t.whole = true
		return nil
	case t.answer.chunked:
		return t.copyChunks()
	case t.answer.length >= 0:
		return t.copyLength(t.answer.length)
	}
	return t.copyToEnd()
}

// copyHeader gives the client what the header says to it.
func (t *trip) copyHeader(bodiless bool) {
	h := t.x.out.Header()
	a := &t.answer
	values := addFields(h, a, 2)
	if a.length >= 0 && (!bodiless || t.x.in.Method == http.MethodHead || a.status == http.StatusNotModified) {
		values = setField(h, values, "Content-Length", a.digits)
	}
	setField(h, values, requestIDHeader, t.x.id)
	if a.chunked && !bodiless {
		if names := announced(a.fields); len(names) > 0 {
			h["Trailer"] = []string{strings.Join(names, ", ")}
		}
	}
}

// addFields adds the end-to-end fields of an answer to h. It returns room for
// more values.
func addFields(h http.Header, a *answer, more int) []string {
	values := make([]string, 0, len(a.fields)+more) // one allocation for all
	listed := a.listed()
	for _, f := range a.fields {
		if isHopByHop(f.name) || isOurs(f.name) || listed != nil && slices.Contains(listed, f.name) {
			continue
		}
		if said, ok := h[f.name]; ok {
			h[f.name] = append(said, f.value)
			continue
		}
		values = setField(h, values, f.name, f.value)
	}
	return values
}

// isOurs reports whether the proxy, and not the worker, says the field.
func isOurs(name string) bool {
	return name == "Content-Length" || name == requestIDHeader || name == errorHeaderKey
}

func setField(h http.Header, values []string, name, value string) []string {
	values = append(values, value)
	last := len(values)
	h[name] = values[last-1 : last : last]
	return values
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

// hint passes an informational answer on.
func (t *trip) hint() {
	if !t.x.in.ProtoAtLeast(1, 1) {
		return // HTTP/1.0 knows none
	}
	h := t.x.out.Header()
	addFields(h, &t.answer, 0)
	t.x.out.WriteHeader(t.answer.status)
	for _, f := range t.answer.fields {
		delete(h, f.name)
	}
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
		if to, ok := t.x.out.ResponseWriter.(io.ReaderFrom); ok && min(n, pending) >= spliceMin {
			moved, err := t.splice(to, min(n, pending, splicePart))
			if n -= moved; err != nil {
				return err
			}
		} else if err := t.fill(n); err != nil {
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
			err = t.fill(int64(len(t.in)))
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

// copyChunks copies a chunked body and sets the trailers that follow it.
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
			text := string(t.in[t.r : t.r+end])
			t.r += end
			if t.trailers, err = appendFields(t.trailers[:0], text); err != nil {
				return err
			}
			t.setTrailers()
			t.whole = true
			return nil
		}
		from = next
		if err := t.more(); err != nil {
			return err
		}
	}
}

// setTrailers has net/http send the trailers: under their names if they were
// announced, else as its TrailerPrefix wants it.
func (t *trip) setTrailers() {
	names := announced(t.answer.fields)
	h := t.x.out.Header()
	for _, name := range names {
		delete(h, name) // a field of the header, which net/http has passed on, is no trailer
	}
	if len(t.trailers) == 0 {
		return
	}
	t.flush() // or net/http counts a short body, and has no place for trailers
	for _, f := range t.trailers {
		if !isTrailer(f.name) {
			continue
		}
		name := f.name
		if !slices.Contains(names, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = append(h[name], f.value)
	}
}

// give passes on a piece that was read.
func (t *trip) give(piece []byte) error {
	if len(piece) == 0 {
		return nil
	}
	t.r += len(piece)
	_, err := t.x.out.Write(piece)
	return err
}

// flush sends what net/http buffers.
func (t *trip) flush() error {
	_ = t.x.out.FlushError() // an error that matters is noted
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
// client gets what there is, and is watched from now on.
func (t *trip) ready() (int64, error) {
	if !t.streaming {
		t.streaming, t.patient = true, true
		_ = t.c.SetDeadline(time.Time{})
	}
	pending := t.c.pending()
	if pending > 0 {
		return pending, nil
	}
	t.watch()
	return 0, t.flush()
}

// fill replaces what was passed on by up to n bytes more.
func (t *trip) fill(n int64) error {
	t.r, t.w = 0, 0
	k, err := t.c.Read(t.in[:min(n, int64(len(t.in)))])
	t.w = k
	if k > 0 {
		return nil // an error comes again
	}
	return err
}

// splice moves n bytes that the connection has pending to the client.
func (t *trip) splice(to io.ReaderFrom, n int64) (int64, error) {
	t.r, t.w = 0, 0
	t.c.part.N = n
	moved, err := t.x.out.readFrom(to, &t.c.part)
	if err != nil && (isTimeout(err) || !t.c.gone()) {
		t.x.out.note(err)
	}
	return moved, err
}
