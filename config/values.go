package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

const (
	nullTag  = "!!null"
	intTag   = "!!int"
	floatTag = "!!float"
	strTag   = "!!str"
	boolTag  = "!!bool"
)

// A check returns what is wrong with a text and what to do; "" if nothing is.
type check func(s string) (message, hint string)

// whole reads an integer.
func whole(p *int, least, most int) setter {
	return func(d *decoder, n *yaml.Node) {
		if v, ok := d.integer(n, int64(least), int64(most)); ok {
			*p = int(v)
		}
	}
}

// flag reads true or false.
func flag(p *bool) setter {
	return func(d *decoder, n *yaml.Node) {
		var v bool
		if n.Kind != yaml.ScalarNode || n.ShortTag() != boolTag || n.Decode(&v) != nil {
			d.wrongType(n, "true or false", "")
			return
		}
		*p = v
	}
}

// span reads a duration, which YAML gives as a number of units.
func span(p *time.Duration, unit, least, most time.Duration) setter {
	return func(d *decoder, n *yaml.Node) {
		if v, ok := d.integer(n, int64(least/unit), int64(most/unit)); ok {
			*p = time.Duration(v) * unit
		}
	}
}

func (d *decoder) integer(n *yaml.Node, least, most int64) (int64, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != intTag {
		d.wrongType(n, "a whole number", integerHint(n))
		return 0, false
	}
	v, err := strconv.ParseInt(n.Value, 10, 64)
	switch {
	case err != nil:
		d.fail(n, "must be a whole number in decimal digits, not "+cut(n.Value), "")
	case v < least && most == noLimit:
		d.fail(n, fmt.Sprintf("must be %d or more, not %d", least, v), "")
	case v < least || v > most:
		d.fail(n, fmt.Sprintf("must be from %d to %d, not %d", least, most, v), "")
	default:
		return v, true
	}
	return 0, false
}

func integerHint(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return ""
	}
	if n.ShortTag() == nullTag {
		return "remove the key to have the default"
	}
	number := strings.TrimRight(n.Value, "abcdefghijklmnopqrstuvwxyz ")
	if _, err := strconv.Atoi(number); err != nil || n.ShortTag() != strTag {
		return ""
	}
	if number == n.Value {
		return "remove the quotes"
	}
	return "write " + cut(number) + " alone; the unit is part of the key"
}

// text reads a text that passes the check.
func text(p *string, ok check) setter {
	return func(d *decoder, n *yaml.Node) {
		if d.text(n) && d.check(n, ok) {
			*p = n.Value
		}
	}
}

// optional is text, or nothing.
func optional(p *string, ok check) setter {
	return func(d *decoder, n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && n.ShortTag() == nullTag {
			*p = ""
			return
		}
		text(p, ok)(d, n)
	}
}

// lowered is optional, in lower case.
func lowered(p *string, ok check) setter {
	return func(d *decoder, n *yaml.Node) {
		optional(p, ok)(d, n)
		*p = strings.ToLower(*p)
	}
}

// memory is optional, and may be a number as it stands.
func memory(p *string) setter {
	return func(d *decoder, n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != intTag {
			optional(p, checkMemory)(d, n)
		} else if d.check(n, checkMemory) {
			*p = n.Value
		}
	}
}

// logFile reads the template of a log file. Nothing, "" and "~" mean none.
func logFile(p *string, placeholders ...string) setter {
	return func(d *decoder, n *yaml.Node) {
		value := *p
		optional(&value, checkTemplate(placeholders))(d, n)
		if value == "~" {
			value = ""
		}
		*p = value
	}
}

// patterns reads a list of file name patterns.
func patterns(p *[]string) setter {
	return func(d *decoder, n *yaml.Node) {
		var out []string
		d.eachItem(n, func(item *yaml.Node) {
			if d.text(item) && d.check(item, checkPattern) {
				out = append(out, item.Value)
			}
		})
		*p = out
	}
}

// prefixes reads a list of networks and addresses.
func prefixes(p *[]netip.Prefix) setter {
	return func(d *decoder, n *yaml.Node) {
		var out []netip.Prefix
		d.eachItem(n, func(item *yaml.Node) {
			if !d.text(item) {
				return
			}
			prefix, err := parsePrefix(item.Value)
			if err != nil {
				d.fail(item, clip(item.Value)+" is neither an address nor a network", `write "10.0.0.7" or "10.0.0.0/8"`)
				return
			}
			out = append(out, prefix)
		})
		*p = out
	}
}

// parsePrefix takes an address for the network that has only this address.
func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		prefix, err := netip.ParsePrefix(s)
		return prefix.Masked(), err
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("address %s has a zone", s)
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// environment reads variables. Numbers and booleans are taken as they stand.
func environment(p *map[string]*string) setter {
	return func(d *decoder, n *yaml.Node) {
		out := map[string]*string{}
		d.eachKey(n, func(key, value *yaml.Node) {
			named := d.check(key, checkEnvName)
			if value.Kind != yaml.ScalarNode {
				d.wrongType(value, "text", "")
			} else if !named {
				return
			} else if value.ShortTag() == nullTag {
				out[key.Value] = nil
			} else if d.check(value, checkEnvValue) {
				out[key.Value] = &value.Value
			}
		})
		if len(out) > 0 {
			*p = out
		}
	}
}

// text reports whether n is text, and reports n if it is not.
func (d *decoder) text(n *yaml.Node) bool {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == strTag {
		return true
	}
	hint := ""
	if n.Kind == yaml.ScalarNode {
		hint = "put it in quotes"
		if n.ShortTag() == nullTag {
			hint = "remove the key to have the default"
		}
	}
	d.wrongType(n, "text", hint)
	return false
}

// check reports whether the value of n passes, and reports n if it does not.
func (d *decoder) check(n *yaml.Node, ok check) bool {
	message, hint := ok(n.Value)
	if message != "" {
		d.fail(n, message, hint)
	}
	return message == ""
}

// clip quotes a text from the file for a message, and cut does not.
func clip(s string) string { return strconv.Quote(cut(s)) }

func cut(s string) string {
	const most = 64
	if runes := []rune(s[:min(len(s), 4*(most+1))]); len(runes) > most {
		return string(slices.Concat(runes[:most], []rune("…")))
	}
	return s
}
