package dev

import (
	"net/http"
	"slices"
	"strings"
)

const policyHeader = "Content-Security-Policy"

// ownSource is how a policy names what dev mode keeps below Prefix, and nothing else. A policy cannot name an IPv6
// address.
func ownSource(host string) string {
	if strings.HasPrefix(host, "[") || strings.ContainsAny(host, " ;,'\"") {
		return "'self'"
	}
	return host + Prefix
}

// permit lets the policies of a document allow what the script of dev mode needs from source, and no more. It gives
// the nonce that the script is to have, "" for none. ok is false, and nothing changed, when a policy cannot be made to
// allow it.
func permit(head http.Header, source string) (nonce string, ok bool) {
	var amended []string
	for _, line := range head.Values(policyHeader) {
		var policies []string
		for text := range strings.SplitSeq(line, ",") {
			p := parsePolicy(text)
			own, ok := p.permit(source)
			if !ok {
				return "", false
			}
			nonce = max(nonce, own)
			policies = append(policies, p.String())
		}
		amended = append(amended, strings.Join(policies, ", "))
	}
	if amended != nil {
		head[policyHeader] = amended
	}
	return nonce, true
}

// policy is a list of directives, each with its name first.
type policy [][]string

func parsePolicy(text string) *policy {
	var p policy
	for directive := range strings.SplitSeq(text, ";") {
		if words := strings.Fields(directive); len(words) > 0 {
			p = append(p, words)
		}
	}
	return &p
}

func (p *policy) String() string {
	var all []string
	for _, words := range *p {
		all = append(all, strings.Join(words, " "))
	}
	return strings.Join(all, "; ")
}

// find gives the first directive of one of the names, in the order of the names: what a browser goes by.
func (p *policy) find(names ...string) (at int) {
	for _, name := range names {
		if i := slices.IndexFunc(*p, func(words []string) bool { return strings.EqualFold(words[0], name) }); i >= 0 {
			return i
		}
	}
	return -1
}

// permit allows a script, a worker and a connection from source.
func (p *policy) permit(source string) (nonce string, ok bool) {
	if i := p.find("sandbox"); i >= 0 && !(p.has(i, "allow-scripts") && p.has(i, "allow-same-origin")) {
		return "", false
	}
	if i := p.find("script-src-elem", "script-src", "default-src"); i >= 0 {
		for _, word := range (*p)[i][1:] {
			if rest, is := strings.CutPrefix(word, "'nonce-"); is {
				nonce = strings.TrimSuffix(rest, "'")
			}
		}
		if nonce == "" && p.has(i, "'strict-dynamic'") {
			return "", false
		}
	}
	p.allow(source, "script-src-elem", "script-src", "default-src")
	p.allow(source, "worker-src", "child-src", "script-src", "default-src")
	p.allow(source, "connect-src", "default-src")
	return nonce, true
}

func (p *policy) has(i int, word string) bool {
	return slices.ContainsFunc((*p)[i][1:], func(w string) bool { return strings.EqualFold(w, word) })
}

// allow adds source to the directive that decides. What default-src decides gets a directive of its own, so that
// nothing else is allowed by it.
func (p *policy) allow(source string, names ...string) {
	i := p.find(names...)
	if i < 0 || p.has(i, "'self'") || p.has(i, source) {
		return
	}
	words := slices.DeleteFunc(slices.Clone((*p)[i]), func(w string) bool { return strings.EqualFold(w, "'none'") })
	words = append(words, source)
	if !strings.EqualFold(words[0], "default-src") {
		(*p)[i] = words
		return
	}
	words[0] = names[0]
	if names[0] == "script-src-elem" {
		words[0] = "script-src"
	}
	*p = append(*p, words)
}
