package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/tqserver/tqserver/sdk"
)

// recipeName is the file that makes a directory a page of Exec.
const recipeName = "page.yaml"

// recipe is what a page.yaml says.
type recipe struct {
	build    []command         // run in a copy of the source, one after the other
	run      command           // serves the page
	requires []word            // programs that must be there
	files    []string          // patterns of the files that are the source; empty: all
	env      map[string]string // further variables, of the build and of the worker
}

// command is a program and its arguments.
type command []word

// word is a text and where it stands.
type word struct {
	text         string
	key          string // such as run[0]
	line, column int
}

func (c command) texts() []string {
	var all []string
	for _, w := range c {
		all = append(all, w.text)
	}
	return all
}

var recipeKeys = []string{"build", "run", "requires", "files", "env"}

// readRecipe reads a page.yaml, strictly. The diagnostics say what is wrong with it; file is for them.
func readRecipe(file string, text []byte) (*recipe, []sdk.Diagnostic) {
	r := &recipeReader{file: file}
	top := r.document(text)
	if len(r.found) > 0 {
		return nil, r.found
	}
	out := &recipe{}
	r.mapping(top, "", func(key string, k, v *yaml.Node) {
		switch key {
		case "build":
			out.build = r.commands(v, key)
		case "run":
			out.run = r.command(v, key)
		case "requires":
			out.requires = r.words(v, key)
			r.programs(out.requires)
		case "files":
			out.files = r.patterns(v, key)
		case "env":
			out.env = r.env(v, key)
		default:
			r.unknown(k)
		}
	})
	if len(out.run) == 0 && len(r.found) == 0 {
		r.fail(top, "run", `is missing: write the command that serves the page, such as run: [node, server.mjs]`)
	}
	slices.SortStableFunc(r.found, func(a, b sdk.Diagnostic) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return out, r.found
}

// recipeReader walks the nodes of a page.yaml and collects its problems.
type recipeReader struct {
	file  string
	found []sdk.Diagnostic
}

func (r *recipeReader) fail(n *yaml.Node, key, format string, args ...any) {
	r.found = append(r.found, sdk.Diagnostic{File: r.file, Line: n.Line, Column: n.Column, Path: key, Message: fmt.Sprintf(format, args...)})
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// document gives the mapping that the file must be, nil with nothing reported for an empty file.
func (r *recipeReader) document(text []byte) *yaml.Node {
	top := &yaml.Node{Line: 1, Column: 1}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	doc, more := &yaml.Node{}, &yaml.Node{}
	switch err := decoder.Decode(doc); {
	case errors.Is(err, io.EOF), err == nil && len(doc.Content) == 0:
		return top
	case err != nil:
		r.syntax(err)
		return top
	}
	if err := decoder.Decode(more); !errors.Is(err, io.EOF) {
		r.fail(more, "", `a second document starts here: a %s is one; remove the "---"`, recipeName)
	}
	return doc.Content[0]
}

func (r *recipeReader) syntax(err error) {
	at, message := &yaml.Node{Line: 1}, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		at.Line, _ = strconv.Atoi(m[1])
		message = err.Error()[len(m[0]):]
	}
	r.fail(at, "", "read YAML: %s: check the indentation and the quotes here", message)
}

// mapping calls f for each key. An empty one is fine.
func (r *recipeReader) mapping(n *yaml.Node, at string, f func(key string, k, v *yaml.Node)) {
	if n.Kind == 0 || isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.fail(n, at, `must be "key: value" lines, not %s`, kindOf(n))
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if line, twice := first[k.Value]; twice {
			r.fail(k, join(at, k.Value), "is given twice, first in line %d: keep one", line)
			continue
		}
		first[k.Value] = k.Line
		f(k.Value, k, v)
	}
}

func (r *recipeReader) unknown(k *yaml.Node) {
	hint := "known are: " + strings.Join(recipeKeys, ", ")
	if near := nearest(k.Value, recipeKeys); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	r.fail(k, "", "unknown key %q (%s)", k.Value, hint)
}

// commands reads one command, or a list of them.
func (r *recipeReader) commands(n *yaml.Node, key string) []command {
	if n.Kind != yaml.SequenceNode || !slices.ContainsFunc(n.Content, func(i *yaml.Node) bool { return i.Kind == yaml.SequenceNode }) {
		if isNull(n) || n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			return nil
		}
		if c := r.command(n, key); len(c) > 0 {
			return []command{c}
		}
		return nil
	}
	var all []command
	for i, item := range n.Content {
		if c := r.command(item, index(key, i)); len(c) > 0 {
			all = append(all, c)
		}
	}
	return all
}

