package dev

import (
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
)

const (
	around    = 4       // lines shown on each side
	maxSource = 1 << 20 // bytes that are read of a file
	maxWidth  = 300     // characters that are shown of a line
)

// Excerpt gives the lines around one of a file; none when it has no such line, or is no regular file that can be read.
// Only the beginning of a huge file is looked at. Whether the file may be shown is the caller's to know.
func Excerpt(file string, line int) []Line {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || line < 1 {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSource))
	if err != nil {
		return nil
	}
	all := strings.Split(strings.TrimSuffix(strings.ToValidUTF8(string(text), "\uFFFD"), "\n"), "\n")
	if line > len(all) {
		if line > len(all)+1 { // the end of a file is where much is missing
			return nil
		}
		all = append(all, "")
	}
	var out []Line
	for n := max(1, line-around); n <= min(len(all), line+around); n++ {
		out = append(out, Line{Number: n, Text: clip(strings.TrimSuffix(all[n-1], "\r"))})
	}
	return out
}

func clip(text string) string {
	if runes := []rune(text); len(runes) > maxWidth {
		return string(runes[:maxWidth]) + "…"
	}
	return text
}

// Link fills the address that opens a place in an editor: {file} is an absolute path, escaped, {line} and {column}
// are 1 where they are not known.
func Link(template, file string, line, column int) string {
	path := (&url.URL{Path: file}).EscapedPath()
	return strings.NewReplacer("{file}", path, "{line}", strconv.Itoa(max(line, 1)), "{column}", strconv.Itoa(max(column, 1))).Replace(template)
}
