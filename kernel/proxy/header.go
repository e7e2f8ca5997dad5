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

// identify finds out whether the peer's word is taken, and by which id the
// request goes.
func (x *exchange) identify() {
	x.trusted = x.trusts(x.peer)
	if x.trusted {
		if id := x.value(requestIDHeader); isRequestID(id) {
			x.id = id
			return
		}
	}
	x.id = newRequestID(&x.digits)
}

// value returns the first value of a field of the request, or "".
func (x *exchange) value(name string) string {
	if all := x.side.values(nil, name); len(all) > 0 {
		return all[0]
	}
	return ""
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
		if x.from == "" {
			x.from = x.peer.String()
		}
		return x.from
	}
	client := x.peer
	hops := strings.Split(strings.Join(x.side.values(nil, "X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && x.trusts(client); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		client = hop.Unmap().WithZone("")
	}
	return client.String()
}

// passes reports whether a worker gets a field of the request as it came. What
// the client says about itself goes, unless it is a trusted proxy; listed are
// the names that its Connection fields declare to be for this hop only.
func (x *exchange) passes(name string, listed []string) bool {
	return !isHopByHop(name) && !isRestated(name) && !isForged(name) && (x.trusted || !isForwarding(name)) &&
		(listed == nil || !slices.Contains(listed, name))
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
	if x.secure {
		scheme = "https"
	}
	b = x.appendSaid(b, "X-Forwarded-Host", x.host)
	b = x.appendSaid(b, "X-Forwarded-Proto", scheme)
	if !x.peer.IsValid() {
		return b
	}
	b = x.appendHops(b, "X-Forwarded-For")
	b = append(x.peer.AppendTo(b), "\r\n"...)
	if x.trusted && x.value("Forwarded") != "" {
		b = x.appendHops(b, "Forwarded")
		b = append(append(b, "for="...), forwardedNode(x.peer)...)
		b = append(b, "\r\n"...)
	}
	return b
}

// appendSaid adds what a trusted proxy said, or else value.
func (x *exchange) appendSaid(b []byte, name, value string) []byte {
	if x.trusted {
		if said := x.side.values(nil, name); len(said) > 0 {
			return appendValues(b, name, said)
		}
	}
	return appendField(b, name, value)
}

// appendHops begins a field to which this hop is to be added, with the hops
// that a trusted proxy has named.
func (x *exchange) appendHops(b []byte, name string) []byte {
	b = append(append(b, name...), ": "...)
	if x.trusted {
		for _, said := range x.side.values(nil, name) {
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

// requestIDLength is that of an id of our own.
const requestIDLength = 32

// newRequestID makes 128 random bits in hex of digits, and returns a view of
// them. They name a request and guard nothing.
func newRequestID(digits *[requestIDLength]byte) string {
	var b [requestIDLength / 2]byte
	binary.NativeEndian.PutUint64(b[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(b[8:], rand.Uint64())
	hex.Encode(digits[:], b[:])
	return view(digits[:])
}

// isRequestID reports whether a trusted peer's id is fit for a log line.
func isRequestID(id string) bool {
	return isVisible(id) && len(id) <= maxRequestID
}
