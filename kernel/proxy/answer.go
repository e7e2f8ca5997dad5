package proxy

import (
	"errors"
	"fmt"
	"net/textproto"
	"strings"
)

// Bounds of what a worker may answer.
const (
	maxResponseHeader = 1 << 20 // bytes of a head, and of the trailers
	maxResponseFields = 1000
	maxInformational  = 32 // answers of status 1xx before the final one
)

// errAnswer is an answer that is not HTTP/1. errFraming is one whose end two
// readers could see in different places: it is passed on to nobody.
var (
	errAnswer  = errors.New("proxy: malformed answer")
	errFraming = errors.New("proxy: ambiguous framing")
)

// field is a header field; the name is in canonical form.
type field struct{ name, value string }

// answer is the head of a worker's answer. Its strings are parts of the head.
type answer struct {
	status  int
	fields  []field // as they came
	length  int64   // of Content-Length; -1 without
	digits  string  // the same
	chunked bool
	last    bool // the worker closes the connection afterwards
	old     bool // HTTP/1.0
}

// headEnd looks for the empty line that ends a head. It returns how much of b
// the head takes, or 0 and where to go on once there is more. Every line must
// end in CRLF, and the first must begin as a status line does, so that what is
// no HTTP is seen before its end.
func headEnd(b []byte, from int) (end, next int, err error) {
	if from == 0 && !beginsLikeHTTP(b) {
		return 0, 0, fmt.Errorf("%w: it begins with %.20q", errAnswer, b)
	}
	return fieldsEnd(b, from)
}

// fieldsEnd is headEnd without a status line. from is where a line begins.
func fieldsEnd(b []byte, from int) (end, next int, err error) {
	for from < len(b) {
		n := indexLF(b[from:])
		switch {
		case n < 0:
			return 0, from, nil
		case n == 0 || b[from+n-1] != '\r':
			return 0, 0, fmt.Errorf("%w: a line does not end in CRLF", errAnswer)
		case n == 1:
			return from + 2, from + 2, nil
		}
		from += n + 1
	}
	return 0, from, nil
}

func beginsLikeHTTP(b []byte) bool {
	const start = "HTTP/1."
	n := min(len(b), len(start))
	return string(b[:n]) == start[:n]
}

// parse reads a head that headEnd has found. Errors wrap errAnswer or
// errFraming.
func (a *answer) parse(head string) error {
	line, rest, _ := strings.Cut(head, "\r\n")
	*a = answer{length: -1, fields: a.fields[:0]}
	if err := a.parseStatus(line); err != nil {
		return err
	}
	var err error
	if a.fields, err = appendFields(a.fields, rest); err != nil {
		return err
	}
	return a.frame()
}

// parseStatus reads a line such as "HTTP/1.1 200 OK", where the reason may be
// missing.
func (a *answer) parseStatus(line string) error {
	const shortest = len("HTTP/1.1 200")
	if len(line) < shortest || !strings.HasPrefix(line, "HTTP/1.") || line[7] != '0' && line[7] != '1' || line[8] != ' ' {
		return fmt.Errorf("%w: status line %.40q", errAnswer, line)
	}
	for _, c := range []byte(line[9:shortest]) {
		if !isDigit(c) {
			return fmt.Errorf("%w: status line %.40q", errAnswer, line)
		}
		a.status = a.status*10 + int(c-'0')
	}
	if a.status < 100 || len(line) > shortest && line[shortest] != ' ' || !isFieldValue(line[shortest:]) {
		return fmt.Errorf("%w: status line %.40q", errAnswer, line)
	}
	a.old = line[7] == '0'
	return nil
}

// appendFields reads the lines of a header up to the empty one.
func appendFields(fields []field, text string) ([]field, error) {
	for {
		line, rest, ok := strings.Cut(text, "\r\n")
		if !ok || line == "" {
			return fields, nil
		}
		f, err := parseField(line)
		if err != nil {
			return fields, err
		}
		if len(fields) == maxResponseFields {
			return fields, fmt.Errorf("%w: more than %d header fields", errAnswer, maxResponseFields)
		}
		fields = append(fields, f)
		text = rest
	}
}

// canonicalise writes the names of the fields in b in canonical form, where it
// finds names.
func canonicalise(b []byte) {
	for len(b) > 0 {
		upper := true // the next letter should be
		for i, c := range b {
			if upper && 'a' <= c && c <= 'z' || !upper && 'A' <= c && c <= 'Z' {
				b[i] = c ^ 0x20
			} else if !isToken(c) {
				break
			}
			upper = c == '-'
		}
		b = b[indexLF(b)+1:]
	}
}

