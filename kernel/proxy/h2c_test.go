package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// newHTTP2Site is a site whose client speaks HTTP/2 from the first byte on.
func newHTTP2Site(t *testing.T, o Options) *site {
	s := newSite(t, o, BackendOptions{})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DisableCompression: true}
	s.client.Transport = transport
	t.Cleanup(transport.CloseIdleConnections)
	return s
}

func TestHTTP2WithoutTLS(t *testing.T) {
	s := newHTTP2Site(t, Options{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Said", r.Method+r.RequestURI+r.Proto+r.Host+r.Header.Get("X-Forwarded-For"))
		flush(w)
		io.Copy(w, r.Body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-End"))
	})
	for _, body := range []string{"", "hello", strings.Repeat("x", 1<<20)} {
		method, said := "GET", "GET/a%2fb?c=%zHTTP/1.1"
		r := s.request(method, "/", nil)
		if body != "" {
			r = s.request("POST", "/", io.MultiReader(strings.NewReader(body)))
			r.Trailer = http.Header{"X-End": {"42"}}
			said = "POST/HTTP/1.1"
		} else {
			r.URL.Opaque = "/a%2fb"
			r.URL.RawQuery = "c=%z"
		}
		res, got := s.do(r)
		if res.Proto != "HTTP/2.0" || got != body || !strings.HasPrefix(res.Header.Get("X-Said"), said+s.addr) || body != "" && res.Trailer.Get("X-Sum") != "42" {
			t.Errorf("%s %v, %d bytes of %d, %v", res.Proto, res.Header, len(got), len(body), res.Trailer)
		}
	}
	if res, _ := s.get("/a/../b"); res.StatusCode != 400 || res.Header.Get(errorHeader) != kindBadRequest {
		t.Errorf("%s %v", res.Status, res.Header)
	}
}

func TestHTTP2StreamsBothWays(t *testing.T) {
	s := newHTTP2Site(t, Options{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		flush(w)
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			flush(w)
			if err != nil {
				return
			}
		}
	})
	read, write := io.Pipe()
	res, err := s.client.Do(s.request("POST", "/", read))
	must(t, err)
	defer res.Body.Close()
	for _, piece := range []string{"one", "two", "three"} {
		io.WriteString(write, piece) // the next is sent only after this came back
		got := make([]byte, len(piece))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != piece {
			t.Fatalf("%q, %v", got, err)
		}
	}
	write.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestHTTP2ClientThatLeaves: the worker notices, and the connection goes on.
func TestHTTP2ClientThatLeaves(t *testing.T) {
	s := newHTTP2Site(t, Options{})
	left := make(chan struct{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stay" {
			return
		}
		flush(w)
		<-r.Context().Done()
		close(left)
	})
	ctx, leave := context.WithCancel(t.Context())
	res, err := s.client.Do(s.request("GET", "/", nil).WithContext(ctx))
	must(t, err)
	leave()
	res.Body.Close()
	<-left
	if res, _ := s.get("/stay"); res.StatusCode != 200 || res.Proto != "HTTP/2.0" {
		t.Errorf("%s %s", res.Proto, res.Status)
	}
	e := s.entry(0)
	if e.Path == "/stay" { // the streams of a connection end in any order
		e = s.entry(1)
	}
	if !strings.HasPrefix(e.Error, kindClientClosed) {
		t.Errorf("logged %+v", e)
	}
}

// TestHTTP2WorkerThatDies: its answer is not taken for a whole one.
func TestHTTP2WorkerThatDies(t *testing.T) {
	s := newHTTP2Site(t, Options{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte("x"), 1<<16))
		flush(w)
		panic(http.ErrAbortHandler)
	})
	res, err := s.client.Do(s.request("GET", "/", nil))
	must(t, err)
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a cut answer looks whole")
	}
}
