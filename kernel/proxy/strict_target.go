package proxy

import (
	"net/http"
	"net/netip"
	"strings"
)

// parseTarget takes the target apart: a path with a query behind it, a URL, the
// "*" of OPTIONS or the address of CONNECT. Percent encodings are checked in
// the path only, and backslashes are refused there only: browsers send both in
// queries, by which nothing is routed.
func (r *request) parseTarget() *refusal {
	if !isTarget(r.target) {
		return &refusals[badTargetByte]
	}
	rest := r.target
	switch {
	case r.method == http.MethodConnect:
		if !isAuthority(rest) || !strings.Contains(rest, ":") {
			return &refusals[badTargetForm]
		}
		r.host, r.absolute = rest, true
		return nil
	case rest == "*" && r.method == http.MethodOptions:
		return nil
	case !strings.HasPrefix(rest, "/"):
		n := authorityEnd(rest)
		if n < 0 {
			return &refusals[badTargetForm]
		}
		_, r.host, _ = strings.Cut(rest[:n], "//")
		r.absolute = true
		rest = rest[n:]
	}
	r.path, r.query, r.hasQuery = strings.Cut(rest, "?")
	return checkPath(r.path)
}

// isTarget reports whether s can be a target at all, by its bytes.
func isTarget(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return s != ""
}

// authorityEnd returns where the path or the query of an http URL begins, or -1
// if url is none.
func authorityEnd(url string) int {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok || !isWord(scheme, "http") && !isWord(scheme, "https") {
		return -1
	}
	n := strings.IndexAny(rest, "/?")
	if n < 0 {
		n = len(rest)
	}
	if !isAuthority(rest[:n]) {
		return -1
	}
	return len(url) - len(rest) + n
}

func checkPath(path string) *refusal {
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '\\':
			return &refusals[badTargetByte]
		case '%':
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return &refusals[badEscape]
			}
			i += 2
		}
	}
	return nil
}

func isHex(c byte) bool {
	_, ok := unhex(c)
	return ok
}

// isAuthority reports whether s is a host, with or without a port: a name of
// the bytes that RFC 3986 3.2.2 has for one, less the percent and the comma, or
// an IPv6 address in brackets.
func isAuthority(s string) bool {
	end := strings.IndexByte(s, ':')
	if strings.HasPrefix(s, "[") {
		end = strings.IndexByte(s, ']') + 1
		if end == 0 {
			return false
		}
		if addr, err := netip.ParseAddr(s[1 : end-1]); err != nil || !addr.Is6() || addr.Zone() != "" {
			return false
		}
		return isPort(s[end:])
	}
	if end < 0 {
		end = len(s)
	}
	for i := range end {
		if !isHostByte(s[i]) {
			return false
		}
	}
	return end > 0 && isPort(s[end:])
}

func isHostByte(c byte) bool {
	return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80 || strings.IndexByte("-._~!$&'()*+;=", c) >= 0
}

// isPort reports whether s is empty or a colon with digits behind it.
func isPort(s string) bool {
	const longest = len(":65535")
	if s == "" {
		return true
	}
	for i := 1; i < len(s); i++ {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s[0] == ':' && len(s) <= longest
}

// routePath returns the path that the request is routed by, or why it is
// refused: what target does for a request that net/http has read. It does not
// allocate for a path without percent encodings.
func (r *request) routePath() (string, *fault) {
	switch {
	case r.method == http.MethodConnect:
		return "", &fault{status: http.StatusMethodNotAllowed, kind: kindMethod}
	case r.path == "" && r.absolute:
		return "/", nil
	case r.path == "":
		return "", badTarget("target is not a path")
	case strings.HasPrefix(r.path, "//") && !isPlainPath(r.path):
		return "", badTarget("path starts with // and is not encoded")
	}
	path := r.path
	if strings.IndexByte(path, '%') >= 0 {
		var ok bool
		if path, ok = decodePath(path); !ok {
			return "", badTarget("path holds a backslash or a NUL")
		}
	}
	if hasDots(path) {
		return "", badTarget("path holds a . or .. segment")
	}
	return path, nil
}

// isPlainPath reports whether a path holds no byte that net/url would encode.
func isPlainPath(path string) bool {
	for i := range len(path) {
		if c := path[i]; !isHostByte(c) && strings.IndexByte("/%:@,[]", c) < 0 {
			return false
		}
	}
	return true
}

// decodePath decodes path, with a NUL, which no route holds, for each encoded
// slash.
func decodePath(path string) (string, bool) {
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			high, _ := unhex(path[i+1])
			low, _ := unhex(path[i+2])
			i += 2
			switch c = high<<4 | low; c {
			case '/':
				c = 0
			case 0, '\\':
				return "", false
			}
		}
		b = append(b, c)
	}
	return view(b), true
}

// hasDots is hasDotSegment for a path in which encoded slashes are NULs.
func hasDots(path string) bool {
	for i := 0; i < len(path); i++ {
		if path[i] != '.' || i > 0 && path[i-1] != '/' && path[i-1] != 0 {
			continue
		}
		end := i + 1
		if end < len(path) && path[end] == '.' {
			end++
		}
		if end == len(path) || path[end] == '/' || path[end] == 0 {
			return true
		}
	}
	return false
}
