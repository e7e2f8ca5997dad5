package resolver

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// VHostConfig is the `config:` block of resolver/vhost.
type VHostConfig struct {
	Default string   `tq:"default" doc:"host whose pages also answer for every host that has no directory"`
	Aliases []string `tq:"aliases" doc:"further names of hosts, each as www.example.org=example.org"`
	Skip    []string `tq:"skip" doc:"patterns of further directories that hold no pages: a name, or a path relative to the directory of the host"`
}

// Validate says what the schema cannot.
func (c VHostConfig) Validate() error {
	if c.Default != "" {
		if err := checkHost(c.Default); err != nil {
			return fmt.Errorf("default: %q: %w", c.Default, err)
		}
	}
	seen := map[string]bool{}
	for _, entry := range c.Aliases {
		alias, host, ok := strings.Cut(entry, "=")
		if !ok {
			return fmt.Errorf("aliases: want ALIAS=HOST, like www.example.org=example.org, got %q", entry)
		}
		if err := cmp.Or(checkHost(alias), checkHost(host)); err != nil {
			return fmt.Errorf("aliases: %q: %w", entry, err)
		}
		if seen[alias] || alias == host {
			return fmt.Errorf("aliases: %q: %s is there twice", entry, alias)
		}
		seen[alias] = true
	}
	return nil
}

// others gives the names that each host answers to besides its own, "" for any, and what does not fit the hosts that
// there are.
func (c VHostConfig) others(hosts []string) (others map[string][]string, problems []string) {
	others = map[string][]string{}
	for _, entry := range c.Aliases {
		switch alias, host, _ := strings.Cut(entry, "="); {
		case !slices.Contains(hosts, host):
			problems = append(problems, fmt.Sprintf("aliases: %s: there is no directory %s", entry, host))
		case slices.Contains(hosts, alias):
			problems = append(problems, fmt.Sprintf("aliases: %s: %s has a directory of its own, which is served; remove one", entry, alias))
		default:
			others[host] = append(others[host], alias)
		}
	}
	switch {
	case slices.Contains(hosts, c.Default):
		others[c.Default] = append(others[c.Default], "")
	case c.Default != "":
		problems = append(problems, fmt.Sprintf("default: there is no directory %s", c.Default))
	}
	return others, problems
}

var errHost = errors.New("a host is lower-case letters (others as xn--…), digits and inner hyphens, up to 63 between two dots and 253 in all")

// checkHost takes names of RFC 1123, section 2.1, in the one way of several to write them that routes have.
func checkHost(name string) error {
	if len(name) > 253 {
		return errHost
	}
	for label := range strings.SplitSeq(name, ".") {
		other := func(r rune) bool { return !(r == '-' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9') }
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label || strings.ContainsFunc(label, other) {
			return errHost
		}
	}
	return nil
}
