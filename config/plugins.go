package config

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Plugins says what implements each stage, and how its process is looked after.
type Plugins struct {
	Resolver, Watcher, Checker, Rotator Plugin
	// Builder holds at least one; the first whose Match fits builds a page.
	Builder []Plugin

	// StartTimeout covers everything from launching a plugin until it serves.
	StartTimeout time.Duration
	// RPCTimeout is the deadline of one call that does not stream.
	RPCTimeout time.Duration
	// BuildTimeout is how long a builder may tell nothing, of any build, before
	// a build that waits for it is ended.
	BuildTimeout time.Duration
	// StopTimeout is how long a plugin may take to stop before it is killed.
	StopTimeout time.Duration
	// Probation is how long a plugin that replaced another is watched: when it
	// fails within, the one before is started again. 0 is not at all.
	Probation time.Duration
	Restart   Restart
}

// Restart is how a plugin that failed is started again.
type Restart struct {
	// Initial is the first wait; it doubles with each failure up to Max, and
	// starts over when the plugin has been healthy for ResetAfter.
	Initial, Max, ResetAfter time.Duration
	// Budget is how many failures within Per make a stage degraded; it is then
	// tried once every DegradedRetry.
	Budget             int
	Per, DegradedRetry time.Duration
}

// Plugin is what implements a stage.
type Plugin struct {
	// Use is "builtin:NAME" or a path, which then contains a "/".
	Use string
	// SHA256 is the hash that the file at Use must have, 64 lower-case hex
	// digits, or "". It is only given with a path.
	SHA256 string
	// Match holds patterns of the files that a builder is for. Empty is any.
	Match []string
	// Env is added to the plugin's environment. A nil value stands for the
	// value that the kernel's own environment has for that name.
	Env map[string]*string
	// Config is for the plugin alone, a mapping with its lines and columns and
	// without aliases; nil when absent.
	Config *yaml.Node
	// Pos is where the entry starts; the zero value when it is a default.
	// Two plugins can be the same and differ in Pos and in the lines of Config.
	Pos Position
}

// Builtin names of the default bundle.
const (
	defaultResolver = "builtin:fs"
	defaultBuilder  = "builtin:go" // of an entry that does not say; see defaultPlugins for the whole stage
	defaultWatcher  = "builtin:fsnotify"
	defaultChecker  = "builtin:http"
	defaultRotator  = "builtin:file"
)

// stage reads the entry of one plugin over its default.
func stage(p *Plugin) setter {
	return func(d *decoder, n *yaml.Node) { p.read(d, n, p.fields()) }
}

// builders reads one entry or a list of them. What it reads replaces the
// default as a whole; a key without a value leaves it.
func builders(p *[]Plugin) setter {
	return func(d *decoder, n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && n.ShortTag() == nullTag {
			return
		}
		if n.Kind != yaml.SequenceNode {
			*p = []Plugin{readBuilder(d, n)}
			return
		}
		var out []Plugin
		d.eachItem(n, func(item *yaml.Node) { out = append(out, readBuilder(d, item)) })
		if len(n.Content) == 0 {
			d.fail(n, "must have at least one entry", "remove the key to have "+defaultBuilder)
		}
		*p = out
	}
}

func readBuilder(d *decoder, n *yaml.Node) Plugin {
	p := Plugin{Use: defaultBuilder}
	p.read(d, n, append(p.fields(), field{"match", patterns(&p.Match)}))
	return p
}

func (p *Plugin) read(d *decoder, n *yaml.Node, fs fields) {
	p.Pos = d.position(n)
	if n.Kind == yaml.ScalarNode && n.ShortTag() == strTag {
		d.wrongType(n, "a mapping", "write {use: "+cut(n.Value)+"}")
		return
	}
	section(fs)(d, n)
	if p.SHA256 != "" && isBuiltin(p.Use) {
		pinned := d.at[d.key()+".sha256"]
		d.within("sha256", func() {
			d.fail(pinned, "cannot be given with "+p.Use, "it pins a file: give it with a path in use, or remove it")
		})
	}
}

// opaque keeps a mapping as it is.
func opaque(p **yaml.Node) setter {
	return func(d *decoder, n *yaml.Node) {
		switch {
		case n.Kind == yaml.MappingNode:
			*p = n
		case n.ShortTag() != nullTag:
			d.wrongType(n, "a mapping", "")
		}
	}
}

func isBuiltin(use string) bool { return strings.HasPrefix(use, "builtin:") }

var (
	builtinUse = regexp.MustCompile(`^builtin:[a-z][a-z0-9_-]*$`)
	sha256Hex  = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
)

func checkUse(use string) (message, hint string) {
	switch {
	case builtinUse.MatchString(use), !isBuiltin(use) && strings.Contains(use, "/"):
		return "", ""
	case isBuiltin(use):
		return fmt.Sprintf("%s is not the name of a built-in plugin", clip(use)), `write "builtin:" and a name in lower case, such as "` + defaultBuilder + `"`
	}
	return fmt.Sprintf("%s is neither a built-in plugin nor a path", clip(use)), fmt.Sprintf(`write "builtin:%s", or a path with a "/" such as "./%[1]s"`, cut(use))
}

func checkSHA256(s string) (message, hint string) {
	if s == "" || sha256Hex.MatchString(s) {
		return "", ""
	}
	return fmt.Sprintf("must be 64 hexadecimal digits, not %s", clip(s)), "take what sha256sum prints for the file"
}
