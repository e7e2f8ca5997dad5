package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxDepth bounds the nesting of a file, a plugin's own config included.
const maxDepth = 64

// document parses data down to the one mapping it must hold; nil with nothing
// reported is a file of comments.
func (d *decoder) document(data []byte) *yaml.Node {
	top := &yaml.Node{Line: 1, Column: 1}
	switch {
	case len(data) > maxSize:
		d.fail(top, "the file is larger than 1 MiB", "a configuration is a few KiB; check that this is the file you mean")
		return nil
	case len(bytes.TrimSpace(data)) == 0:
		// Not taken for the defaults: a file that is just being written looks like this.
		d.fail(top, "the file is empty", "write at least a comment to have all defaults")
		return nil
	}
	docs, err := parseYAML(data)
	if err != nil {
		d.syntax(data, err)
		return nil
	}
	if len(docs) > 1 {
		d.fail(docs[1], "a second document starts here", `a configuration is one document; remove the "---"`)
	}
	if len(docs) == 0 || len(docs[0].Content) == 0 {
		return nil
	}
	return docs[0].Content[0]
}

// parseYAML returns the first two documents in data.
func parseYAML(data []byte) ([]*yaml.Node, error) {
	var docs []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for len(docs) < 2 {
		doc := new(yaml.Node)
		err := dec.Decode(doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

var yamlPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

// syntax reports an error of the YAML parser. The parser's own line is that of
// the enclosing block, or missing; the line to look at is the first with which
// the same error appears.
func (d *decoder) syntax(data []byte, err error) {
	problem := yamlPrefix.ReplaceAllString(err.Error(), "")
	lines := bytes.SplitAfter(data, []byte("\n"))
	ends := make([]int, len(lines))
	for i, end := 0, 0; i < len(lines); i++ {
		end += len(lines[i])
		ends[i] = end
	}
	i := sort.Search(len(lines)-1, func(i int) bool {
		_, err := parseYAML(data[:ends[i]])
		return err != nil && strings.HasSuffix(err.Error(), problem)
	})
	column := len(lines[i]) - len(bytes.TrimLeft(lines[i], " ")) + 1
	d.fail(&yaml.Node{Line: i + 1, Column: column}, "read YAML: "+problem, syntaxHint(problem))
}

// syntaxHint says what the usual cause of a YAML parser's problem is.
func syntaxHint(problem string) string {
	for _, usual := range []struct{ words, hint string }{
		{"tab character", "indent with spaces; YAML does not take tabs"},
		{"cannot start any token", "put the text in quotes, and indent with spaces, not tabs"},
		{"mapping values are not allowed", `check the indentation, and put a text that has ": " in quotes`},
		{"did not find expected key", "check the indentation"},
		{"unexpected end of stream", "close the quotes that are opened here"},
		{"unknown anchor", "put a text that begins with * in quotes"},
		{"UTF-8", "save the file as UTF-8"},
	} {
		if strings.Contains(problem, usual.words) {
			return usual.hint
		}
	}
	return ""
}

// lint reports what is refused wherever it stands, also in a plugin's own
// config: aliases (which can make a small file huge), keys that are given twice
// or are not text, and endless nesting.
func (d *decoder) lint(n *yaml.Node) {
	if len(d.path) > maxDepth {
		d.fail(n, fmt.Sprintf("is nested more than %d levels deep", maxDepth), "")
		return
	}
	switch n.Kind {
	case yaml.AliasNode:
		d.fail(n, fmt.Sprintf("aliases such as *%s are not supported", cut(n.Value)), "write the value out")
	case yaml.SequenceNode:
		for i, item := range n.Content {
			d.within("["+strconv.Itoa(i)+"]", func() { d.lint(item) })
		}
	case yaml.MappingNode:
		d.lintMapping(n)
	}
}

func (d *decoder) lintMapping(n *yaml.Node) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fail(key, "a key must be text, not "+describe(key), "")
			continue
		}
		d.within(segment(key.Value), func() {
			if line, twice := first[key.Value]; twice {
				d.fail(key, "is given twice", fmt.Sprintf("the first is on line %d; keep one", line))
			} else {
				first[key.Value] = key.Line
			}
			d.lint(value)
		})
	}
}
