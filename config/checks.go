package config

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

var (
	hostName    = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	envName     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	placeholder = regexp.MustCompile(`\{[^{}]*\}|[{}]`)
	memoryLimit = regexp.MustCompile(`^([0-9]+)(B|KiB|MiB|GiB|TiB)?$`)
	memoryTypo  = regexp.MustCompile(`(?i)^([0-9]+) *([kmgt])i?b?$`)
)

func checkHost(host string) (message, hint string) {
	if _, err := netip.ParseAddr(host); err == nil || host == "" || hostName.MatchString(host) {
		return "", ""
	}
	return fmt.Sprintf("%s is neither an address nor a host name", clip(host)), `write the host alone, an IPv6 address without brackets; the port is server.port`
}

// checkAddress wants a host and a port; "" passes.
func checkAddress(addr string) (message, hint string) {
	if addr == "" {
		return "", ""
	}
	host, port, err := net.SplitHostPort(addr)
	if n, portErr := strconv.Atoi(port); err != nil || portErr != nil || n < 1 || n > maxPort {
		return fmt.Sprintf("%s is not an address with a port", clip(addr)), `write it like "127.0.0.1:8180" or "[::1]:8180"`
	}
	return checkHost(host)
}

func checkFileName(name string) (message, hint string) {
	switch {
	case strings.TrimSpace(name) == "":
		return "must not be empty", "remove the key to have the default"
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Sprintf("%s has a control character", clip(name)), ""
	}
	return "", ""
}

func checkLogLevel(level string) (message, hint string) {
	if slices.Contains(logLevels, level) {
		return "", ""
	}
	hint = "one of " + strings.Join(logLevels, ", ")
	if near := Nearest(level, logLevels); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Sprintf("unknown log level %s", clip(level)), hint
}

func checkEndpoint(kind string) (message, hint string) {
	if kind == TCP || kind == Unix {
		return "", ""
	}
	return fmt.Sprintf("unknown endpoint %s", clip(kind)), "tcp or unix"
}

// checkMemory follows what the runtime takes as GOMEMLIMIT.
func checkMemory(limit string) (message, hint string) {
	if limit == "" || limit == "off" {
		return "", ""
	}
	m := memoryLimit.FindStringSubmatch(limit)
	if m == nil {
		hint = `write a whole number with B, KiB, MiB, GiB or TiB, "off", or "" for none`
		if t := memoryTypo.FindStringSubmatch(limit); t != nil {
			hint = fmt.Sprintf("did you mean %q?", cut(t[1])+strings.ToUpper(t[2])+"iB")
		}
		return fmt.Sprintf("%s is not a memory limit", clip(limit)), hint
	}
	shift := map[string]uint{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[m[2]]
	if v, err := strconv.ParseInt(m[1], 10, 64); err != nil || v > (1<<63-1)>>shift {
		return fmt.Sprintf("%s is more memory than can be counted", clip(limit)), ""
	}
	return "", ""
}

// checkTemplate allows a file name with the placeholders, or "".
func checkTemplate(placeholders []string) check {
	return func(name string) (message, hint string) {
		if name == "" {
			return "", ""
		}
		for _, found := range placeholder.FindAllString(name, -1) {
			if !slices.Contains(placeholders, found) {
				return fmt.Sprintf("unknown placeholder %s", clip(found)), "this file name takes " + strings.Join(placeholders, " and ")
			}
		}
		if strings.HasSuffix(name, "/") {
			return fmt.Sprintf("%s is a directory", clip(name)), "add the name of a file"
		}
		return checkFileName(name)
	}
}

// checkPattern checks the parts that path.Match knows; "**" passes.
func checkPattern(pattern string) (message, hint string) {
	if pattern == "" {
		return "must not be empty", ""
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Sprintf("%s is not a pattern: %v", clip(pattern), err), `write "\\[" in quotes for a bracket itself`
	}
	return "", ""
}

// checkRoute wants the one spelling of a path, so that no two keys are the same page.
func checkRoute(route string) (message, hint string) {
	clean := path.Clean("/" + route)
	if strings.HasPrefix(route, "/") && route == clean {
		return "", ""
	}
	return fmt.Sprintf("%s is not the path of a page", clip(route)), fmt.Sprintf("write %s", clip(clean))
}

func checkEnvName(name string) (message, hint string) {
	if envName.MatchString(name) {
		return "", ""
	}
	return fmt.Sprintf("%s is not the name of a variable", clip(name)), "take letters, digits and _, and no digit first"
}

func checkEnvValue(value string) (message, hint string) {
	if strings.ContainsRune(value, 0) {
		return "has a NUL character, which no environment can hold", ""
	}
	return "", ""
}
