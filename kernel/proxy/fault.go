package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// The kinds of faults: which timer or which part failed. They are the values
// of the X-TQ-Error header and the start of [Entry.Error]; faultKinds has more
// about each.
const (
	kindBadRequest      = "bad_request"         // 400: the request's target is ambiguous
	kindMethod          = "method_not_allowed"  // 405: CONNECT
	kindRouteNotFound   = "route_not_found"     // 404: no page there, or it was removed
	kindReadTimeout     = "read_timeout"        // 408: the client stopped sending its body
	kindClientClosed    = "client_closed"       // 499, in the log only: the client went away
	kindDial            = "dial"                // 502: the worker takes no connections, and no other came
	kindWorkerClosed    = "worker_closed"       // 502: the worker closed the connection
	kindWorkerError     = "worker_error"        // 502: the worker's answer is not HTTP
	kindBadFraming      = "bad_framing"         // 502: where the worker's answer ends is ambiguous
	kindBadUpgrade      = "bad_upgrade"         // 502: the worker switched to what was not asked for
	kindHoldTimeout     = "hold_timeout"        // 503: no worker got ready in time
	kindHoldFull        = "hold_full"           // 503: too many requests wait already
	kindQueueTimeout    = "queue_timeout"       // 503: no worker had room in time
	kindQueueFull       = "queue_full"          // 503: too many requests wait for room already
	kindNoWorker        = "no_worker"           // 503: there is no worker, and none will come soon
	kindProxyLimit      = "proxy_limit"         // 503: out of file descriptors or ports
	kindResponseTimeout = "response_timeout"    // 504: no response headers in time
	kindStreamIdle      = "stream_idle_timeout" // in the log only: the worker stopped in the midst of its answer
	kindWriteTimeout    = "write_timeout"       // in the log only: the client stopped reading
)

const (
	errorHeader         = "X-TQ-Error"
	errorHeaderKey      = "X-Tq-Error" // in a header map
	statusClientClosed  = 499
	retryAfterSeconds   = "1"
	contentTypeJSON     = "application/json"
	contentTypePlain    = "text/plain; charset=utf-8"
	contentTypeOptions  = "X-Content-Type-Options"
	messageNotFound     = "Worker not found"
	messageUnavailable  = "Worker not available, try again soon"
	messageBadGateway   = "Worker did not answer"
	messageGatewayTimer = "Worker did not answer in time"
)

// fault is why the proxy, and not a worker, ends a request.
type fault struct {
	status int
	kind   string
	cause  error // may be nil; never shown to a client unless Options.Reveal says so
}

// String is what the log says.
func (f *fault) String() string {
	if detail := f.detail(); detail != "" {
		return printable(f.kind + ": " + detail)
	}
	return f.kind
}

func (f *fault) message() string {
	switch f.status {
	case http.StatusNotFound:
		return messageNotFound
	case http.StatusBadGateway:
		return messageBadGateway
	case http.StatusServiceUnavailable:
		return messageUnavailable
	case http.StatusGatewayTimeout:
		return messageGatewayTimer
	}
	return http.StatusText(f.status)
}

// refuse answers with f, unless an answer has begun or nobody is there to
// read it.
func (x *exchange) refuse(f *fault) {
	if x.out.started || f.kind == kindClientClosed {
		return
	}
	x.out.refused = true
	contentType, body := x.errorBody(f)
	fields := []field{
		{errorHeader, f.kind},
		{requestIDHeader, x.id},
		{"Cache-Control", "no-store"},
		{contentTypeOptions, "nosniff"},
		{"Content-Type", contentType},
		{"Content-Length", strconv.Itoa(len(body))},
	}
	if f.status == http.StatusServiceUnavailable {
		fields = append(fields, field{"Retry-After", retryAfterSeconds})
	}
	if x.method == http.MethodHead {
		body = nil
	}
	x.side.refuse(f.status, fields, body)
}

// failed reports whether the request failed through its worker's fault. That it
// waited for a worker in vain, or that the client went away, is none.
func (x *exchange) failed(f *fault) bool {
	if f != nil {
		return f.isWorkers()
	}
	return x.out.status >= http.StatusInternalServerError
}

// isWorkers reports whether the worker is to blame.
func (f *fault) isWorkers() bool {
	return f.status == http.StatusBadGateway || f.status == http.StatusGatewayTimeout
}

func (x *exchange) errorBody(f *fault) (contentType string, body []byte) {
	detail := ""
	if x.proxy.o.Reveal() {
		detail = f.detail()
	}
	if !prefersJSON(x.side.values(nil, "Accept")) {
		if detail != "" {
			detail = "\n" + detail + "\n"
		}
		return contentTypePlain, fmt.Appendf(nil, "%s\n%s", f.message(), detail)
	}
	body, err := json.Marshal(struct {
		Error     string `json:"error"`
		Status    int    `json:"status"`
		RequestID string `json:"request_id"`
		Detail    string `json:"detail,omitempty"`
	}{f.message(), f.status, x.id, detail})
	if err != nil {
		return contentTypePlain, []byte(f.message() + "\n")
	}
	return contentTypeJSON, append(body, '\n')
}

// prefersJSON reports whether an Accept header likes JSON better than text: by
// quality, then by being more exact than a wildcard, then by coming first.
func prefersJSON(accept []string) bool {
	json, best, exact := false, 0.0, false
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			kind, params, _ := strings.Cut(item, ";")
			kind = strings.ToLower(strings.TrimSpace(kind))
			q := quality(params)
			isExact := !strings.HasSuffix(kind, "/*")
			if kind == "" || q == 0 || q < best || q == best && (exact || !isExact) {
				continue
			}
			json, best, exact = kind == contentTypeJSON || strings.HasSuffix(kind, "+json") && !strings.HasPrefix(kind, "image/"), q, isExact
		}
	}
	return json
}

// quality is the q of an Accept item's parameters, 1 if there is none and 0 if
// it is no number.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") {
			q, err := strconv.ParseFloat(value, 64)
			if err != nil || q < 0 || q > 1 {
				return 0
			}
			return q
		}
	}
	return 1
}

// printable replaces control characters, so that a worker's or a client's bytes
// cannot forge a log line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// errorString is a constant error.
type errorString string

func (e errorString) Error() string { return string(e) }
