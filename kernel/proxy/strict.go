package proxy

import (
	"strings"
	"sync"
)

// Bounds of what a client may send in front of a body.
const (
	maxRequestHead   = 32 << 10 // bytes
	maxRequestLine   = 8 << 10  // bytes, of the first line and of every other
	maxRequestFields = 100
)

// request is the head of a client's request, read more strictly than net/http
// does: what is accepted here has one meaning only. Its strings are parts of
// the head, and valid as long as that is.
type request struct {
	method   string
	target   string // as it came
	path     string // of the target, as it came; "" in "*", in CONNECT and in a URL without one
	query    string // behind the ?
	hasQuery bool
	absolute bool   // the target is a URL
	host     string // of the target if that is a URL, or else of the Host field; "" only in HTTP/1.0
	fields   []field
	length   int64 // of Content-Length; -1 without
	chunked  bool
	old      bool // HTTP/1.0
	last     bool // the connection ends with the answer
	upgrade  bool // there is an Upgrade field
	expects  bool // there is an Expect field
	hosts    int  // Host fields
	keep     bool // Connection: keep-alive
	announce bool // there is a Trailer field
}

// requestEnd looks for the empty line that ends the head of a request. It
// returns how much of b the head takes, or 0 and where to go on once there is
// more. Every line must end in CRLF. The error is a *refusal.
func requestEnd(b []byte, from int) (end, next int, err error) {
	if from == 0 && len(b) > 0 && !isToken(b[0]) {
		return 0, 0, &refusals[badStart]
	}
	for from < len(b) {
		n := indexLF(b[from:])
		switch {
		case n > maxRequestLine || n < 0 && len(b)-from > maxRequestLine:
			return 0, 0, tooLong(from)
		case n < 0:
			return 0, from, nil
		case n == 0 || b[from+n-1] != '\r':
			return 0, 0, &refusals[badLineEnd]
		case n == 1:
			return from + 2, from + 2, nil
		case from == 0 && !endsLikeHTTP(b[:n-1]):
			return 0, 0, &refusals[badRequestLine]
		}
		if from += n + 1; from >= maxRequestHead {
			return 0, 0, &refusals[longHead]
		}
	}
	return 0, from, nil
}

// endsLikeHTTP tells the line of a request from what other protocols say, and
// then do not say more.
func endsLikeHTTP(line []byte) bool {
	const end = " HTTP/1.1"
	return len(line) >= len(end) && string(line[len(line)-len(end):len(line)-len("1.1")]) == end[:len(" HTTP/")]
}

func tooLong(from int) *refusal {
	if from == 0 {
		return &refusals[longLine]
	}
	return &refusals[longField]
}

// parse reads a head that requestEnd has found, and writes the names of its
// fields in canonical form. It does not allocate once r.fields is large enough.
// The error is a *refusal.
func (r *request) parse(head []byte) error {
	*r = request{length: -1, fields: r.fields[:0]}
	n := indexLF(head)
	bad := r.parseLine(view(head[:n-1]))
	if bad == nil {
		bad = r.parseFields(head[n+1:])
	}
	if bad == nil {
		bad = r.check()
	}
	if bad != nil { // or the error would be a nil *refusal
		return bad
	}
	return nil
}

// parseLine reads a line such as "GET / HTTP/1.1", with single spaces.
func (r *request) parseLine(line string) *refusal {
	method, rest, _ := strings.Cut(line, " ")
	target, version, ok := strings.Cut(rest, " ")
	switch {
	case !ok || !isFieldName(method):
		return &refusals[badRequestLine]
	case version == "HTTP/1.0":
		r.old = true
	case version == "HTTP/1.1":
	case len(version) == len("HTTP/1.1") && version[:5] == "HTTP/" && isDigit(version[5]) && version[6] == '.' && isDigit(version[7]):
		return &refusals[badVersion]
	default:
		return &refusals[badRequestLine]
	}
	r.method, r.target = method, target
	return r.parseTarget()
}

