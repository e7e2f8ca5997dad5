package proxy

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"reflect"
	"testing"
)

// seen returns the header that a worker sees.
func (s *site) seen(header ...string) http.Header {
	s.t.Helper()
	_, body := s.get("/", header...)
	var h http.Header
	must(s.t, json.Unmarshal([]byte(body), &h))
	return h
}

func echoHeader(w http.ResponseWriter, r *http.Request) {
	h := r.Header.Clone()
	h.Set("Host", r.Host)
	json.NewEncoder(w).Encode(h)
}

func trustLoopback() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

func TestStrangersDoNotSpeakForThemselves(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	s.serve(echoHeader)
	h := s.seen("X-Forwarded-For", "6.6.6.6", "X-Forwarded-Host", "evil", "X-Forwarded-Proto", "https", "X-Forwarded-User", "root",
		"Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6", "Proxy", "evil:80", "X-Request-Id", "mine", "X_User", "root", "X.User", "root",
		"Connection", "X-Forwarded-For, X-Forwarded-Host, X-Request-Id, X-Hop", "X-Hop", "1", "Keep-Alive", "5", "Te", "gzip", "X-Kept", "1",
		"Accept-Encoding", "zstd")
	id := h.Get("X-Request-Id")
	if len(id) != 32 {
		t.Errorf("request id %q", id)
	}
	want := http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {s.addr}, "X-Forwarded-Proto": {"http"}, "Host": {s.addr},
		"X-Request-Id": {id}, "X-Kept": {"1"}, "Accept-Encoding": {"zstd"}, "User-Agent": {"Go-http-client/1.1"}}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got  %v\nwant %v", h, want)
	}
	if e := s.entry(0); e.Client != "127.0.0.1" || e.RequestID != id {
		t.Errorf("logged %+v", e)
	}
}

func TestTrustedProxiesAreBelieved(t *testing.T) {
	s := newSite(t, Options{TrustedProxies: trustLoopback}, BackendOptions{})
	s.serve(echoHeader)
	h := s.seen("X-Forwarded-For", "6.6.6.6, 9.9.9.9", "X-Forwarded-For", "127.0.0.9", "X-Forwarded-Host", "site.example",
		"X-Forwarded-Proto", "https", "Forwarded", "for=9.9.9.9", "X-Real-Ip", "9.9.9.9", "X-Request-Id", "abc-1", "Proxy", "x", "X_User", "root")
	for name, want := range map[string]string{
		"X-Forwarded-For": "6.6.6.6, 9.9.9.9, 127.0.0.9, 127.0.0.1", "X-Forwarded-Host": "site.example", "X-Forwarded-Proto": "https",
		"Forwarded": "for=9.9.9.9, for=127.0.0.1", "X-Real-Ip": "9.9.9.9", "X-Request-Id": "abc-1", "Proxy": "", "X_user": "", "X_User": "",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if e := s.entry(0); e.Client != "9.9.9.9" || e.RequestID != "abc-1" {
		t.Errorf("logged %+v", e)
	}
	if h := s.seen("X-Request-Id", "a b"); len(h.Get("X-Request-Id")) != 32 {
		t.Errorf("request id %q", h.Get("X-Request-Id"))
	}
}

func TestAnswersCarryTheRequestIDAndNoHopByHopHeaders(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	var id string
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		id = r.Header.Get("X-Request-Id")
		for _, name := range []string{"X-Request-Id", "X-TQ-Error", "Keep-Alive", "Proxy-Authenticate", "X-Hop"} {
			w.Header().Set(name, "worker's")
		}
		w.Header().Set("Connection", "X-Hop")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("Location", "http://127.0.0.1:9000/private")
		w.Header()["Content-Type"] = nil
		w.WriteHeader(302)
		w.Write([]byte("<html>"))
	})
	res, body := s.get("/")
	if res.StatusCode != 302 || body != "<html>" || len(res.Header["Set-Cookie"]) != 2 || res.Header.Get("Location") != "http://127.0.0.1:9000/private" {
		t.Errorf("got %d %v %q", res.StatusCode, res.Header, body)
	}
	if got := res.Header["X-Request-Id"]; len(got) != 1 || got[0] != id {
		t.Errorf("request id %q, want %q", got, id)
	}
	for _, name := range []string{"X-TQ-Error", "Keep-Alive", "Proxy-Authenticate", "X-Hop", "Content-Type"} {
		if got := res.Header.Values(name); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestForwardedNode(t *testing.T) {
	if got := forwardedNode(netip.MustParseAddr("2001:db8::1")); got != `"[2001:db8::1]"` {
		t.Error(got)
	}
}
