package stage

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/sdk"
)

// configJSON encodes a `config:` block as the JSON object that plugins get. Dates and the like stay the text that
// they are in the file. An absent block gives nil, which stands for {}.
func configJSON(node *yaml.Node) ([]byte, error) {
	if node == nil {
		return nil, nil
	}
	value, err := plain(node)
	if err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

func plain(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.MappingNode:
		object := make(map[string]any, len(n.Content)/2)
		for key, value := range pairs(n) {
			v, err := plain(value)
			if err != nil {
				return nil, err
			}
			object[key.Value] = v
		}
		return object, nil
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			v, err := plain(item)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	case yaml.ScalarNode:
		return scalar(n)
	}
	return nil, fmt.Errorf("line %d: an alias cannot be used here", n.Line)
}

func scalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null", "!!bool", "!!int", "!!float":
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, fmt.Errorf("line %d: %w", n.Line, err)
		}
		if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return nil, fmt.Errorf("line %d: %s cannot be passed to a plugin", n.Line, n.Value)
		}
		return v, nil
	}
	return n.Value, nil
}

// pairs iterates over the keys and values of a mapping; of anything else there are none.
func pairs(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		if n == nil || n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

// checkSchema checks the configuration against what the plugin declares. Each problem has the line of its key.
func checkSchema(spec *Spec, schema sdk.Schema) config.Errors {
	var errs config.Errors
	for _, d := range schema.Check(spec.Config) {
		errs = append(errs, locate(spec, d, schema))
	}
	slices.SortStableFunc(errs, func(a, b *config.Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return errs
}

// locate gives a finding about the configuration its place in the file: that of the value, of the key if it is not
// known, of the plugin's entry if nothing more is known.
func locate(spec *Spec, d sdk.Diagnostic, schema sdk.Schema) *config.Error {
	e := &config.Error{Position: spec.pos, Key: "plugins." + spec.Stage, Message: d.Message}
	if d.Path != "" {
		e.Key += "." + d.Path
	}
	path := strings.Split(d.Path, ".") // config, the key, and what is below it, if the plugin tells
	place := spec.node
	for _, name := range path[1:] {
		_, value := entry(place, name)
		if value == nil {
			break
		}
		place = value
	}
	if schema != nil && len(path) == 2 {
		switch at := slices.Index(schema.Names(), path[1]); {
		case at >= 0 && schema[at].Sensitive:
			e.Message, _, _ = strings.Cut(e.Message, ", got ") // the value is a secret
		case at < 0:
			e.Message, e.Hint = unknownKey(path[1], schema.Names())
			if key, _ := entry(spec.node, path[1]); key != nil {
				place = key
			}
		}
	}
	if place != nil {
		e.Line, e.Column = place.Line, place.Column
	}
	return e
}

func entry(n *yaml.Node, name string) (key, value *yaml.Node) {
	for k, v := range pairs(n) {
		if k.Value == name {
			return k, v
		}
	}
	return nil, nil
}

func unknownKey(name string, known []string) (message, hint string) {
	message = fmt.Sprintf("unknown key %q", name)
	if near := config.Nearest(name, known); near != "" {
		return message, fmt.Sprintf("did you mean %q?", near)
	}
	if len(known) == 0 {
		return message, "this plugin has no configuration"
	}
	return message, "known are: " + strings.Join(known, ", ")
}