// parseFields reads the lines of a header up to the empty one.
func (r *request) parseFields(b []byte) *refusal {
	for {
		n := indexLF(b)
		if n == 1 {
			return nil
		}
		if len(r.fields) == maxRequestFields {
			return &refusals[manyFields]
		}
		f, bad := cutField(b[:n-1])
		if bad != nil {
			return bad
		}
		r.fields = append(r.fields, f)
		if bad := r.note(f); bad != nil {
			return bad
		}
		b = b[n+1:]
	}
}

// cutField reads "Name: value" and makes the name canonical where it is. A name
// with a space before its colon and a line that continues another are refused:
// others read them differently.
func cutField(line []byte) (field, *refusal) {
	upper := true // the next letter should be
	for i, c := range line {
		switch {
		case c == ':' && i > 0:
			value := trimBlanks(view(line[i+1:]))
			if !isFieldValue(value) {
				return field{}, &refusals[badFieldValue]
			}
			return field{view(line[:i]), value}, nil
		case !isToken(c):
			return field{}, &refusals[badFieldName]
		case upper && 'a' <= c && c <= 'z', !upper && 'A' <= c && c <= 'Z':
			line[i] = c ^ 0x20
		}
		upper = c == '-'
	}
	return field{}, &refusals[badFieldLine]
}

// note takes in what a field says about the message itself.
func (r *request) note(f field) *refusal {
	switch f.name {
	case "Host":
		return r.noteHost(f.value)
	case "Content-Length":
		return r.noteLength(f.value)
	case "Transfer-Encoding":
		if r.chunked || !isWord(f.value, "chunked") {
			return &refusals[badCoding]
		}
		r.chunked = true
	case "Connection":
		r.last = r.last || hasToken(f.value, "close")
		r.keep = r.keep || hasToken(f.value, "keep-alive")
	case "Upgrade":
		r.upgrade = true
	case "Expect":
		if f.value != "" && !hasToken(f.value, "100-continue") {
			return &refusals[badExpect] // net/http would do so unseen
		}
		r.expects = true
	case "Trailer":
		r.announce = true
	}
	return nil
}

func (r *request) noteHost(value string) *refusal {
	if r.hosts++; r.hosts > 1 {
		return &refusals[manyHosts]
	}
	if !isAuthority(value) {
		return &refusals[badHost]
	}
	if !r.absolute {
		r.host = value
	}
	return nil
}

func (r *request) noteLength(value string) *refusal {
	n, ok := parseLength(value)
	switch {
	case !ok:
		return &refusals[badLength]
	case r.length >= 0:
		return &refusals[manyLengths]
	}
	r.length = n
	return nil
}

// check looks at what depends on more than one field.
func (r *request) check() *refusal {
	switch {
	case r.chunked && r.length >= 0:
		return &refusals[badBoth]
	case r.chunked && r.old:
		return &refusals[badOldCoding]
	case r.hosts == 0 && !r.old:
		return &refusals[noHost]
	case r.chunked && r.announce && r.announcesFraming():
		return &refusals[badTrailerName]
	}
	r.last = r.last || r.old && !r.keep
	return nil
}

// announcesFraming reports whether a field is announced to come after the body
// that would say where the body ends.
func (r *request) announcesFraming() bool {
	for _, f := range r.fields {
		if f.name == "Trailer" && (hasToken(f.value, "Content-Length") || hasToken(f.value, "Transfer-Encoding") || hasToken(f.value, "Trailer")) {
			return true
		}
	}
	return false
}

// offersUpgrade is askedUpgrade for a request without a body.
func (r *request) offersUpgrade() bool {
	protocol, asked := "", false
	for _, f := range r.fields {
		if f.name == "Upgrade" && protocol == "" {
			protocol = f.value
		}
		asked = asked || f.name == "Connection" && hasToken(f.value, "upgrade")
	}
	return asked && !r.old && protocol != "" && !strings.EqualFold(protocol, "h2c")
}

var requests = sync.Pool{New: func() any { return new(request) }}

// release gives r back. Nothing of it must be used any more.
func (r *request) release() {
	clear(r.fields)
	*r = request{fields: r.fields[:0]}
	requests.Put(r)
}
