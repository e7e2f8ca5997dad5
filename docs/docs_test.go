// Package docs holds the documentation to the program: links, configuration keys, commands and code.
package docs

import (
	"bytes"
	"context"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/tqserver/tqserver/config"
)

// pages are all files of the documentation, from this directory.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, pattern := range []string{"../README.md", "*.md", "plugins/*.md", "plugins/*/README.md", "../plugins/*/README.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: nothing found, %v", pattern, err)
		}
		for _, name := range found {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[name] = string(text)
		}
	}
	return files
}

var keyRow = regexp.MustCompile("(?m)^\\| `([a-z_.0-9]+)` \\| `(.*?)` \\| (yes|restart) \\|")

// TestConfigurationKeys holds the table in configuration.md to the program: every key, in order, with its default and
// whether a reload applies it.
func TestConfigurationKeys(t *testing.T) {
	rows := keyRow.FindAllStringSubmatch(pages(t)["configuration.md"], -1)
	keys := config.Keys()
	for i := range max(len(rows), len(keys)) {
		got, want := "nothing", "nothing"
		if i < len(rows) {
			got = strings.Join(rows[i][1:], " | ")
		}
		if i < len(keys) {
			reload := map[bool]string{true: "yes", false: "restart"}[keys[i].Reload]
			want = strings.Join([]string{keys[i].Name, keys[i].Default, reload}, " | ")
		}
		if got != want {
			t.Errorf("row %d of configuration.md is\n%s\nthe program has\n%s", i+1, got, want)
		}
	}
}

var (
	limitOf = regexp.MustCompile("`([a-z_.]+_(?:ms|seconds|requests))`(?: of the page)?, (none|[0-9]+)(?: (ms|s|min)\\b)?")
	units   = map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "seconds": time.Second, "min": time.Minute}
)

// TestLimits holds the defaults in timeouts.md to the program, and wants every key of a timeout to be there.
func TestLimits(t *testing.T) {
	limits := map[string]string{}
	for _, m := range limitOf.FindAllStringSubmatch(pages(t)["timeouts.md"], -1) {
		limits[m[1]] = limit(m[2], m[3])
	}
	for _, key := range config.Keys() {
		name := strings.TrimPrefix(strings.TrimPrefix(key.Name, "workers.default."), "plugins.defaults.")
		said, ok := limits[name]
		delete(limits, name)
		want := limit(key.Default, name[strings.LastIndex(name, "_")+1:])
		if ok && said != want || !ok && strings.Contains(name, "_timeout_") {
			t.Errorf("%s is %q in timeouts.md, the program has %s", key.Name, said, want)
		}
	}
	for name, said := range limits {
		t.Errorf("timeouts.md has %s, %s: there is no such key", name, said)
	}
}

// limit is a duration or, without a unit, a number.
func limit(text, unit string) string {
	n, err := strconv.Atoi(text)
	switch {
	case err != nil, n == 0:
		return "none"
	case units[unit] > 0:
		return (time.Duration(n) * units[unit]).String()
	}
	return text
}

var (
	fence   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	span    = regexp.MustCompile("`[^`\n]*`")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

// TestLinks follows every relative link, to the heading if it names one.
func TestLinks(t *testing.T) {
	all := 0
	for name, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(span.ReplaceAllString(fence.ReplaceAllString(text, ""), "x"), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			all++
			path, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), path)
			}
			if err := follow(target, anchor); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
	if all < 20 {
		t.Errorf("found %d links only: are they still read?", all)
	}
}

func follow(target, anchor string) error {
	if _, err := os.Stat(target); err != nil || anchor == "" {
		return err
	}
	text, err := os.ReadFile(target)
	if err != nil {
		return err
	}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(string(text), ""), -1) {
		if slug(m[1]) == anchor {
			return nil
		}
	}
	return fmt.Errorf("no heading #%s in %s", anchor, target)
}

// slug is the anchor that GitHub gives a heading.
func slug(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, title)
}

