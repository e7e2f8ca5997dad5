package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
)

const (
	requestIDHeader = "X-Request-Id"
	maxRequestID    = 128
)

// identify finds out who sent the request, whether its word is taken, and by
// which id the request goes.
func (x *exchange) identify() {
	if peer, err := netip.ParseAddrPort(x.in.RemoteAddr); err == nil {
		x.peer = peer.Addr().Unmap().WithZone("")
	}
	x.trusted = x.trusts(x.peer)
	if id := x.in.Header.Get(requestIDHeader); x.trusted && isRequestID(id) {
		x.id = id
	} else {
		x.id = newRequestID()
	}
}

func (x *exchange) trusts(peer netip.Addr) bool {
	for _, prefix := range x.proxy.o.TrustedProxies() {
		if prefix.Contains(peer) {
			return true
		}
	}
	return false
}

// client returns the address the request came from in the first place, as far
// as trusted proxies tell.
func (x *exchange) client() string {
	if !x.peer.IsValid() {
		return ""
	}
	if !x.trusted {
		return x.peer.String()
	}
	client := x.peer
	hops := strings.Split(strings.Join(x.in.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && x.trusts(client); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		client = hop.Unmap().WithZone("")
	}
	return client.String()
}

// setHeaders puts the headers that speak for the client into out, which
// httputil.ReverseProxy has stripped of hop-by-hop headers. Whatever the
// client says about itself goes, unless it is a trusted proxy.
func (x *exchange) setHeaders(out http.Header) {
	for name := range out {
		if isForged(name) || !x.trusted && isForwarding(name) {
			delete(out, name)
		}
	}
	out.Set(requestIDHeader, x.id)
	scheme := "http"
	if x.in.TLS != nil {
		scheme = "https"
	}
	x.setForwarded(out, "X-Forwarded-Host", x.in.Host)
	x.setForwarded(out, "X-Forwarded-Proto", scheme)
	if x.peer.IsValid() {
		x.appendForwarded(out, "X-Forwarded-For", x.peer.String())
		if x.trusted && x.in.Header.Get("Forwarded") != "" {
			x.appendForwarded(out, "Forwarded", "for="+forwardedNode(x.peer))
		}
	}
}

// setForwarded keeps what a trusted proxy said, or else sets value.
func (x *exchange) setForwarded(out http.Header, name, value string) {
	if said := x.in.Header.Values(name); x.trusted && len(said) > 0 {
		out[name] = said
		return
	}
	out.Set(name, value)
}

// appendForwarded puts value after what a trusted proxy said.
func (x *exchange) appendForwarded(out http.Header, name, value string) {
	if said := x.in.Header.Values(name); x.trusted && len(said) > 0 {
		value = strings.Join(said, ", ") + ", " + value
	}
	out.Set(name, value)
}

// isForged reports whether no honest client sends the header: CGI-style
// programs read X_Forwarded_For or X.Forwarded.For as X-Forwarded-For, and
// Proxy as HTTP_PROXY.
func isForged(name string) bool {
	return name == "Proxy" || strings.ContainsAny(name, "_.")
}

func isForwarding(name string) bool {
	return strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip"
}

// forwardedNode is addr as RFC 7239 wants it.
func forwardedNode(addr netip.Addr) string {
	if addr.Is6() {
		return `"[` + addr.String() + `]"`
	}
	return addr.String()
}

// newRequestID returns 128 random bits in hex. They name a request and guard
// nothing.
func newRequestID() string {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(b[8:], rand.Uint64())
	return hex.EncodeToString(b[:])
}

// isRequestID reports whether a trusted peer's id is fit for a log line.
func isRequestID(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return id != "" && len(id) <= maxRequestID
}
