package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestUplinkAndReverseProxyAgree: a worker gets the same from all, and a
// client, too.
func TestUplinkAndReverseProxyAgree(t *testing.T) {
	oracle := newReverse()
	t.Cleanup(oracle.close)
	o := Options{TrustedProxies: trustLoopback}
	sites := []*site{newSiteIn(t, false, o, BackendOptions{}), newSiteIn(t, true, o, BackendOptions{}), newSiteIn(t, false, o, BackendOptions{})}
	sites[2].forward = oracle
	worker := httptest.NewServer(http.HandlerFunc(reflectRequest))
	t.Cleanup(worker.Close)
	for _, s := range sites {
		e := NewEndpoint(EndpointOptions{Addr: worker.Listener.Addr().String()})
		s.backend.Set(e)
		t.Cleanup(e.Close)
	}
	for _, request := range agreed {
		var got [3]string
		for i, s := range sites {
			_, r := s.dial(strings.ReplaceAll(request, "|", "\r\n"))
			got[i] = readAll(t, r, strings.Fields(request)[0])
		}
		if got[0] != got[2] || got[1] != got[2] {
			t.Errorf("%s\nuplink:  %s\nlane R:  %s\nreverse: %s", request, got[0], got[1], got[2])
		}
	}
}

// reflectRequest answers with the request, in ways that its path asks for.
func reflectRequest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if r.URL.Path == "/chunked" {
		w.Header().Set("Trailer", "X-Sum")
		flush(w)
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
	}
	if r.URL.Path == "/status" {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(204)
		return
	}
	r.Header.Del("X-Request-Id")
	fmt.Fprintln(w, r.Method, r.RequestURI, r.Proto, r.Host, r.Header, r.ContentLength, r.TransferEncoding, string(body), err, r.Trailer)
}

func readAll(t *testing.T, r *bufio.Reader, method string) string {
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	must(t, err)
	body, err := io.ReadAll(res.Body)
	res.Header.Del("X-Request-Id")
	res.Header.Del("Date")
	return fmt.Sprint(res.Status, res.Header, res.ContentLength, res.TransferEncoding, string(body), err, res.Trailer)
}

var agreed = []string{
	"GET / HTTP/1.1|Host: h||",
	"GET / HTTP/1.0|Host: h||",
	"HEAD / HTTP/1.1|Host: h||",
	"GET /status HTTP/1.1|Host: h||",
	"GET /chunked HTTP/1.1|Host: h||",
	"GET /chunked HTTP/1.0|Host: h||",
	"HEAD /chunked HTTP/1.1|Host: h||",
	"OPTIONS /x?a=1;b HTTP/1.1|Host: h||",
	"GET /%41%2f/b//c?&&=%zz HTTP/1.1|Host: h||",
	"GET http://other/x HTTP/1.1|Host: h||",
	"POST / HTTP/1.1|Host: h|Content-Length: 0||",
	"POST / HTTP/1.1|Host: h||",
	"DELETE / HTTP/1.1|Host: h||",
	"PATCH / HTTP/1.1|Host: h|Content-Length: 5||hello",
	"GET / HTTP/1.1|Host: h|Content-Length: 5||hello",
	"POST / HTTP/1.0|Host: h|Content-Length: 5||hello",
	"POST / HTTP/1.1|Host: h|Transfer-Encoding: chunked||5|hello|0||",
	"POST / HTTP/1.1|Host: h|Transfer-Encoding: chunked|Trailer: X-Sum||5|hello|0|X-Sum: 1||",
	"POST /chunked HTTP/1.1|Host: h|Content-Length: 5||hello",
	"GET / HTTP/1.1|Host: h|Cookie: a=1|Cookie: b=2|accept: x|Accept: y||",
	"GET / HTTP/1.1|Host: h|Connection: X-A, close|X-A: 1|X-B: 1|Te: trailers|Proxy-Authorization: x||",
	"GET / HTTP/1.1|Host: h|X_A: 1|X.A: 1|Proxy: x||",
	"GET / HTTP/1.1|Host: h|X-Forwarded-For: 1.1.1.1|X-Forwarded-For: 2.2.2.2|X-Forwarded-Host: a|X-Forwarded-Proto: https|X-Real-Ip: 3.3.3.3||",
	"GET / HTTP/1.1|Host: h|Forwarded: for=1.1.1.1|X-Forwarded-Port: 1||",
	"GET / HTTP/1.1|Host: h|Connection: Upgrade|Upgrade: h2c|Http2-Settings: x||",
	"GET / HTTP/1.1|Host: h|Connection: Upgrade|Upgrade: websocket||",
}
