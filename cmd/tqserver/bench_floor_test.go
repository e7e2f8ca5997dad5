//go:build linux && bench

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// floor is a site that no server looks after, built by the compiler and the linker alone: with the command lines that
// the go command has for them, and what these refer to, but that neither collects garbage. No build of the page by these
// tools takes less.
type floor struct {
	*site
	source        func(string) string
	compile, link toolCall
	binary        string
	took          []time.Duration
	compiled      []time.Duration
	linked        []time.Duration
}

// toolCall is one command line of the go command.
type toolCall struct {
	dir  string
	env  []string
	args []string
}

func (c toolCall) withoutGC() toolCall {
	c.env = append(c.env, "GOGC=off")
	return c
}

// newFloor takes the command lines from one `go build` of a site that has the files of another.
func newFloor(t *testing.T, source func(string) string, files map[string]string) *floor {
	f := &floor{site: newSite(t, withPage(source("warm up"), files)), source: source}
	f.binary = filepath.Join(f.dir, "built")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-x", "-work", "-o", f.binary, "-buildvcs=false", "-ldflags=-s -w", ".")
	cmd.Dir = filepath.Dir(f.path(savedPage))
	cmd.Env = append(os.Environ(), "PWD="+cmd.Dir, "GOTMPDIR="+t.TempDir(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, tail(string(out), 4000))
	}
	work := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if dir, ok := strings.CutPrefix(line, "WORK="); ok {
			work = dir
		}
		call := toolCall{dir: cmd.Dir, env: append(os.Environ(), "PWD="+cmd.Dir), args: words(strings.ReplaceAll(line, "$WORK", work))}
		for len(call.args) > 0 && strings.Contains(call.args[0], "=") { // GOROOT=… before the command
			call.env, call.args = append(call.env, call.args[0]), call.args[1:]
		}
		switch {
		case len(call.args) < 3 || call.args[1] != "-o":
		case filepath.Base(call.args[0]) == "compile" && strings.Contains(line, " -p main "):
			f.compile = call.withoutGC()
		case filepath.Base(call.args[0]) == "link":
			call.args[2] = f.binary
			f.link = call.withoutGC()
		}
	}
	if f.compile.args == nil || f.link.args == nil {
		t.Fatalf("go build -x shows no compile and link of the page:\n%s", tail(string(out), 4000))
	}
	return f
}

// withPage adds the page that is saved to the other files of a site.
func withPage(page string, files map[string]string) map[string]string {
	all := map[string]string{savedPage: page}
	for name, content := range files {
		all[name] = content
	}
	return all
}

// words splits a command line as the go command prints it.
func words(line string) (words []string) {
	word, quote, inside := "", rune(0), false
	for _, c := range line {
		switch {
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, inside = c, true
		case quote == 0 && c == ' ':
			if inside {
				words = append(words, word)
			}
			word, inside = "", false
		default:
			word, inside = word+string(c), true
		}
	}
	if inside {
		words = append(words, word)
	}
	return words
}

// save writes the page, and compiles and links it.
func (f *floor) save(text string) {
	f.t.Helper()
	f.write(savedPage, f.source(text))
	_ = os.Remove(f.binary)
	start := time.Now()
	f.call(f.compile)
	compiled := time.Now()
	f.call(f.link)
	f.took = append(f.took, time.Since(start))
	f.compiled, f.linked = append(f.compiled, compiled.Sub(start)), append(f.linked, time.Since(compiled))
}

func (f *floor) call(c toolCall) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Env = c.dir, c.env
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %v\n%s", c.args[0], err, out)
	}
}
