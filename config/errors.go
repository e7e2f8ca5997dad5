package config

import (
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a configuration file. Line and Column count from 1;
// they are 0 when the place is the file as a whole.
type Position struct {
	File         string
	Line, Column int
}

// String returns "file:line:col", without the parts that are not known.
func (p Position) String() string {
	switch {
	case p.Line == 0 && p.File == "":
		return "default configuration"
	case p.Line == 0:
		return p.File
	case p.File == "":
		return fmt.Sprintf("%d:%d", p.Line, p.Column)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is one problem in a configuration.
type Error struct {
	Position
	// Key is the full key, such as workers.port_range_end, or "".
	Key string
	// Message says what is wrong.
	Message string
	// Hint says what to do about it, or is "".
	Hint string

	cause error
}

// Error returns "file:line:col: key: message (hint)".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Position.String() + ": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Unwrap returns the cause: that of a file which could not be read, else nil.
func (e *Error) Unwrap() error { return e.cause }

// Errors are all problems of one file, in the order of the file.
type Errors []*Error

// Error returns one line for each problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns every problem.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, one := range e {
		out[i] = one
	}
	return out
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

// Nearest returns the known key that name was probably meant to be, "" if
// there is none: the one with the fewest typing errors, at most one in three
// characters, else the first that begins with name, as debounce_ms does with
// debounce, or that name begins with. Case, "-" and "_" do not count.
func Nearest(name string, known []string) string {
	typed := fold(name)
	if typed == "" {
		return ""
	}
	best, fewest := "", len(typed)+1
	for _, k := range known {
		meant := fold(k)
		limit := max(1, len(meant)/3)
		if len(typed)-len(meant) > limit || len(meant)-len(typed) > limit {
			continue
		}
		if n := typos(typed, meant); n <= limit && n < fewest && n < len(typed) {
			best, fewest = k, n
		}
	}
	if best != "" {
		return best
	}
	for _, k := range known {
		if startsWith(fold(k), typed) || startsWith(typed, fold(k)) {
			return k
		}
	}
	return ""
}

// startsWith reports whether whole starts with a part that says something.
func startsWith(whole, part string) bool { return len(part) >= 3 && strings.HasPrefix(whole, part) }

var separators = strings.NewReplacer("_", "", "-", "")

func fold(key string) string { return separators.Replace(strings.ToLower(key)) }

// typos counts the bytes to add, remove, replace or swap with their neighbour
// to make b of a (optimal string alignment).
func typos(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			replace := last[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(replace, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
