// Package stage runs the plugins that implement the five stages: Resolve finds and verifies what the configuration
// names, a Supervisor launches it, watches it, replaces it when it fails, and stops it.
//
// A plugin is a child process that speaks gRPC over a unix socket with mutual TLS (see package sdk). No process that
// this package starts outlives the kernel, and none is left when [Supervisor.Run] or [Validate] returns.
package stage

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/tqserver/tqserver/config"
)

// Spec is everything that is needed to start one plugin. It is not changed once it was handed over.
type Spec struct {
	Stage  string   // resolver, builder, watcher, checker or rotator
	Name   string   // for people: "builtin:fs", or the path as configured
	Path   string   // of the executable
	Args   []string // without the program's name
	Dir    string   // working directory; "" is the kernel's
	Env    []string // complete, NAME=value
	Config []byte   // the `config:` block as a JSON object; empty: {}

	node *yaml.Node      // the same block, for the lines in messages
	pos  config.Position // of the plugin's entry
}

// ResolveOptions is where Resolve looks and what it may use.
type ResolveOptions struct {
	Root     string                      // of the site: paths are relative to it, plugins work in it
	StateDir string                      // private copies of custom plugins go to StateDir/plugins
	Builtins func(stage string) []string // names of the default bundle
	Environ  []string                    // of the kernel
}

// Resolve turns an entry of the configuration into a Spec. A file is copied to a private place while it is hashed,
// and the copy is what will be executed: what was checked is what runs, also when the file changes later. The error
// is a [*config.Error] that says what to do.
func Resolve(stage string, p config.Plugin, o ResolveOptions) (Spec, error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return Spec{}, refuse(stage, p, "", fmt.Sprintf("find the site's root: %v", err), "")
	}
	spec := Spec{Stage: stage, Name: p.Use, Dir: root, Env: Environ(stage, p.Env, o.Environ), node: p.Config, pos: p.Pos}
	if spec.Config, err = configJSON(p.Config); err != nil {
		return Spec{}, refuse(stage, p, "config", err.Error(), "give plain values: text, numbers, true, false and lists")
	}
	if name, ok := strings.CutPrefix(p.Use, "builtin:"); ok {
		return resolveBuiltin(spec, p, name, o.Builtins(stage))
	}
	path := p.Use
	if !filepath.IsAbs(path) {
		path = filepath.Join(root, path)
	}
	private, fault := privateCopy(path, p.SHA256, o.StateDir)
	if fault != nil {
		return Spec{}, refuse(stage, p, fault.key, fault.message, fault.hint)
	}
	spec.Path = private
	return spec, nil
}

func resolveBuiltin(spec Spec, p config.Plugin, name string, known []string) (Spec, error) {
	if !slices.Contains(known, name) {
		hint := "built in are: builtin:" + strings.Join(known, ", builtin:")
		if len(known) == 0 {
			hint = "no plugin for this stage is built in; give the path of one"
		}
		if near := config.Nearest(name, known); near != "" {
			hint = fmt.Sprintf("did you mean builtin:%s? %s", near, hint)
		}
		return Spec{}, refuse(spec.Stage, p, "use", "there is no built-in plugin of this name", hint)
	}
	self, err := executable()
	if err != nil {
		return Spec{}, refuse(spec.Stage, p, "use", fmt.Sprintf("find tqserver's own executable: %v", err), "start tqserver by its full path")
	}
	spec.Path, spec.Args = self, []string{"plugin", "run", spec.Stage + "/" + name}
	return spec, nil
}

// selfPath is the running executable itself, also after the file it came from was replaced by an upgrade.
const selfPath = "/proc/self/exe"

func executable() (string, error) {
	if runtime.GOOS == "linux" {
		return selfPath, nil
	}
	return os.Executable()
}

func refuse(stage string, p config.Plugin, key, message, hint string) error {
	full := "plugins." + stage
	if key != "" {
		full += "." + key
	}
	return &config.Error{Position: p.Pos, Key: full, Message: fmt.Sprintf("%s plugin %s: %s", stage, p.Use, message), Hint: hint}
}

// label names a plugin in messages.
func (s *Spec) label() string { return s.Stage + " plugin " + s.Name }

// sameProcess tells whether only the configuration differs, so that a running process can take the other spec.
func (s *Spec) sameProcess(o *Spec) bool {
	return s.Stage == o.Stage && s.Path == o.Path && s.Dir == o.Dir && slices.Equal(s.Args, o.Args) && slices.Equal(s.Env, o.Env)
}

func (s *Spec) sameConfig(o *Spec) bool { return bytes.Equal(s.Config, o.Config) }