// command reads a list of words that is not empty.
func (r *recipeReader) command(n *yaml.Node, key string) command {
	words := r.words(n, key)
	switch {
	case n.Kind != yaml.SequenceNode:
	case len(n.Content) == 0:
		r.fail(n, key, "must have at least one word, the program")
	case len(words) > 0 && words[0].text == "":
		r.fail(n.Content[0], words[0].key, "the name of the program is empty")
	}
	return words
}

// words reads a list of texts; numbers and the like are taken as they are written.
func (r *recipeReader) words(n *yaml.Node, key string) []word {
	if n.Kind != yaml.SequenceNode {
		hint := ""
		if n.Kind == yaml.ScalarNode && !isNull(n) {
			hint = fmt.Sprintf(": write [%s]", strings.Join(strings.Fields(n.Value), ", "))
		}
		r.fail(n, key, "must be a list of words, not %s%s", kindOf(n), hint)
		return nil
	}
	var all []word
	for i, item := range n.Content {
		at := index(key, i)
		if r.text(item, at) {
			all = append(all, word{item.Value, at, item.Line, item.Column})
		}
	}
	return all
}

func (r *recipeReader) text(n *yaml.Node, key string) bool {
	switch {
	case n.Kind != yaml.ScalarNode || isNull(n):
		r.fail(n, key, "must be text, not %s", kindOf(n))
	case strings.ContainsRune(n.Value, 0):
		r.fail(n, key, "must not have a zero byte")
	default:
		return true
	}
	return false
}

// programs checks the names of programs that are no part of the page.
func (r *recipeReader) programs(words []word) {
	for _, w := range words {
		if w.text == "" || strings.Contains(w.text, "/") && !filepath.IsAbs(w.text) {
			r.found = append(r.found, w.fault(r.file, "must be the name of a program, or an absolute path, not %q", w.text))
		}
	}
}

func (r *recipeReader) patterns(n *yaml.Node, key string) []string {
	var all []string
	for _, w := range r.words(n, key) {
		_, err := path.Match(w.text, "")
		switch {
		case err != nil || w.text == "":
			r.found = append(r.found, w.fault(r.file, "%q is no pattern: * ? [a-z] match within a name, ** any number of directories", w.text))
		case path.IsAbs(w.text) || path.Clean(w.text) != w.text || strings.HasPrefix(w.text, ".."):
			r.found = append(r.found, w.fault(r.file, "%q must be a path in the directory of the page, without . and ..", w.text))
		default:
			all = append(all, w.text)
		}
	}
	return all
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (r *recipeReader) env(n *yaml.Node, key string) map[string]string {
	env := map[string]string{}
	r.mapping(n, key, func(name string, k, v *yaml.Node) {
		at := join(key, name)
		switch {
		case !envName.MatchString(name):
			r.fail(k, at, "is no name of a variable: letters, digits and _ make one")
		case strings.HasPrefix(name, "TQ_"):
			r.fail(k, at, "names that begin with TQ_ are set by the server: choose another one")
		case isNull(v):
			r.fail(v, at, "has no value: to pass on a variable of the server, name it in workers.default.env of the configuration")
		case r.text(v, at):
			env[name] = v.Value
		}
	})
	return env
}

// fault is a diagnostic about a word.
func (w word) fault(file, format string, args ...any) sdk.Diagnostic {
	return sdk.Diagnostic{File: file, Line: w.line, Column: w.column, Path: w.key, Message: fmt.Sprintf(format, args...)}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func index(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias: write the value out"
	case isNull(n):
		return "nothing"
	}
	return fmt.Sprintf("%q", n.Value)
}

// nearest gives the known key that a mistyped one was probably meant to be: one that begins alike, or differs in at most two letters.
func nearest(name string, known []string) string {
	best, fewest := "", 3
	for _, k := range known {
		if n := distance(strings.ToLower(name), k); n < fewest && n < len(k)-1 {
			best, fewest = k, n
		}
	}
	if i := slices.IndexFunc(known, func(k string) bool {
		return len(name) > 1 && (strings.HasPrefix(k, name) || strings.HasPrefix(name, k))
	}); best == "" && i >= 0 {
		best = known[i]
	}
	return best
}

// distance counts the letters to add, remove or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
