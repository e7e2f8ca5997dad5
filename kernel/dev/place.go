package dev

import (
	"bytes"
	"strings"
)

// maxHeld bounds what is held back of a document to find the place for the script. It is only what comes before the
// first thing that shows.
const maxHeld = 16 << 10

// mark is how a document may say that it is UTF-8.
const mark = "\ufeff"

// place finds where in a document the script goes: after <head>, or where a browser would begin the head by itself.
// That is behind white space, comments, the doctype and <html>. found is false when more of the document is needed to
// tell; at is then a place that will do if nothing more comes.
func place(doc []byte) (at int, found bool) {
	switch {
	case strings.HasPrefix(mark, string(doc)) && len(doc) < len(mark):
		return 0, false
	case bytes.HasPrefix(doc, []byte(mark)):
		at = len(mark)
	}
	for at < len(doc) {
		rest := doc[at:]
		length, kind := token(rest)
		switch kind {
		case head:
			return at + length, true
		case other:
			return at, true
		case partial:
			return at, false
		}
		at += length
	}
	return at, false
}

// kind is what a document begins with.
type kind int

const (
	partial kind = iota // cannot be told yet
	skipped             // shows nothing, and comes before the head
	head                // <head>
	other
)

// token tells what doc, which is not empty, begins with, and how long that is.
func token(doc []byte) (length int, k kind) {
	switch {
	case strings.IndexByte(" \t\r\n\f", doc[0]) >= 0:
		return 1, skipped
	case doc[0] != '<':
		return 0, other
	case begins(doc, "<!--"):
		return through(doc, 4, "-->")
	case begins(doc, "<!doctype"):
		return through(doc, 2, ">")
	case begins(doc, "<?"):
		return through(doc, 2, ">")
	case begins(doc, "<html"):
		return tag(doc, len("<html"), skipped)
	case begins(doc, "<head"):
		return tag(doc, len("<head"), head)
	}
	for _, start := range [...]string{"<!--", "<!doctype", "<?", "<html", "<head"} {
		if begins([]byte(start), string(doc)) {
			return 0, partial
		}
	}
	return 0, other
}

// begins compares without case.
func begins(doc []byte, start string) bool {
	return len(doc) >= len(start) && strings.EqualFold(string(doc[:len(start)]), start)
}

func through(doc []byte, from int, end string) (int, kind) {
	if i := bytes.Index(doc[from:], []byte(end)); i >= 0 {
		return from + i + len(end), skipped
	}
	return 0, partial
}

// tag finds the end of a start tag whose name is n bytes long; one with a longer name is another tag.
func tag(doc []byte, n int, is kind) (int, kind) {
	if len(doc) == n {
		return 0, partial
	}
	if strings.IndexByte(" \t\r\n\f/>", doc[n]) < 0 {
		return 0, other
	}
	quote := byte(0)
	for i, c := range doc[n:] {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
		case c == '>':
			return n + i + 1, is
		case c == '"' || c == '\'':
			quote = c
		}
	}
	return 0, partial
}
