package kernel

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/kernel/spool"
	"github.com/tqserver/tqserver/sdk"
)

// accessLog writes a line for each request, in the format of the kernel's logger, which it goes past: that takes
// several times as long as to proxy a request may cost. Safe for concurrent use.
type accessLog struct {
	k      *Kernel
	header atomic.Pointer[accessHeader]
	lines  sync.Pool // of *[]byte
}

// accessHeader is made once for each configuration.
type accessHeader struct {
	of     *config.Config
	header spool.Header
}

func newAccessLog(k *Kernel) *accessLog {
	return &accessLog{k: k, lines: sync.Pool{New: func() any { return ptr(make([]byte, 0, 512)) }}}
}

// write keeps nothing of e.
func (a *accessLog) write(e *proxy.Entry) {
	if !a.k.log.IsInfo() {
		return
	}
	at := e.Time.Add(e.Duration)
	line := a.lines.Get().(*[]byte)
	b := at.AppendFormat((*line)[:0], time.RFC3339Nano)
	b = append(b, " [INFO]  "...)
	head := len(b)
	b = appendRequest(b, e)
	text := len(b)
	b = appendParts(b, e)
	a.k.spool.Append(a.current(), sdk.Line{Time: at, Source: sdk.Kernel, Text: b})
	if sink := a.k.console.sink; sink != nil {
		sink.Accept("", hclog.Info, string(b[head:text]), parts(e)...)
	}
	*line = b
	a.lines.Put(line)
}

func (a *accessLog) current() spool.Header {
	c := a.k.config()
	h := a.header.Load()
	if h == nil || h.of != c {
		h = &accessHeader{c, a.k.serverHeader()}
		a.header.Store(h)
	}
	return h.header
}

// appendRequest writes the line of the specification: METHOD PATH - STATUS DURATION.
func appendRequest(b []byte, e *proxy.Entry) []byte {
	b = append(append(b, e.Method...), ' ')
	b = append(append(b, e.Path...), " - "...)
	b = append(strconv.AppendInt(b, int64(e.Status), 10), ' ')
	return appendDuration(b, e.Duration.Round(time.Microsecond))
}

// appendDuration writes what d.String gives, for the usual ones without an allocation.
func appendDuration(b []byte, d time.Duration) []byte {
	switch {
	case d <= 0 || d >= time.Minute || d%time.Microsecond != 0:
		return append(b, d.String()...)
	case d < time.Millisecond:
		return append(strconv.AppendInt(b, d.Microseconds(), 10), "µs"...)
	case d < time.Second:
		return append(appendThousandths(b, int64(d/time.Microsecond), 1_000), "ms"...)
	}
	return append(appendThousandths(b, int64(d/time.Microsecond), 1_000_000), 's')
}

// appendThousandths writes n/unit, a power of ten, without zeros at the end.
func appendThousandths(b []byte, n, unit int64) []byte {
	b = strconv.AppendInt(b, n/unit, 10)
	rest := n % unit
	if rest == 0 {
		return b
	}
	b = append(b, '.')
	for rest > 0 {
		unit /= 10
		b = append(b, byte('0'+rest/unit))
		rest %= unit
	}
	return b
}

// appendParts writes the values of parts.
func appendParts(b []byte, e *proxy.Entry) []byte {
	b = append(b, ':')
	b = appendPair(b, " page=", e.Page)
	b = appendPair(b, " worker=", e.Worker)
	b = strconv.AppendInt(append(b, " bytes="...), e.Bytes, 10)
	b = appendPair(b, " client=", e.Client)
	b = appendPair(b, " id=", e.RequestID)
	if e.Attempts > 1 {
		b = strconv.AppendInt(append(b, " attempts="...), int64(e.Attempts), 10)
	}
	if e.Error != "" {
		b = appendPair(b, " error=", e.Error)
	}
	return b
}

// parts are the arguments that a logger takes. Nothing in them is a view: a logger may keep them.
func parts(e *proxy.Entry) []any {
	c := e.Clone()
	args := []any{"page", c.Page, "worker", c.Worker, "bytes", c.Bytes, "client", c.Client, "id", c.RequestID}
	if c.Attempts > 1 {
		args = append(args, "attempts", c.Attempts)
	}
	if c.Error != "" {
		args = append(args, "error", c.Error)
	}
	return args
}

// appendPair quotes a value as hclog does: if it is not made of the characters from - to ~ alone.
func appendPair(b []byte, key, value string) []byte {
	b = append(b, key...)
	if value == "" {
		return append(b, `""`...)
	}
	for i := range len(value) {
		if c := value[i]; c < '-' || c > '~' {
			return appendQuoted(b, value)
		}
	}
	return append(b, value...)
}

// appendQuoted leaves a backslash as it is, as hclog does.
func appendQuoted(b []byte, value string) []byte {
	b = append(b, '"')
	if !strings.ContainsFunc(value, func(r rune) bool { return r == '"' || !unicode.IsPrint(r) }) {
		return append(append(b, value...), '"')
	}
	for _, r := range value {
		switch {
		case r == '"':
			b = append(b, `\"`...)
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		default:
			b = appendEscaped(b, r)
		}
	}
	return append(b, '"')
}

func appendEscaped(b []byte, r rune) []byte {
	if i := strings.IndexRune("\a\b\f\n\r\t\v", r); i >= 0 {
		return append(b, '\\', "abfnrtv"[i])
	}
	const digits = "0123456789abcdef"
	mark, width := byte('U'), 8
	switch {
	case r < ' ':
		mark, width = 'x', 2
	case r < 0x10000:
		mark, width = 'u', 4
	}
	b = append(b, '\\', mark)
	for shift := 4 * (width - 1); shift >= 0; shift -= 4 {
		b = append(b, digits[r>>shift&0xf])
	}
	return b
}
