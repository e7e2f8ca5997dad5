package proxy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestEveryKindIsListed reads the kinds from the source: one that is not in
// faultKinds would be counted as none.
func TestEveryKindIsListed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "fault.go", nil, 0)
	must(t, err)
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "kind") {
			return true
		}
		name, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		must(t, err)
		if found++; kindIndex(name) == len(faultKinds) {
			t.Errorf("%s is not in faultKinds", name)
		}
		return true
	})
	if found < 15 {
		t.Errorf("only %d kinds found in fault.go", found)
	}
}

func TestTrafficIsCounted(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	e, _ := s.worker(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		w.WriteHeader(status)
		io.WriteString(w, "12345")
	}, EndpointOptions{})
	s.backend.Set(e)
	for i, status := range []string{"200", "404", "500", "201"} {
		s.get("/?status=" + status)
		s.entry(i)
	}
	s.backend.Set()
	s.backend.Fail(io.EOF)
	s.get("/")
	s.entry(4)
	s.backend.Close()
	s.get("/") // the page is gone, but the route is not yet
	s.entry(5)
	must(t, s.SetRoutes(nil))
	s.get("/")
	s.entry(6)

	got := s.backend.Traffic()
	if got.Statuses != [6]uint64{2: 2, 4: 2, 5: 2} {
		t.Errorf("statuses: %v", got.Statuses)
	}
	if len(got.Faults) != 2 || got.Faults[kindNoWorker] != 1 || got.Faults[kindRouteNotFound] != 1 {
		t.Errorf("faults: %v", got.Faults)
	}
	if own := uint64(len(messageUnavailable+"\n") + len(messageNotFound+"\n")); got.Bytes != 4*5+own {
		t.Errorf("bytes: %d", got.Bytes)
	}
	if n := counted(got.Duration); n != 6 || got.Duration.Sum <= 0 {
		t.Errorf("duration: %d requests in %v", n, got.Duration.Sum)
	}
	if un := s.Unrouted(); un.Statuses[4] != 1 || un.Faults[kindRouteNotFound] != 1 {
		t.Errorf("without a page: %+v", un)
	}
}

func counted(h Histogram) (n uint64) {
	for _, b := range h.Buckets {
		n += b.Count
	}
	return n
}

func TestBuckets(t *testing.T) {
	for d, want := range map[time.Duration]int{
		-time.Second: 0, 0: 0, 100 * time.Microsecond: 0, 100*time.Microsecond + 1: 1, time.Millisecond: 3,
		time.Minute: len(durationBounds) - 1, time.Minute + 1: len(durationBounds),
	} {
		if got := bucketOf(d); got != want {
			t.Errorf("%v is in bucket %d, want %d", d, got, want)
		}
	}
	for i := 1; i < len(durationBounds); i++ {
		if durationBounds[i] <= durationBounds[i-1] {
			t.Errorf("%v comes after %v", durationBounds[i], durationBounds[i-1])
		}
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	var c tally
	e, f := &Entry{Status: 504, Bytes: 7, Duration: time.Second}, &fault{kind: kindResponseTimeout}
	if n := testing.AllocsPerRun(100, func() { c.count(e, f) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if got := c.read(); got.Faults[kindResponseTimeout] != 101 || got.Statuses[5] != 101 {
		t.Errorf("got %+v", got)
	}
}

// TestTimeoutsNameTheirKey: whoever reads the log knows what to change.
func TestTimeoutsNameTheirKey(t *testing.T) {
	const limit = 50 * time.Millisecond
	s := newSite(t, Options{Timeouts: func() Timeouts { return Timeouts{Read: limit} }, Reveal: func() bool { return true }}, hold(limit, 1))
	e, _ := s.worker(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			<-r.Context().Done()
		}
	}, EndpointOptions{ResponseTimeout: limit})
	for i, c := range []struct {
		endpoints []*Endpoint
		request   string
		want      string
	}{
		{[]*Endpoint{e}, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "response_timeout: the worker sent no answer for 50ms (workers.default.write_timeout_seconds)"},
		{[]*Endpoint{e}, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab", "read_timeout: the client sent nothing more of its request for 50ms (server.read_timeout_seconds)"},
		{nil, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "hold_timeout: no worker got ready in time (workers.hold_timeout_ms)"},
	} {
		s.backend.Set(c.endpoints...)
		kind, detail, _ := strings.Cut(c.want, ": ")
		_, r := s.dial(c.request)
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, err)
		if got := s.entry(i); got.Error != c.want {
			t.Errorf("logged %q, want %q", got.Error, c.want)
		}
		if res.Header.Get("X-TQ-Error") != kind || !strings.Contains(string(body), detail) {
			t.Errorf("%s: answered %q %q", kind, res.Header.Get("X-TQ-Error"), body)
		}
		if s.backend.Traffic().Faults[kind] != 1 {
			t.Errorf("%s: counted %v", kind, s.backend.Traffic().Faults)
		}
	}
}
