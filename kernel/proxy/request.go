package proxy

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// appendHead adds the head of the request to b: the path, the query and the
// header as they came in, less what is meant for this hop only or forged, and
// the framing anew; and the body, if it is there as a whole. The fault is a request that cannot be written without
// being read as something else.
func (t *trip) appendHead(b []byte) ([]byte, error) {
	x := t.x
	host := x.host
	if host == "" {
		host = t.e.host()
	}
	if !isVisible(x.method) || x.host != "" && !isAuthority(x.host) { // HTTP/2 lets more pass
		return b, &faultError{*badTarget("method or host is malformed")}
	}
	b = append(append(b, x.method...), ' ')
	b = x.side.appendTarget(b)
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", host)
	b, ok := x.side.appendHeader(b)
	if !ok {
		return b, &faultError{*badTarget("header holds a line break")}
	}
	b = t.appendFraming(x.appendForwarding(b))
	return append(append(b, "\r\n"...), x.whole...), nil
}

// appendFraming says how the body ends and what happens to the connection.
func (t *trip) appendFraming(b []byte) []byte {
	x := t.x
	switch {
	case x.length == 0:
		if x.method == "POST" || x.method == "PUT" || x.method == "PATCH" {
			b = append(b, "Content-Length: 0\r\n"...)
		}
	case x.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		b = appendAnnounced(b, x.body.trailer)
	default:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, x.length, 10)
		b = append(b, "\r\n"...)
	}
	if x.expects {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	if x.upgrade != "" {
		b = append(b, "Connection: Upgrade\r\n"...)
		b = appendField(b, "Upgrade", x.upgrade)
	}
	if slices.ContainsFunc(x.side.values(nil, "Te"), func(line string) bool { return hasToken(line, "trailers") }) {
		b = append(b, "Te: trailers\r\n"...)
	}
	return b
}

func appendAnnounced(b []byte, trailer http.Header) []byte {
	sep := "Trailer: "
	for name := range trailer {
		if isRequestTrailer(name) {
			b = append(append(b, sep...), name...)
			sep = ", "
		}
	}
	if sep == ", " {
		b = append(b, "\r\n"...)
	}
	return b
}

// isRequestTrailer reports whether a client's trailer is passed on.
func isRequestTrailer(name string) bool {
	return isTrailer(name) && !isForged(name) && !isForwarding(name) && isFieldName(name)
}

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

func appendValues(b []byte, name string, values []string) []byte {
	for _, v := range values {
		b = appendField(b, name, v)
	}
	return b
}

// isLine reports whether s can be written as part of a line. net/http has
// checked more than that; this is the last chance to keep a line in one piece.
func isLine(s string) bool {
	return strings.IndexByte(s, '\n') < 0 && strings.IndexByte(s, '\r') < 0 && strings.IndexByte(s, 0) < 0
}

// isVisible reports whether s consists of visible ASCII.
func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
