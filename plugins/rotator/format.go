package rotator

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tqserver/tqserver/sdk"
)

const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// lineCount is how many lines a batch makes: its own, and before them one that tells of lost ones.
func lineCount(b sdk.Batch) int {
	if b.Dropped > 0 {
		return len(b.Lines) + 1
	}
	return len(b.Lines)
}

// lineAt gives line i of lineCount.
func lineAt(b sdk.Batch, i int) (l sdk.Line, made bool) {
	if b.Dropped == 0 {
		return b.Lines[i], false
	}
	if i > 0 {
		return b.Lines[i-1], false
	}
	l = sdk.Line{Source: sdk.Kernel, Time: time.Now(), Text: fmt.Appendf(nil, "%d lines before this one are lost: they could not be stored in time", b.Dropped)}
	if len(b.Lines) > 0 {
		l.Time = b.Lines[0].Time
	}
	return l, true
}

func dayOf(b sdk.Batch, i int) string {
	l, _ := lineAt(b, i)
	return l.Time.Local().Format(time.DateOnly)
}

// dayAround gives the day of a line, from the midnight before to the one after.
func dayAround(b sdk.Batch, i int) (start, end time.Time) {
	l, _ := lineAt(b, i)
	year, month, day := l.Time.Local().Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.Local), time.Date(year, month, day+1, 0, 0, 0, 0, time.Local)
}

// appendLine formats line i. What the kernel itself logs has its format already.
func appendLine(buf []byte, b sdk.Batch, i int) []byte {
	l, made := lineAt(b, i)
	if l.Source != sdk.Kernel || b.Page != "" || made {
		buf = l.Time.Local().AppendFormat(buf, timeFormat)
		release := b.Release[:min(len(b.Release), 8)]
		for _, field := range []string{l.Source.String(), b.Page, b.Worker, release} {
			buf = appendField(append(buf, ' '), field)
		}
		buf = append(buf, " | "...)
	}
	text := l.Text
	if n := len(text); n > 0 && text[n-1] == '\r' {
		text = text[:n-1]
	}
	return append(appendSafe(buf, text), '\n')
}

// appendField escapes blanks too, so that fields can be told apart.
func appendField(buf []byte, s string) []byte {
	if s == "" {
		return append(buf, '-')
	}
	return appendSafe(buf, []byte(blanks.Replace(s)))
}

var blanks = strings.NewReplacer(" ", `\x20`, "\t", `\x09`)

// appendSafe escapes what could forge a line or steer a terminal: control characters but for tab, line and paragraph
// separators, and bytes that are not UTF-8.
func appendSafe(buf, text []byte) []byte {
	for len(text) > 0 {
		plain := 0
		for plain < len(text) && (text[plain] >= ' ' && text[plain] < 0x7f || text[plain] == '\t') {
			plain++
		}
		buf, text = append(buf, text[:plain]...), text[plain:]
		if len(text) == 0 {
			break
		}
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1, r < utf8.RuneSelf:
			buf = fmt.Appendf(buf, `\x%02x`, text[0])
		case unicode.IsControl(r), r == '\u2028', r == '\u2029':
			buf = fmt.Appendf(buf, `\u%04x`, r)
		default:
			buf = append(buf, text[:n]...)
		}
		text = text[n:]
	}
	return buf
}
