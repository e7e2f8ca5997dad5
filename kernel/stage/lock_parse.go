package stage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/tqserver/tqserver/config"
)

// maxLock bounds a lock file, in bytes.
const maxLock = 1 << 20

const lockHint = "restore the file from version control, or remove it and run `tqserver plugin lock` after checking that you trust the plugins"

var (
	hexHash      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	platformName = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+$`)
	yamlLine     = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)
)

// lockParser reads a lock file strictly and collects its problems.
type lockParser struct {
	file string
	errs config.Errors
}

func parseLock(file string, text []byte) (*Lock, error) {
	p := &lockParser{file: file}
	l := &Lock{File: file, Plugins: map[string]Locked{}}
	p.mapping(p.document(text), "", []string{"plugins"}, func(_ string, plugins *yaml.Node) {
		p.mapping(plugins, "plugins", nil, func(use string, one *yaml.Node) { l.Plugins[use] = p.locked(one, "plugins."+use) })
	})
	if len(p.errs) > 0 {
		return nil, p.errs
	}
	return l, nil
}

// document gives the one document of the file.
func (p *lockParser) document(text []byte) *yaml.Node {
	if len(text) > maxLock {
		p.fail(&yaml.Node{}, "", "the file is larger than 1 MiB")
		return nil
	}
	in := yaml.NewDecoder(bytes.NewReader(text))
	doc, more := new(yaml.Node), new(yaml.Node)
	err := in.Decode(doc)
	if err == nil {
		if err = in.Decode(more); err == nil {
			p.fail(more, "", "a second document starts here")
			return nil
		}
	}
	switch {
	case errors.Is(err, io.EOF) && len(doc.Content) > 0:
		return doc.Content[0]
	case errors.Is(err, io.EOF):
		p.fail(&yaml.Node{}, "", "the file is empty")
		return nil
	}
	at := &yaml.Node{}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		at.Line, _ = strconv.Atoi(m[1])
	}
	p.fail(at, "", "read YAML: "+yamlLine.ReplaceAllString(err.Error(), ""))
	return nil
}

// locked reads one plugin.
func (p *lockParser) locked(n *yaml.Node, key string) Locked {
	one := Locked{SHA256: map[string]string{}}
	p.mapping(n, key, []string{"name", "version", "sha256"}, func(name string, value *yaml.Node) {
		switch name {
		case "name":
			one.Name = p.text(value, key+".name")
		case "version":
			one.Version = p.text(value, key+".version")
		default:
			p.mapping(value, key+".sha256", nil, func(platform string, sum *yaml.Node) {
				if !platformName.MatchString(platform) {
					p.fail(sum, key+".sha256", fmt.Sprintf("%q is no platform, such as linux/amd64", platform))
				}
				if one.SHA256[platform] = p.text(sum, key+".sha256."+platform); !hexHash.MatchString(sum.Value) {
					p.fail(sum, key+".sha256."+platform, fmt.Sprintf("must be 64 hexadecimal digits in lower case, not %q", shorten(sum.Value)))
				}
			})
		}
	})
	return one
}

// mapping calls each for the keys of a mapping. known, if any, are its keys, and all of them must be there.
func (p *lockParser) mapping(n *yaml.Node, key string, known []string, each func(name string, value *yaml.Node)) {
	switch {
	case n == nil: // was reported
		return
	case n.Kind != yaml.MappingNode:
		p.fail(n, key, "must be a mapping")
		return
	}
	var seen []string
	for k, value := range pairs(n) {
		full := strings.TrimPrefix(key+"."+k.Value, ".")
		switch {
		case k.Kind != yaml.ScalarNode:
			p.fail(k, key, "a key must be text")
		case slices.Contains(seen, k.Value):
			p.fail(k, full, "is given twice")
		case known != nil && !slices.Contains(known, k.Value):
			message, hint := unknownKey(k.Value, known)
			p.add(k, full, message, hint)
		default:
			each(k.Value, value)
		}
		seen = append(seen, k.Value)
	}
	for _, name := range known {
		if !slices.Contains(seen, name) {
			p.fail(n, strings.TrimPrefix(key+"."+name, "."), "is missing")
		}
	}
}

func (p *lockParser) text(n *yaml.Node, key string) string {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		p.fail(n, key, "must be text in quotes")
	}
	return n.Value
}

func (p *lockParser) fail(n *yaml.Node, key, message string) { p.add(n, key, message, lockHint) }

func (p *lockParser) add(n *yaml.Node, key, message, hint string) {
	at := config.Position{File: p.file, Line: max(n.Line, 1), Column: max(n.Column, 1)}
	p.errs = append(p.errs, &config.Error{Position: at, Key: key, Message: message, Hint: hint})
}
