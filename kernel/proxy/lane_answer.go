package proxy

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// outLimit is from how many bytes on an answer is sent without waiting for more
// of it.
const outLimit = 16 << 10

var _ side = (*call)(nil)

func (k *call) context() context.Context { return &k.conn.leave }

func (k *call) watch(*workerConn) (unwatch func() bool) { return nil }

// path leaves alone what cannot disturb a log: all visible ASCII.
func (k *call) path() string {
	if isVisible(k.req.path) || k.req.path == "" {
		return k.req.path
	}
	u := url.URL{RawPath: k.req.path}
	u.Path, _ = url.PathUnescape(k.req.path)
	return u.EscapedPath()
}

func (k *call) values(to []string, name string) []string {
	for _, f := range k.req.fields {
		if f.name == name {
			to = append(to, f.value)
		}
	}
	return to
}

func (k *call) appendTarget(b []byte) []byte { return append(b, k.req.target...) }

func (k *call) appendHeader(b []byte) (_ []byte, ok bool) {
	var listed []string
	for _, f := range k.req.fields {
		if f.name == "Connection" {
			listed = appendListed(listed, f.value)
		}
	}
	for _, f := range k.req.fields {
		if k.x.passes(f.name, listed) {
			b = appendField(b, f.name, f.value)
		}
	}
	return b, true
}

// head begins the answer; its framing is made anew.
func (k *call) head(a *answer, bodiless bool) {
	dated := k.appendAnswer(a)
	switch {
	case a.saysLength(k.x.method, bodiless):
		k.out = appendField(k.out, "Content-Length", a.digits)
	case !bodiless && a.length < 0:
		k.chunked = true
		k.out = append(k.out, "Transfer-Encoding: chunked\r\n"...)
		if names := announced(a.fields); a.chunked && len(names) > 0 {
			k.out = appendField(k.out, "Trailer", strings.Join(names, ", "))
		}
	}
	k.out = appendField(k.out, requestIDHeader, k.x.id)
	k.endHead(a.status, dated)
}

// appendAnswer adds the status line and the end-to-end fields of an answer. It
// reports whether a Date is among them.
func (k *call) appendAnswer(a *answer) (dated bool) {
	k.out = appendStatus(k.out, a.status)
	listed := a.listed()
	for _, f := range a.fields {
		if isHopByHop(f.name) || isOurs(f.name) || listed != nil && slices.Contains(listed, f.name) {
			continue
		}
		dated = dated || f.name == "Date"
		k.out = appendField(k.out, f.name, f.value)
	}
	return dated
}

// endHead adds what every head has in the end.
func (k *call) endHead(status int, dated bool) {
	if !dated {
		k.out = append(append(append(k.out, "Date: "...), date(time.Now())...), "\r\n"...)
	}
	if k.closing = k.closing || k.conn.lane.stopping.Load(); k.closing {
		k.out = append(k.out, "Connection: close\r\n"...)
	}
	k.out = append(k.out, "\r\n"...)
	k.x.out.status, k.x.out.started = status, true
}

func (k *call) hint(a *answer) {
	k.appendAnswer(a)
	k.out = append(k.out, "\r\n"...)
	k.flush()
}

// Write adds p to what is sent next.
func (k *call) Write(p []byte) (int, error) {
	k.x.out.bytes.Add(int64(len(p)))
	if k.chunked {
		k.out = strconv.AppendInt(k.out, int64(len(p)), 16)
		k.out = append(k.out, "\r\n"...)
	}
	k.out = append(k.out, p...)
	if k.chunked {
		k.out = append(k.out, "\r\n"...)
	}
	if len(k.out) >= outLimit {
		k.flush()
	}
	return len(p), k.x.out.err
}

func (k *call) flush() {
	if len(k.out) == 0 || k.x.out.err != nil {
		return
	}
	k.arm()
	_, err := k.conn.tcp.Write(k.out)
	k.x.out.note(err)
	k.out = k.out[:0]
}

// arm gives the client until now + Timeouts.Write to take what comes next, or a
// little less, since the deadline is moved only now and then.
func (k *call) arm() {
	c, t := k.conn, k.x.limits.Write
	if t <= 0 {
		if !c.writable.IsZero() {
			c.writable = time.Time{}
			_ = c.tcp.SetWriteDeadline(c.writable)
		}
		return
	}
	now := time.Now()
	if left := c.writable.Sub(now); left < t-t/16 || left > t {
		c.writable = now.Add(t)
		_ = c.tcp.SetWriteDeadline(c.writable)
	}
}

func (k *call) splices() bool { return !k.chunked }

// splice moves src to the client within the kernel, if that can.
func (k *call) splice(src *io.LimitedReader) (int64, error) {
	if k.flush(); k.x.out.err != nil {
		return 0, k.x.out.err
	}
	k.arm()
	n, err := k.conn.tcp.ReadFrom(src)
	k.x.out.bytes.Add(n)
	return n, err
}

func (k *call) trailers(fields []field) {
	k.out = append(k.out, "0\r\n"...)
	for _, f := range fields {
		if isTrailer(f.name) {
			k.out = appendField(k.out, f.name, f.value)
		}
	}
	k.out = append(k.out, "\r\n"...)
	k.ended = true
}

func (k *call) refuse(status int, fields []field, body []byte) {
	k.out = appendStatus(k.out[:0], status)
	for _, f := range fields {
		k.out = appendField(k.out, f.name, f.value)
	}
	k.endHead(status, false)
	k.out = append(k.out, body...)
	k.x.out.bytes.Add(int64(len(body)))
	k.flush()
}

// proceed and hijack are for what this lane hands over.
func (k *call) proceed()                     {}
func (k *call) hijack() (*clientConn, error) { return nil, http.ErrNotSupported }

// appendStatus adds the status line that net/http writes.
func appendStatus(b []byte, status int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	if text := http.StatusText(status); text != "" {
		b = append(append(b, ' '), text...)
	} else {
		b = strconv.AppendInt(append(b, " status code "...), int64(status), 10)
	}
	return append(b, "\r\n"...)
}

// clock is a second in the form of a Date field.
type clock struct {
	second int64
	text   []byte
}

var lastClock atomic.Pointer[clock]

// date returns now as a Date field has it, made once a second.
func date(now time.Time) []byte {
	c := lastClock.Load()
	if second := now.Unix(); c == nil || c.second != second {
		c = &clock{second, now.UTC().AppendFormat(nil, http.TimeFormat)}
		lastClock.Store(c)
	}
	return c.text
}
