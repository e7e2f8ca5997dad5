package stage

import (
	"slices"
	"strings"
)

// What a plugin inherits from the kernel's environment; a name that ends in "*" stands for all that begin so. The
// builder runs the Go toolchain, which needs to find its caches, its proxy and a C compiler as it would in a shell.
var (
	inherited = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "TMPDIR", "SSL_CERT_*"}

	inheritedByBuilder = []string{
		"GOROOT", "GOPATH", "GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY", "GONOSUMDB", "GOPRIVATE", "GONOPROXY", "GOSUMDB",
		"GOTOOLCHAIN", "GOWORK", "GOENV", "GOAMD64", "GOARM64", "GOEXPERIMENT", "GODEBUG",
		"CGO_*", "CC", "CXX", "PKG_CONFIG*", "XDG_CACHE_HOME",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	}
)

// Environ gives the complete environment of a plugin, sorted: what the allow-list of its stage takes from environ,
// and the entries of extra, which win. A nil value in extra inherits the name from environ, if it is set there.
func Environ(stage string, extra map[string]*string, environ []string) []string {
	allowed := inherited
	if stage == "builder" {
		allowed = slices.Concat(inherited, inheritedByBuilder)
	}
	env := map[string]string{}
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		given, named := extra[name]
		if ok && (named && given == nil || matchesName(allowed, name)) {
			env[name] = value
		}
	}
	for name, value := range extra {
		if value != nil {
			env[name] = *value
		}
	}
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

func matchesName(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, many := strings.CutSuffix(p, "*")
		return name == p || many && strings.HasPrefix(name, prefix)
	})
}
