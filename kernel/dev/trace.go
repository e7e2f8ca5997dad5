package dev

import (
	"regexp"
	"strconv"
	"strings"
)

const (
	maxTrace      = 100     // lines that are kept of a trace
	maxTraceWidth = 4 << 10 // bytes that are kept of a line
)

// Trace gathers the last panic from what a worker prints on its standard error, line by line. The zero value is ready;
// it is not safe for concurrent use.
type Trace struct {
	lines []string
	open  bool // the next line may belong to it
}

var (
	panicStart = regexp.MustCompile(`^(panic: |fatal error: |.*\bhttp: panic serving \S+: )`)
	panicMore  = regexp.MustCompile(`^(\t|goroutine \d+ |created by |\[|panic: |exit status |$)|^[\w./·*\[\]()-]+\(.*\)$|^\.\.\.`)
)

// Add takes the next line. It gives the trace so far when the line belongs to one, nil otherwise.
func (t *Trace) Add(line string) []string {
	if len(line) > maxTraceWidth {
		line = strings.ToValidUTF8(line[:maxTraceWidth], "") + "…"
	}
	switch {
	case panicStart.MatchString(line) && !(t.open && strings.HasPrefix(line, "panic: ") && len(t.lines) < 5):
		t.lines, t.open = []string{line}, true
	case t.open && len(t.lines) < maxTrace && (len(t.lines) == 1 || t.more(line)):
		t.lines = append(t.lines, line)
	default:
		t.open = false
		return nil
	}
	return append([]string(nil), t.lines...)
}

// more tells whether a line goes on with the trace. Until the first goroutine, anything may: a message can have lines.
func (t *Trace) more(line string) bool {
	if panicMore.MatchString(line) {
		return true
	}
	for _, l := range t.lines {
		if strings.HasPrefix(l, "goroutine ") {
			return false
		}
	}
	return len(t.lines) < 20
}

// frame is a place in the source as Go prints it in a trace, as a compiler does, or as Node does.
var frame = regexp.MustCompile(`(?:^|[\s("'=]|file://)((?:/|[\w.-]+/)?[^\s:"'()]+\.[A-Za-z]\w*):(\d+)(?::(\d+))?`)

// Places lists the places in the source that a text names, in order, without repetition.
func Places(text string) []Finding {
	var all []Finding
	seen := map[string]bool{}
	for _, m := range frame.FindAllStringSubmatch(text, -1) {
		if seen[m[0]] {
			continue
		}
		seen[m[0]] = true
		f := Finding{File: m[1]}
		f.Line, _ = strconv.Atoi(m[2]) // one that is too long for a number is unknown
		f.Column, _ = strconv.Atoi(m[3])
		all = append(all, f)
	}
	return all
}

// PanicMessage is what a trace says has happened.
func PanicMessage(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	first := lines[0]
	if i := strings.Index(first, "http: panic serving "); i >= 0 {
		_, message, _ := strings.Cut(first[i+len("http: panic serving "):], ": ")
		first = "panic: " + message
	}
	message := []string{first}
	for _, line := range lines[1:] {
		if strings.HasPrefix(line, "goroutine ") || strings.HasPrefix(line, "[signal ") || line == "" {
			break
		}
		message = append(message, line)
	}
	return strings.Join(message, "\n")
}
