package proxy

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimitsOfHTTP2 are those of net/http: connections without a request, and
// those on which one has begun that does not go on, are closed and count as
// idle. A client has a second for what it was told.
func TestLimitsOfHTTP2(t *testing.T) {
	request := []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/held"}
	begun := http2Preface + http2Frame(4, 0, 0, nil)
	for name, c := range map[string]struct {
		sends string
		after time.Duration
		idled bool
	}{
		"no settings":    {http2Preface, 2 * time.Second, false},
		"no request":     {begun, 121 * time.Second, true},
		"half a header":  {begun + http2Frame(1, 1, 1, []byte{0x82}), 121 * time.Second, true},
		"after a hold":   {http2Request(nil, request...), 131 * time.Second, true},
		"half a preface": {http2Preface[:9], 30 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, begin := newBubble(t), time.Now()
				b.converse([]string{c.sends})
				if d := time.Since(begin); d != c.after {
					t.Errorf("closed after %v, want %v", d, c.after)
				}
				b.stop()
				if b.idled != c.idled {
					t.Errorf("idled: %v", b.idled)
				}
			})
		})
	}
}

// TestAClientOfHTTP2ThatLeavesDoesNotIdle, be it in the midst of a request.
func TestAClientOfHTTP2ThatLeavesDoesNotIdle(t *testing.T) {
	for _, after := range []time.Duration{5 * time.Second, 100 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t)
			go io.Copy(io.Discard, b.client)
			io.WriteString(b.client, http2Request(nil, ":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/held"))
			time.Sleep(after)
			b.client.Close()
			b.stop()
			if b.idled {
				t.Errorf("idled after %v", after)
			}
		})
	}
}

// TestHTTP2HeadersHaveTheBoundsOfHTTP1 in number, length and what they expect.
func TestHTTP2HeadersHaveTheBoundsOfHTTP1(t *testing.T) {
	s := newHTTP2Site(t, Options{})
	s.serve(text("hi"))
	many := func(n, size int) http.Header {
		h := http.Header{"User-Agent": nil} // or the client adds one
		for i := range n {
			h["X-"+strconv.Itoa(i)] = []string{strings.Repeat("y", size)}
		}
		return h
	}
	for i, c := range []struct {
		status int
		path   string
		header http.Header
	}{
		{200, "/", many(100, 10)},
		{431, "/", many(101, 10)},
		{200, "/", many(4, 8000)},
		{431, "/", many(5, 8000)},
		{431, "/", many(1, 9000)},
		{200, "/" + strings.Repeat("x", 8000), many(0, 0)},
		{414, "/" + strings.Repeat("x", 9000), many(0, 0)},
		{200, "/", http.Header{"Expect": {"100-continue"}}},
		{200, "/", http.Header{"Expect": {""}}},
		{417, "/", http.Header{"Expect": {"wonders"}}},
		{200, "/", http.Header{"Host": {strings.Repeat("h", 8000)}}},
		{431, "/", http.Header{"Host": {strings.Repeat("h", 9000)}}},
	} {
		r := s.request("GET", c.path, nil)
		if host := c.header.Get("Host"); host != "" {
			r.Host = host
		}
		r.Header = c.header
		res, _ := s.do(r)
		if res.Proto != "HTTP/2.0" || res.StatusCode != c.status || c.status != 200 && res.Header.Get(errorHeader) != kindBadRequest {
			t.Errorf("%d: %s %s %v, want %d", i, res.Proto, res.Status, res.Header, c.status)
		}
		if e := s.entry(i); e.Status != c.status {
			t.Errorf("%d: logged %+v", i, e)
		}
	}
}
