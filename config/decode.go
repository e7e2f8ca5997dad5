package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// A field is a key and what reads its value; fields are the keys of a mapping.
type (
	field struct {
		name string
		set  setter
	}
	fields []field
	// A setter reads a node into the variable that it was made for. It reports
	// problems to the decoder and then leaves the variable as it was.
	setter func(d *decoder, n *yaml.Node)
)

func (fs fields) names() []string {
	names := make([]string, len(fs))
	for i, f := range fs {
		names[i] = f.name
	}
	return names
}

// decoder walks the nodes of one file and collects its problems.
type decoder struct {
	file string
	path []string              // where the walk is
	at   map[string]*yaml.Node // value of every known key that the file gives
	errs Errors
}

// section reads a mapping whose keys are all known. An empty one is fine: its
// keys may all be commented out.
func section(fs fields) setter {
	names := fs.names()
	return func(d *decoder, n *yaml.Node) {
		d.eachKey(n, func(key, value *yaml.Node) {
			i := slices.Index(names, key.Value)
			if i < 0 {
				d.unknown(key, names)
				return
			}
			d.at[d.key()] = value
			fs[i].set(d, value)
		})
	}
}

// eachKey calls f within each key of a mapping, except for what lint reports.
func (d *decoder) eachKey(n *yaml.Node, f func(key, value *yaml.Node)) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == nullTag {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, "a mapping", `write "key: value" lines, indented below it`)
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && value.Kind != yaml.AliasNode {
			d.within(segment(key.Value), func() { f(key, value) })
		}
	}
}

// eachItem calls f within each item of a list, except for what lint reports.
func (d *decoder) eachItem(n *yaml.Node, f func(item *yaml.Node)) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == nullTag {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrongType(n, "a list", "write [a, b], or one \"- item\" line for each")
		return
	}
	for i, item := range n.Content {
		if item.Kind != yaml.AliasNode {
			d.within("["+strconv.Itoa(i)+"]", func() { f(item) })
		}
	}
}

func (d *decoder) within(segment string, f func()) {
	d.path = append(d.path, segment)
	f()
	d.path = d.path[:len(d.path)-1]
}

var plainSegment = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// segment is how a key is shown within the path to it.
func segment(key string) string {
	if plainSegment.MatchString(key) {
		return cut(key)
	}
	return "[" + clip(key) + "]"
}

// key is the path of the walk, such as workers.paths["/api"].go_max_procs.
func (d *decoder) key() string {
	var b strings.Builder
	for i, s := range d.path {
		if i > 0 && !strings.HasPrefix(s, "[") {
			b.WriteByte('.')
		}
		b.WriteString(s)
	}
	return b.String()
}

func (d *decoder) position(n *yaml.Node) Position {
	return Position{File: d.file, Line: max(n.Line, 1), Column: max(n.Column, 1)}
}

func (d *decoder) fail(n *yaml.Node, message, hint string) {
	d.errs = append(d.errs, &Error{Position: d.position(n), Key: d.key(), Message: message, Hint: hint})
}

func (d *decoder) wrongType(n *yaml.Node, want, hint string) {
	d.fail(n, "must be "+want+", not "+describe(n), hint)
}

// unknown reports a key that is not one of names.
func (d *decoder) unknown(key *yaml.Node, names []string) {
	hint := "known here: " + strings.Join(names, ", ")
	if there := elsewhere(key.Value); len(there) > 0 {
		hint = "did you mean " + strings.Join(there, " or ") + "?"
	} else if near := Nearest(key.Value, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.fail(key, "unknown key "+clip(key.Value), hint)
}

// elsewhere returns the full keys that end in name.
func elsewhere(name string) []string {
	var found []string
	for _, k := range Keys() {
		if strings.HasSuffix(k.Name, "."+name) {
			found = append(found, k.Name)
		}
	}
	return found
}

// conflict reports a problem between keys, at the first that the file gives,
// unless one of them has a problem of its own.
func (d *decoder) conflict(message, hint string, keys ...string) {
	for _, e := range d.errs {
		if slices.Contains(keys, e.Key) {
			return
		}
	}
	for _, key := range keys {
		if n := d.at[key]; n != nil {
			d.errs = append(d.errs, &Error{Position: d.position(n), Key: key, Message: message, Hint: hint})
			return
		}
	}
}

func (d *decoder) result() error {
	if len(d.errs) == 0 {
		return nil
	}
	d.errs.sort()
	return d.errs
}

// describe says what a node is, for "must be x, not …".
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind != yaml.ScalarNode:
		return "an alias"
	}
	switch tag := n.ShortTag(); tag {
	case nullTag:
		return "empty"
	case intTag, floatTag:
		return "the number " + cut(n.Value)
	case "!!bool":
		return cut(n.Value)
	case strTag:
		return "the text " + clip(n.Value)
	default:
		return clip(n.Value) + " of type " + cut(strings.TrimLeft(tag, "!"))
	}
}
