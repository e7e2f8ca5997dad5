package proxy

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
)

// http2Request is the beginning of a connection with one request. Its fields,
// names and values in turn, are written as they are: no client's library would
// send them. A nil body is none.
func http2Request(body []byte, fields ...string) string {
	const (
		data, headers, settings = 0, 1, 4
		endStream, endHeaders   = 1, 4
	)
	var block []byte
	for i, s := range fields {
		if i%2 == 0 {
			block = append(block, 0) // a literal that is not to be remembered
		}
		block = append(append(block, byte(len(s))), s...)
	}
	text := http2Preface + http2Frame(settings, 0, 0, nil)
	if body == nil {
		return text + http2Frame(headers, endStream|endHeaders, 1, block)
	}
	return text + http2Frame(headers, endHeaders, 1, block) + http2Frame(data, endStream, 1, body)
}

func http2Frame(kind, flags byte, stream uint32, payload []byte) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(append(b[1:], kind, flags), stream)
	return string(append(b, payload...))
}

// TestHTTP2IsHeldToTheRulesOfHTTP1: what could not be written to a worker without
// a second meaning, and lengths that net/http passes over, are refused.
func TestHTTP2IsHeldToTheRulesOfHTTP1(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	for i, c := range []struct {
		status       int
		method, path string
		length       []string
		body         string
	}{
		{200, "GET", "/a?b", nil, ""},
		{200, "POST", "/", nil, "hello"},
		{200, "POST", "/", []string{"5"}, "hello"},
		{400, "GET", "/a b", nil, ""},
		{400, "GET", "/a HTTP/1.0 b", nil, ""},
		{400, "GET", "/?a b", nil, ""},
		{400, "GET", "/? HTTP/1.1", nil, ""},
		{400, "GET", "http://h/a b", nil, ""},
		{400, "G(T", "/", nil, ""},
		{400, "GET:", "/", nil, ""},
		{400, "POST", "/", []string{"+5"}, "hello"},
		{400, "POST", "/", []string{"5, 5"}, "hello"},
		{400, "POST", "/", []string{"5", "5"}, "hello"},
		{400, "POST", "/", []string{"5", "50"}, "hello"},
		{400, "POST", "/", []string{"x"}, ""},
		{400, "POST", "/", []string{"5"}, ""},
		{400, "GET", "/#5", nil, ""},
		{400, "POST", "/", []string{"1" + strings.Repeat("0", 20)}, "hello"},
	} {
		fields := []string{":method", c.method, ":scheme", "http", ":authority", "h", ":path", c.path}
		for _, n := range c.length {
			fields = append(fields, "content-length", n)
		}
		var body []byte
		if c.body != "" {
			body = []byte(c.body)
		}
		conn, _ := s.dial(http2Request(body, fields...))
		if e := s.entry(i); e.Status != c.status || c.status == 200 && e.Bytes != int64(len(c.body)) || c.status == 400 && !strings.HasPrefix(e.Error, kindBadRequest) {
			t.Errorf("%q: logged %+v", fields, e)
		}
		conn.Close()
	}
}