// parseField reads "Name: value". A name with a space before its colon and a
// line that continues another are refused: others read them differently.
func parseField(line string) (field, error) {
	colon := strings.IndexByte(line, ':')
	if colon <= 0 {
		return field{}, fmt.Errorf("%w: header line %.40q", errAnswer, line)
	}
	name, canonical := line[:colon], true
	upper := true // the next letter should be
	for i := range len(name) {
		c := name[i]
		if !isToken(c) {
			return field{}, fmt.Errorf("%w: header line %.40q", errAnswer, line)
		}
		if upper && 'a' <= c && c <= 'z' || !upper && 'A' <= c && c <= 'Z' {
			canonical = false
		}
		upper = c == '-'
	}
	if !canonical {
		name = textproto.CanonicalMIMEHeaderKey(name)
	}
	value := trimBlanks(line[colon+1:])
	if !isFieldValue(value) {
		return field{}, fmt.Errorf("%w: control character in header %s", errAnswer, name)
	}
	return field{name, value}, nil
}

// frame finds out how the body ends.
func (a *answer) frame() error {
	keep, codings := false, 0
	for _, f := range a.fields {
		switch f.name {
		case "Content-Length":
			if a.length >= 0 {
				return fmt.Errorf("%w: repeated Content-Length", errFraming)
			}
			n, ok := parseLength(f.value)
			if !ok {
				return fmt.Errorf("%w: Content-Length %.40q", errFraming, f.value)
			}
			a.length, a.digits = n, f.value
		case "Transfer-Encoding":
			if codings++; codings > 1 || !isWord(f.value, "chunked") {
				return fmt.Errorf("%w: Transfer-Encoding %.40q", errFraming, f.value)
			}
			a.chunked = true
		case "Connection":
			a.last = a.last || hasToken(f.value, "close")
			keep = keep || hasToken(f.value, "keep-alive")
		}
	}
	switch {
	case a.chunked && a.length >= 0:
		return fmt.Errorf("%w: both Content-Length and Transfer-Encoding", errFraming)
	case a.chunked && a.old:
		return fmt.Errorf("%w: Transfer-Encoding in HTTP/1.0", errFraming)
	}
	a.last = a.last || a.old && !keep
	return nil
}

// bodiless reports whether the answer ends with its head, whatever its framing
// says.
func (a *answer) bodiless(method string) bool {
	return method == "HEAD" || a.status < 200 || a.status == 204 || a.status == 304
}

// saysLength reports whether a client is told the length.
func (a *answer) saysLength(method string, bodiless bool) bool {
	return a.length >= 0 && (!bodiless || method == "HEAD" || a.status == 304)
}

// value returns the first value of a field, given its canonical name.
func (a *answer) value(name string) string {
	for _, f := range a.fields {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// upgrade returns the protocol that the answer switches to, or "".
func (a *answer) upgrade() string {
	for _, f := range a.fields {
		if f.name == "Connection" && hasToken(f.value, "upgrade") {
			return a.value("Upgrade")
		}
	}
	return ""
}

// listed returns the names that Connection fields declare to be meant for the
// next hop only. It is nil for the usual ones.
func (a *answer) listed() (names []string) {
	for _, f := range a.fields {
		if f.name == "Connection" {
			names = appendListed(names, f.value)
		}
	}
	return names
}

// parseLength reads digits, and nothing but.
func parseLength(s string) (n int64, ok bool) {
	const maxDigits = 18 // so that it cannot overflow
	if s == "" || len(s) > maxDigits {
		return 0, false
	}
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// parseChunkSize reads the line before a chunk, without its CRLF. An extension
// is passed over.
func parseChunkSize(line []byte) (n int64, err error) {
	const maxDigits = 15 // so that it cannot overflow
	i := 0
	for ; i < len(line); i++ {
		digit, ok := unhex(line[i])
		if !ok {
			break
		}
		n = n<<4 | int64(digit)
	}
	if i == 0 || i > maxDigits || i < len(line) && (line[i] != ';' || !isFieldValue(string(line[i:]))) {
		return 0, fmt.Errorf("%w: chunk size %.40q", errFraming, line)
	}
	return n, nil
}

// isFieldName reports whether s can be the name of a field.
func isFieldName(s string) bool {
	for i := range len(s) {
		if !isToken(s[i]) {
			return false
		}
	}
	return s != ""
}
