package proxy

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// refusal is why a request is not taken from a client: two readers could
// understand it differently, or it is too large.
type refusal struct {
	status int
	why    string
}

func (r *refusal) Error() string { return r.why }

func (r *refusal) fault() *fault {
	if r == &refusals[slowHead] {
		return &fault{r.status, kindReadTimeout, r}
	}
	return &fault{r.status, kindBadRequest, r}
}

// breach is what a client was refused for.
type breach struct {
	why          *refusal
	method, path string // of a head, as far as they came; else "-"
	began        time.Time
}

// subject returns the method and the path that a head begins with, for the log.
// What is not there as a whole, or is malformed, is "-".
func subject(head []byte) (method, path string) {
	line, _, ended := strings.Cut(string(head[:min(len(head), maxRequestLine)]), "\r")
	method, target, ok := strings.Cut(line, " ")
	if !ok || !isFieldName(method) {
		return "-", "-"
	}
	end := strings.IndexAny(target, " ?#")
	if end < 0 && ended {
		end = len(target)
	}
	if end < 1 || target[0] != '/' || !isVisible(target[:end]) {
		return method, "-"
	}
	return method, target[:end]
}

// The refusals, as indexes of refusals.
const (
	badStart = iota
	badLineEnd
	badRequestLine
	badVersion
	badTargetByte
	badTargetForm
	badEscape
	badFieldLine
	badFieldName
	badFieldValue
	badHost
	manyHosts
	noHost
	badLength
	manyLengths
	badCoding
	badOldCoding
	badBoth
	badTrailerName
	badExpect
	badChunkSize
	badChunkExtension
	badChunkEnd
	badTrailer
	longLine
	longField
	longHead
	manyFields
	slowHead
	countOfRefusals
)

var refusals = [countOfRefusals]refusal{
	badStart:          {http.StatusBadRequest, "request does not begin with a method"},
	badLineEnd:        {http.StatusBadRequest, "a line of the header does not end in CRLF"},
	badRequestLine:    {http.StatusBadRequest, "malformed request line"},
	badVersion:        {http.StatusHTTPVersionNotSupported, "HTTP version is neither 1.0 nor 1.1"},
	badTargetByte:     {http.StatusBadRequest, "target holds a control character, a backslash or a #"},
	badTargetForm:     {http.StatusBadRequest, "target is not a path or an http URL"},
	badEscape:         {http.StatusBadRequest, "malformed percent encoding in the path"},
	badFieldLine:      {http.StatusBadRequest, "header line without a name"},
	badFieldName:      {http.StatusBadRequest, "header name is not a token"},
	badFieldValue:     {http.StatusBadRequest, "control character in a header"},
	badHost:           {http.StatusBadRequest, "malformed Host"},
	manyHosts:         {http.StatusBadRequest, "more than one Host"},
	noHost:            {http.StatusBadRequest, "no Host"},
	badLength:         {http.StatusBadRequest, "malformed Content-Length"},
	manyLengths:       {http.StatusBadRequest, "more than one Content-Length"},
	badCoding:         {http.StatusBadRequest, "Transfer-Encoding is not just chunked"},
	badOldCoding:      {http.StatusBadRequest, "Transfer-Encoding in HTTP/1.0"},
	badBoth:           {http.StatusBadRequest, "both Content-Length and Transfer-Encoding"},
	badTrailerName:    {http.StatusBadRequest, "Trailer announces a field about the framing"},
	badExpect:         {http.StatusExpectationFailed, "Expect is not 100-continue"},
	badChunkSize:      {http.StatusBadRequest, "malformed chunk size"},
	badChunkExtension: {http.StatusBadRequest, "malformed or too long chunk extension"},
	badChunkEnd:       {http.StatusBadRequest, "no CRLF after a chunk"},
	badTrailer:        {http.StatusBadRequest, "malformed or too long trailer"},
	longLine:          {http.StatusRequestURITooLong, "request line is too long"},
	longField:         {http.StatusRequestHeaderFieldsTooLarge, "header line is too long"},
	longHead:          {http.StatusRequestHeaderFieldsTooLarge, "header is too long"},
	manyFields:        {http.StatusRequestHeaderFieldsTooLarge, "too many header fields"},
	slowHead:          {http.StatusRequestTimeout, string(errSlowHead)},
}

// refusedPath begins the target of a request that stands for one which was
// refused, for the sake of net/http. No client can send it, since its # is
// refused.
const refusedPath = "/#"

// appendRefused adds a request for net/http, of which it has got given bytes.
func appendRefused(b []byte, given int, err error) []byte {
	switch {
	case given == 0:
		b = append(b, "- "...)
	case b[len(b)-1] != ' ':
		b = append(b, ' ')
	}
	b = append(b, refusedPath...)
	for i := range refusals {
		if err == &refusals[i] {
			b = strconv.AppendInt(b, int64(i), 10)
		}
	}
	return append(b, " HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n"...)
}

// refusedBefore returns why the request that u stands for was refused, or nil.
func refusedBefore(u *url.URL) *refusal {
	index, ok := strings.CutPrefix(u.Path, refusedPath)
	if !ok || !strings.HasPrefix(u.RawPath, refusedPath) {
		return nil
	}
	if i, err := strconv.Atoi(index); err == nil && 0 <= i && i < len(refusals) {
		return &refusals[i]
	}
	return &refusals[badTargetByte]
}
