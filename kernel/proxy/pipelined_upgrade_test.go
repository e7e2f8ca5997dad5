package proxy

import (
	"io"
	"net/http"
	"testing"
)

// TestUpgradeBehindAnotherRequest: the answer to the first is not taken for that
// to the offer, which comes in the same packet.
func TestUpgradeBehindAnotherRequest(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chat" {
			echoUpgrade(w, r)
			return
		}
		io.WriteString(w, "first\n")
	})
	for _, first := range []string{
		"POST / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		_, r := s.dial(first + askEcho + "early\n")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		if body, err := io.ReadAll(res.Body); string(body) != "first\n" || err != nil {
			t.Fatalf("%s %q, %v", res.Status, body, err)
		}
		res, err = http.ReadResponse(r, &http.Request{Method: "GET"})
		must(t, err)
		if res.StatusCode != 101 {
			t.Fatal(res.Status)
		}
		expectLines(t, r, "hello", "early")
	}
}
