package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
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

// appendHeader adds what of the client's header a worker gets, and the fields
// that speak for the client. What the client says about itself goes, unless it
// is a trusted proxy. It reports false if a value would not stay in its line.
func (x *exchange) appendHeader(b []byte) ([]byte, bool) {
	var listed []string
	for _, line := range x.in.Header["Connection"] {
		listed = appendListed(listed, line)
	}
	for name, values := range x.in.Header {
		if isHopByHop(name) || isRestated(name) || isForged(name) || !x.trusted && isForwarding(name) ||
			listed != nil && slices.Contains(listed, name) {
			continue
		}
		for _, v := range values {
			if !isLine(v) {
				return b, false
			}
			b = appendField(b, name, v)
		}
	}
	return x.appendForwarding(b), true
}

// isRestated reports whether a field is written from what was understood of it
// instead of being copied.
func isRestated(name string) bool {
	switch name {
	case "Host", "Content-Length", "Expect", requestIDHeader,
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded":
		return true
	}
	return false
}

func (x *exchange) appendForwarding(b []byte) []byte {
	b = appendField(b, requestIDHeader, x.id)
	scheme := "http"
	if x.in.TLS != nil {
		scheme = "https"
	}
	b = x.appendSaid(b, "X-Forwarded-Host", x.in.Host)
	b = x.appendSaid(b, "X-Forwarded-Proto", scheme)
	if !x.peer.IsValid() {
		return b
	}
	b = x.appendHops(b, "X-Forwarded-For")
	b = append(x.peer.AppendTo(b), "\r\n"...)
	if x.trusted && x.in.Header.Get("Forwarded") != "" {
		b = x.appendHops(b, "Forwarded")
		b = append(append(b, "for="...), forwardedNode(x.peer)...)
		b = append(b, "\r\n"...)
	}
	return b
}

// appendSaid adds what a trusted proxy said, or else value.
func (x *exchange) appendSaid(b []byte, name, value string) []byte {
	if said := x.in.Header[name]; x.trusted && len(said) > 0 {
		return appendValues(b, name, said)
	}
	return appendField(b, name, value)
}

// appendHops begins a field to which this hop is to be added, with the hops
// that a trusted proxy has named.
func (x *exchange) appendHops(b []byte, name string) []byte {
	b = append(append(b, name...), ": "...)
	if x.trusted {
		for _, said := range x.in.Header[name] {
			b = append(append(b, said...), ", "...)
		}
	}
	return b
}

// isForged reports whether no honest client sends the header: CGI-style
// programs read X_Forwarded_For or X.Forwarded.For as X-Forwarded-For, and
// Proxy as HTTP_PROXY.
func isForged(name string) bool {
	return name == "Proxy" || strings.IndexByte(name, '_') >= 0 || strings.IndexByte(name, '.') >= 0
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
	return isVisible(id) && len(id) <= maxRequestID
}
