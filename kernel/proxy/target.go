package proxy

import (
	"net/http"
	"net/url"
	"strings"
)

// serverItself is the path of "OPTIONS *", which asks about the server and not
// about anything on it. No route is found by it.
const serverItself = "*"

// target returns the path that r is routed by, or why r is refused. What is
// routed is what is forwarded: nothing is cleaned, and a path that two parsers
// could read differently is refused. An encoded slash is data, not a
// separator: "/api%2Fx" is not below "/api".
func target(r *http.Request) (string, *fault) {
	u := r.URL
	if bad := checkHTTP2(r); bad != nil {
		return "", bad.fault()
	}
	if bad := refusedBefore(u); bad != nil {
		return "", bad.fault()
	}
	switch {
	case r.Method == http.MethodConnect:
		return "", &fault{status: http.StatusMethodNotAllowed, kind: kindMethod}
	case u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https", u.Opaque != "":
		return "", badTarget("target is not an http URL")
	case r.Method == http.MethodOptions && r.RequestURI == "*":
		return serverItself, nil
	case u.Path == "" && u.Scheme != "":
		return "/", nil
	case !strings.HasPrefix(u.Path, "/"):
		return "", badTarget("target is not a path")
	case strings.ContainsAny(u.Path, "\\\x00"), strings.Contains(u.RawPath, "#"), strings.Contains(u.RawQuery, "#"):
		return "", badTarget("path holds a backslash, a NUL or a #")
	case hasDotSegment(u.Path):
		return "", badTarget("path holds a . or .. segment")
	case strings.HasPrefix(u.RawPath, "//") && needsOpaque(u):
		return "", badTarget("path starts with // and is not encoded")
	}
	return routedPath(u), nil
}

// checkHTTP2 refuses what net/http lets pass in HTTP/2, and only there, although
// it cannot be said to a worker in one way only: a target with spaces would take
// the request line apart, and a body with a length that is none would be lost.
func checkHTTP2(r *http.Request) *refusal {
	if r.ProtoMajor == 1 {
		return nil
	}
	if bad := checkFields(r.Host, r.Header); bad != nil {
		return bad
	}
	lengths := r.Header["Content-Length"]
	switch {
	case !isFieldName(r.Method):
		return &refusals[badRequestLine]
	case !isTarget(r.RequestURI):
		return &refusals[badTargetByte]
	case len(r.Method)+len(r.RequestURI)+len("  HTTP/1.1\r") > maxRequestLine:
		return &refusals[longLine]
	case len(lengths) > 1:
		return &refusals[manyLengths]
	case len(lengths) == 1:
		if n, ok := parseLength(lengths[0]); !ok || n != r.ContentLength {
			return &refusals[badLength]
		}
	}
	return nil
}

// checkFields has the header of a request with HTTP/2 keep the bounds that that
// of one with HTTP/1 has. net/http refuses another Expect than 100-continue
// there only, and takes 100-continue out here.
func checkFields(host string, h http.Header) *refusal {
	count, size := 0, len("Host: \r\n")+len(host)
	if size > maxRequestLine {
		return &refusals[longField]
	}
	for name, values := range h {
		for _, v := range values {
			n := len(name) + len(": \r") + len(v)
			if n > maxRequestLine {
				return &refusals[longField]
			}
			count, size = count+1, size+n+len("\n")
			if name == "Expect" && v != "" {
				return &refusals[badExpect]
			}
		}
	}
	switch {
	case count > maxRequestFields:
		return &refusals[manyFields]
	case size > maxRequestHead:
		return &refusals[longHead]
	}
	return nil
}

func badTarget(why string) *fault {
	return &fault{status: http.StatusBadRequest, kind: kindBadRequest, cause: errorString(why)}
}

// routedPath is u's decoded path with a NUL, which no route holds, in place of
// each encoded slash.
func routedPath(u *url.URL) string {
	if !strings.Contains(u.RawPath, "%2F") && !strings.Contains(u.RawPath, "%2f") {
		return u.Path
	}
	raw := strings.NewReplacer("%2F", "%00", "%2f", "%00").Replace(u.RawPath)
	path, err := url.PathUnescape(raw)
	if err != nil { // net/http parsed it before
		return u.Path
	}
	return path
}

// needsOpaque reports whether net/url would encode u's path in its own way
// instead of repeating what the client sent.
func needsOpaque(u *url.URL) bool {
	return u.RawPath != "" && u.EscapedPath() != u.RawPath
}

func hasDotSegment(path string) bool {
	if !strings.Contains(path, "/.") {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}
