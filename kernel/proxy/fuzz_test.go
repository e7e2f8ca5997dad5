package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"
)

// cuts takes the lengths of pieces out of bytes, over and over.
func cuts(by []byte) func() int {
	i := 0
	return func() int {
		if len(by) == 0 {
			return 1 << 20
		}
		i++
		return 1 + int(by[i%len(by)])
	}
}

// scanAll puts text through a scanner in pieces.
func scanAll(text []byte, cut func() int) (end int, done bool, err error) {
	var s chunks
	for !done && err == nil && end < len(text) {
		var n int
		n, done, err = s.scan(text[end:min(len(text), end+cut())])
		end += n
	}
	return end, done, err
}

// FuzzChunks: however a body is cut, the scanner says the same of it, and what
// it accepts, net/http reads to the same end.
func FuzzChunks(f *testing.F) {
	for _, c := range readCorpus(f) {
		if _, body, ok := bytes.Cut(c.text, []byte("\r\n\r\n")); ok && len(body) > 10 && bytes.Contains(c.text, []byte("chunked")) && len(body) < 300 {
			f.Add(body, []byte{3, 0, 200})
		}
	}
	f.Fuzz(func(t *testing.T, text, by []byte) {
		end, done, err := scanAll(text, cuts(nil))
		if e, d, again := scanAll(text, cuts(by)); e != end || d != done || err != again {
			t.Fatalf("in one piece: %d %v %v, in several: %d %v %v", end, done, err, e, d, again)
		}
		if err != nil || !done {
			return
		}
		r := bufio.NewReaderSize(bytes.NewReader(text), 4<<10)
		if _, err := io.Copy(io.Discard, httputil.NewChunkedReader(r)); err != nil {
			t.Fatalf("accepted, but net/http says: %v", err)
		}
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"),
			bytes.NewReader(text[:end]))))
		must(t, err)
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			t.Fatalf("accepted, but net/http says of the trailer: %v", err)
		}
	})
}

// FuzzStrictConn: however the bytes of a connection come, net/http gets the
// same, and that is what came, up to the spelling of names, or a refusal at its
// end.
func FuzzStrictConn(f *testing.F) {
	for i, c := range readCorpus(f) {
		if len(c.text) < 300 && i%5 == 0 { // or a short run would not come further than those
			f.Add(c.text, []byte{7, 0, 90}, uint16(i))
		}
	}
	f.Fuzz(func(t *testing.T, text, by []byte, step uint16) {
		whole, wholeErr := filtered(bytes.Clone(text), 1<<20, cuts(nil))
		got, err := filtered(bytes.Clone(text), int(step)+1, cuts(by))
		if wholeErr != err {
			t.Fatalf("in one piece: %v, in several: %v", wholeErr, err)
		}
		isBody := func(err error) bool { _, ok := errors.AsType[*refusal](err); return ok }
		same := settled(got, text)
		if err == nil && settled(whole, text) != same || isBody(err) && !bytes.EqualFold(got, text[:min(len(got), len(text))]) {
			t.Fatalf("in one piece:\n%.400q\nin several:\n%.400q", whole, got)
		}
		readStrictly(t, got)
	})
}

// settled is how much of text, at most, came through as it is. In front of a
// refusal, and of the end, a method can have come.
func settled(got, text []byte) int {
	n := 0
	for n < len(got) && n < len(text) && got[n]|0x20 == text[n]|0x20 {
		n++
	}
	return bytes.LastIndexByte(text[:n], '\n')
}

// readStrictly has net/http read what passed the filter: it finds nothing to
// complain about but the end.
func readStrictly(t *testing.T, passed []byte) {
	if bytes.HasPrefix(passed, []byte("PRI * HTTP/2.0\r\n\r\n")) {
		return
	}
	r := bufio.NewReader(bytes.NewReader(passed))
	for {
		if _, err := r.Peek(earlyBytes + 1); err != nil {
			return
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("net/http says %v of %.400q", err, passed)
		}
		if askedUpgrade(req.Header) != "" && req.ContentLength == 0 && req.ProtoAtLeast(1, 1) {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			if !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "suspiciously long trailer") { // it was cut
				t.Fatalf("net/http says %v of the body in %.400q", err, passed)
			}
			return
		}
	}
}

// FuzzTable: a route is found for the path as it was decoded, by the longest of
// the routes that ends on a boundary; an encoded slash is none.
func FuzzTable(f *testing.F) {
	for _, path := range []string{"/", "/a", "/a/b/c", "/ab", "/a%2fb", "/%61/b", "//a", "/a//b", "/a/b%00", "/c/..", "/a/b/"} {
		f.Add(path, "/a\n/a/b\n/ab")
	}
	f.Fuzz(func(t *testing.T, target, routes string) {
		r := request{method: "GET", target: target}
		if !strings.HasPrefix(target, "/") || r.parseTarget() != nil {
			return
		}
		path, refused := r.routePath()
		if refused != nil {
			return
		}
		if decoded, ok := decodePath(r.path); !ok || decoded != path {
			t.Fatalf("%q is routed by %q, decoded it is %q, %v", target, path, decoded, ok)
		}
		paths := slices.DeleteFunc(strings.Split(routes, "\n"), func(p string) bool { return checkRoute(Route{Path: p, Backend: &Backend{}}) != nil })
		slices.Sort(paths)
		var all []Route
		want := ""
		for _, p := range slices.Compact(paths) {
			all = append(all, Route{Path: p, Backend: &Backend{}})
			if below(path, p) && len(p) > len(want) {
				want = p
			}
		}
		table, err := newTable(all)
		must(t, err)
		if got, ok := table.lookup("h", path); got.Path != want || ok != (want != "") {
			t.Fatalf("%q is led to %q, want %q", path, got.Path, want)
		}
	})
}

func below(path, route string) bool {
	return route == "/" || path == route || strings.HasPrefix(path, route+"/")
}
