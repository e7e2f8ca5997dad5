package proxy

import (
	"net/http"
	"testing"
)

// TestAQuestionToTheServerItself is answered without a page, and seen.
func TestAQuestionToTheServerItself(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(http.ResponseWriter, *http.Request) { t.Error("a worker was asked") })
	for _, text := range []string{
		"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
	} {
		c, r := s.dial(text)
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if res.StatusCode != 200 || res.ContentLength != 0 || len(res.Header[requestIDHeader]) != 1 || res.Header.Get(errorHeader) != "" {
			t.Errorf("%q: %s %v", text, res.Status, res.Header)
		}
		must(t, c.Close())
	}
	conn, _ := s.dial(http2Request(nil, ":method", "OPTIONS", ":scheme", "http", ":authority", "h", ":path", "*"))
	eventually(t, "all are counted", func() bool { return s.Unrouted().Statuses[2] == 4 })
	must(t, conn.Close())
	for i := range 4 {
		if e := s.entry(i); e.Method != "OPTIONS" || e.Path != "*" || e.Status != 200 || e.Page != "" || e.Error != "" {
			t.Errorf("logged %+v", e)
		}
	}
}
