package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// wellFormed is what a browser sends.
const wellFormed = "GET /api/items?a=1 HTTP/1.1\r\nHost: site.example:8080\r\nUser-Agent: Mozilla/5.0\r\naccept: text/html,*/*;q=0.8\r\n" +
	"ACCEPT-ENCODING: gzip, br\r\nCookie: a=1; b=2\r\nConnection: keep-alive\r\n\r\n"

// read finds and parses the head at the start of text.
func (r *request) read(text []byte) error {
	end, _, err := requestEnd(text, 0)
	switch {
	case err != nil:
		return err
	case end == 0:
		return errors.New("no end")
	}
	return r.parse(text[:end])
}

func TestRequestIsTakenApart(t *testing.T) {
	var r request
	must(t, r.read([]byte(wellFormed)))
	if r.method != "GET" || r.path != "/api/items" || r.query != "a=1" || !r.hasQuery || r.host != "site.example:8080" || r.length != -1 ||
		r.chunked || r.old || r.last || r.upgrade || r.expects || len(r.fields) != 6 || r.fields[3].name != "Accept-Encoding" {
		t.Errorf("%+v", r)
	}
	must(t, r.read([]byte("POST http://A.b:1?x HTTP/1.0\r\nhost: h\r\nCONTENT-LENGTH:\t5 \r\nexpect: 100-continue\r\nupgrade: x\r\n\r\n")))
	if r.path != "" || r.query != "x" || r.host != "A.b:1" || !r.absolute || r.length != 5 || !r.old || !r.last || !r.upgrade || !r.expects {
		t.Errorf("%+v", r)
	}
	must(t, r.read([]byte("POST /x HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: Chunked\r\nConnection: x, Close\r\n\r\n")))
	if !r.chunked || !r.last || r.hasQuery || r.length != -1 {
		t.Errorf("%+v", r)
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	var r request
	text := []byte(wellFormed)
	allocs := testing.AllocsPerRun(100, func() {
		if err := r.read(text); err != nil {
			t.Fatal(err)
		}
		if path, f := r.routePath(); path != "/api/items" || f != nil {
			t.Fatal(path, f)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkRequest(b *testing.B) {
	var r request
	text := []byte(wellFormed)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.read(text); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzRequest: what the parser accepts, net/http accepts, and understands alike;
// routePath says what target does.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(wellFormed))
	for _, text := range agreed {
		f.Add([]byte(strings.ReplaceAll(text, "|", "\r\n")))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		want, wantErr := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(text), maxRequestHead))
		var r request
		err := r.read(bytes.Clone(text))
		if err != nil {
			return
		}
		if wantErr != nil {
			t.Fatalf("accepted, but net/http says: %v", wantErr)
		}
		if r.method != want.Method || r.target != want.RequestURI || r.host != want.Host || r.query != want.URL.RawQuery ||
			r.chunked != (want.TransferEncoding != nil) || max(r.length, 0) != max(want.ContentLength, 0) || r.old == want.ProtoAtLeast(1, 1) ||
			r.last != want.Close {
			t.Fatalf("got %+v\nnet/http %+v", r, want)
		}
		compareFields(t, &r, want.Header)
		path, refused := r.routePath()
		wantPath, wantRefused := target(want)
		if path != wantPath || (refused == nil) != (wantRefused == nil) {
			t.Fatalf("routed by %q, %v; in net/http by %q, %v", path, refused, wantPath, wantRefused)
		}
		forwarded := string((&response{in: want}).appendTarget(nil))
		if refused == nil && forwarded != forwardedTarget(&r) {
			t.Fatalf("forwarded as %q, in net/http as %q", forwardedTarget(&r), forwarded)
		}
	})
}

// forwardedTarget is what a worker gets: path and query as they came.
func forwardedTarget(r *request) string {
	s := r.path
	if s == "" {
		s = "/"
	}
	if r.hasQuery {
		s += "?" + r.query
	}
	return s
}

// compareFields holds the fields against what net/http made of them. It takes
// some out of the header, and adds Cache-Control to Pragma.
func compareFields(t *testing.T, r *request, want http.Header) {
	t.Helper()
	got := http.Header{}
	for _, f := range r.fields {
		got[f.name] = append(got[f.name], f.value)
	}
	for name, values := range want {
		if name != "Cache-Control" && !slices.Equal(got[name], values) {
			t.Fatalf("%s: got %q, net/http %q", name, got[name], values)
		}
	}
	for name := range got {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Connection":
		default:
			if want[name] == nil {
				t.Fatalf("%s: net/http has none", name)
			}
		}
	}
}