// TestGoCode holds the Go programs to gofmt, which also finds what does not parse.
func TestGoCode(t *testing.T) {
	for name, text := range pages(t) {
		for _, m := range fence.FindAllStringSubmatch(text, -1) {
			if m[1] != "go" || !strings.Contains(m[2], "package main") {
				continue
			}
			if formatted, err := format.Source([]byte(m[2])); err != nil || string(formatted) != m[2] {
				t.Errorf("a Go program in %s is not as gofmt wants it: %v", name, err)
			}
		}
	}
}

// command is what a --help tells.
type command struct {
	subs  map[string]*command
	flags map[string]bool // with its dashes -> takes a value
}

var (
	subLine  = regexp.MustCompile(`(?m)^  ([a-z]+) +\S`)
	flagLine = regexp.MustCompile(`(?m)^ +(?:(-\w), )?(--[\w-]+)( \w+)?  +\S`)
)

// TestCommands tries every `tqserver …` of the documentation, in blocks and in the text, on the command line's help.
func TestCommands(t *testing.T) {
	root := readHelp(t, buildOnce(t), nil)
	all := 0
	for name, text := range pages(t) {
		for _, line := range commandLines(text) {
			all++
			if err := root.try(strings.Fields(line)); err != nil {
				t.Errorf("%s: tqserver %s: %v", name, line, err)
			}
		}
	}
	if all < 40 {
		t.Errorf("found %d commands only: are they still read?", all)
	}
	for _, wrong := range []string{"reboot", "status --yaml", "config chek", "logs api --folow"} {
		if root.try(strings.Fields(wrong)) == nil {
			t.Errorf("tqserver %s passes", wrong)
		}
	}
}

// buildOnce builds as the Makefile does, so that its work counts.
func buildOnce(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "tqserver")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", bin, "../cmd/tqserver")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

func readHelp(t *testing.T, bin string, path []string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, bin, append(path, "--help")...).Output()
	if err != nil {
		t.Fatalf("%s --help: %v", path, err)
	}
	c := &command{subs: map[string]*command{}, flags: map[string]bool{}}
	for _, m := range flagLine.FindAllSubmatch(out, -1) {
		for _, flag := range [][]byte{m[1], m[2]} {
			c.flags[string(flag)] = len(m[3]) > 0
		}
	}
	_, rest, found := bytes.Cut(out, []byte("Available Commands:\n"))
	list, _, _ := bytes.Cut(rest, []byte("\n\n"))
	if !found {
		return c
	}
	for _, m := range subLine.FindAllSubmatch(list, -1) {
		name := string(m[1])
		if c.subs[name] = nil; name != "help" {
			c.subs[name] = readHelp(t, bin, append(path[:len(path):len(path)], name))
		}
	}
	return c
}

// try walks along the words of a command line.
func (c *command) try(words []string) error {
	for i := 0; i < len(words); i++ {
		word, _, given := strings.Cut(words[i], "=")
		if strings.HasPrefix(word, "-") {
			if word == "-config" || word == "-quiet" { // both forms are taken
				word = "-" + word
			}
			value, known := c.flags[word]
			if !known {
				return fmt.Errorf("no flag %s", word)
			}
			if value && !given {
				i++
			}
			continue
		}
		if len(c.subs) == 0 {
			continue // an argument
		}
		sub := c.subs[word]
		if sub == nil {
			return fmt.Errorf("no command %s", word)
		}
		c = sub
	}
	return nil
}

// commandLines gives what follows `tqserver` in the code of a page.
func commandLines(text string) []string {
	var lines []string
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(m[2]) {
			line, dollar := strings.CutPrefix(strings.TrimPrefix(line, "ExecStart="), "$ ")
			if m[1] == "bash" || m[1] == "ini" || m[1] == "console" && dollar {
				lines = append(lines, arguments(line)...)
			}
		}
	}
	for _, code := range span.FindAllString(fence.ReplaceAllString(text, ""), -1) {
		lines = append(lines, arguments(strings.Trim(code, "`"))...)
	}
	return lines
}

// arguments gives those of each tqserver in a line of a shell.
func arguments(line string) (all []string) {
	line, _, _ = strings.Cut(line, " #")
	for part := range strings.SplitSeq(line, "&&") {
		name, rest, _ := strings.Cut(strings.TrimSpace(part), " ")
		if name == "tqserver" || strings.HasSuffix(name, "bin/tqserver") {
			all = append(all, rest)
		}
	}
	return all
}
