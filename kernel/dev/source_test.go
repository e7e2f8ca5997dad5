package dev

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExcerpt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.go")
	var text strings.Builder
	for n := range 20 {
		fmt.Fprintf(&text, "\tline %d\r\n", n+1)
	}
	text.WriteString("\xff" + strings.Repeat("x", 1000))
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[int]string{1: "1-5", 3: "1-7", 10: "6-14", 21: "17-21", 22: "18-22", 23: "", 0: "", -1: ""} {
		got := ""
		if lines := Excerpt(file, line); len(lines) > 0 {
			got = fmt.Sprintf("%d-%d", lines[0].Number, lines[len(lines)-1].Number)
			if n := lines[0].Number; lines[0].Text != fmt.Sprintf("\tline %d", n) {
				t.Errorf("line %d is %q", n, lines[0].Text)
			}
		}
		if got != want {
			t.Errorf("around %d: %s, want %s", line, got, want)
		}
	}
	if last := Excerpt(file, 21)[4].Text; !strings.HasPrefix(last, "\uFFFDxx") || len([]rune(last)) != maxWidth+1 {
		t.Errorf("a long line: %d %.20q", len(last), last)
	}
	if got := Excerpt(filepath.Dir(file), 1); got != nil {
		t.Errorf("of a directory: %v", got)
	}
	if got := Excerpt("/dev/zero", 1); got != nil {
		t.Errorf("of a device: %v", got)
	}
}

func TestLink(t *testing.T) {
	if got := Link("vscode://file{file}:{line}:{column}", "/a b/ü#?.go", 3, 0); got != "vscode://file/a%20b/%C3%BC%23%3F.go:3:1" {
		t.Error(got)
	}
}

const recovered = `2026/01/02 03:04:05 http: panic serving 127.0.0.1:4242: runtime error: index out of range [3] with length 1
goroutine 7 [running]:
net/http.(*conn).serve.func1()
	/usr/lib/go/src/net/http/server.go:1947 +0xbe
panic({0x6f2a40?, 0xc000018018?})
	/usr/lib/go/src/runtime/panic.go:860 +0x132
main.main.func1({0x7f, 0x1}, 0xc0001)
	/site/pages/x/main.go:21 +0x1d
created by net/http.(*Server).Serve in goroutine 1
	/usr/lib/go/src/net/http/server.go:3454 +0x485`

const crashed = `panic: first line
second line

goroutine 1 [running]:
main.main()
	/site/pages/x/main.go:9 +0x2c
exit status 2`

func TestTrace(t *testing.T) {
	for name, c := range map[string]struct{ trace, message, place string }{
		"recovered": {recovered, "panic: runtime error: index out of range [3] with length 1", "/site/pages/x/main.go:21"},
		"crashed":   {crashed, "panic: first line\nsecond line", "/site/pages/x/main.go:9"},
	} {
		var trace Trace
		if got := trace.Add("an ordinary line"); got != nil {
			t.Errorf("%s: begins with %q", name, got)
		}
		var last []string
		for line := range strings.Lines(c.trace) {
			if last = trace.Add(strings.TrimSuffix(line, "\n")); last == nil {
				t.Fatalf("%s: %q is no part of it", name, line)
			}
		}
		if got := strings.Join(last, "\n"); got != c.trace {
			t.Errorf("%s:\n%s", name, got)
		}
		if got := trace.Add("2026/01/02 03:04:05 the next line of the log"); got != nil {
			t.Errorf("%s: goes on with %q", name, got)
		}
		if got := trace.Add("\tindented"); got != nil {
			t.Errorf("%s: begins again with %q", name, got)
		}
		if got := PanicMessage(last); got != c.message {
			t.Errorf("%s: the message is %q", name, got)
		}
		found := false
		for _, at := range Places(c.trace) {
			found = found || fmt.Sprintf("%s:%d", at.File, at.Line) == c.place
		}
		if !found {
			t.Errorf("%s: %s is not among %v", name, c.place, Places(c.trace))
		}
	}
	var trace Trace
	trace.Add("panic: x")
	for range 10 * maxTrace {
		trace.Add("\tmore")
	}
	if len(trace.lines) > maxTrace {
		t.Errorf("%d lines are kept", len(trace.lines))
	}
	if got := trace.Add("panic: " + strings.Repeat("é", 64<<10)); len(got) != 1 || len([]rune(got[0])) > maxTraceWidth+1 {
		t.Errorf("a line of %d bytes is kept", len(got[0]))
	}
}

func TestPlaces(t *testing.T) {
	for text, want := range map[string]string{
		"pages/x/a.html:3: unexpected end":               "pages/x/a.html 3 0",
		"template: a.html:3:7: bad":                      "a.html 3 7",
		"\tat serve (file:///site/x/server.mjs:12:5)":    "/site/x/server.mjs 12 5",
		"at 12:30 nothing was wrong on 127.0.0.1:8080":   "",
		"/site/pages/x/main.go:9 +0x2c":                  "/site/pages/x/main.go 9 0",
		"a.go:99999999999999999999999: a number too big": "a.go 9223372036854775807 0",
	} {
		got := ""
		if all := Places(text); len(all) > 0 {
			got = fmt.Sprint(all[0].File, " ", all[0].Line, " ", all[0].Column)
		}
		if got != want {
			t.Errorf("%q names %q, want %q", text, got, want)
		}
	}
}
