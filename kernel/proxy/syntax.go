package proxy

import (
	"bytes"
	"net/textproto"
	"strings"
)

// tokens are the bytes of which RFC 9110 5.6.2 lets a name consist.
var tokens = func() (set [256]bool) {
	for c := range set {
		set[c] = isDigit(byte(c)) || 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		set[c] = true
	}
	return set
}()

func isToken(c byte) bool { return tokens[c] }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isFieldValue reports whether s is free of control characters other than
// tabs.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func unhex(c byte) (digit byte, ok bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// trimBlanks cuts off the spaces and tabs around a value.
func trimBlanks(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

func indexLF(b []byte) int { return bytes.IndexByte(b, '\n') }

// isWord reports whether s is an ASCII word, in any case. Of equal length, no
// other letters can pass for those of ASCII.
func isWord(s, word string) bool { return len(s) == len(word) && strings.EqualFold(s, word) }

// hasToken reports whether a list of tokens holds one, in any case.
func hasToken(list, token string) bool {
	if len(list) == len(token) {
		return strings.EqualFold(list, token)
	}
	for item := range strings.SplitSeq(list, ",") {
		if isWord(textproto.TrimString(item), token) {
			return true
		}
	}
	return false
}

// appendListed adds the header names in the value of a Connection header, but
// not the options that are no names.
func appendListed(names []string, connection string) []string {
	for item := range strings.SplitSeq(connection, ",") {
		switch item = textproto.TrimString(item); {
		case item == "", strings.EqualFold(item, "close"), strings.EqualFold(item, "keep-alive"), strings.EqualFold(item, "upgrade"):
		default:
			names = append(names, textproto.CanonicalMIMEHeaderKey(item))
		}
	}
	return names
}

// isHopByHop reports whether a header, given its canonical name, is meant for
// the next hop only.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// isTrailer reports whether a field may come after a body: not if it says
// something about the framing, the routing or the handling of the message.
func isTrailer(name string) bool {
	switch name {
	case "Content-Length", "Content-Type", "Content-Encoding", "Content-Range", "Host", "Authorization", "Cache-Control",
		"Expect", "Max-Forwards", "Pragma", "Range", "Set-Cookie", "Cookie", "Location", "Www-Authenticate",
		errorHeaderKey, requestIDHeader:
		return false
	}
	return !isHopByHop(name) && !strings.HasPrefix(name, "If-")
}
