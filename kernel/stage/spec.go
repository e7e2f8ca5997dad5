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
	"github.com/tqserver/tqserver/sdk"
)

// Spec is everything that is needed to start one plugin. It is not changed once it was handed over.
type Spec struct {
	Stage  string   // resolver, builder, watcher, checker or rotator; "": not known, see [ResolveFile]
	Name   string   // for people: "builtin:fs", or the path as configured
	Path   string   // of the executable
	SHA256 string   // of a custom plugin's executable, in hex; "": built in
	Args   []string // without the program's name
	Dir    string   // working directory; "" is the kernel's
	Env    []string // complete, NAME=value
	Config []byte   // the `config:` block as a JSON object; empty: {}

	attach *sdk.Attach // it runs in a debugger: connect, start nothing

	node *yaml.Node      // the same block, for the lines in messages
	pos  config.Position // of the plugin's entry
}

// ResolveOptions is where Resolve looks and what it may use.
type ResolveOptions struct {
	Root     string                      // of the site: paths are relative to it, plugins work in it
	StateDir string                      // private copies of custom plugins go to StateDir/plugins
	Builtins func(stage string) []string // names of the default bundle
	Environ  []string                    // of the kernel
	Lock     *Lock                       // what custom plugins must be; nil: there is no lock file
	Attached Attached                    // what runs in a debugger
}

// Resolve turns an entry of the configuration into a Spec. A file is copied to a private place while it is hashed,
// and the copy is what will be executed: what was checked is what runs, also when the file changes later. With a
// lock, a file that neither the lock nor the entry itself pins is refused. The error is a [*config.Error] that says
// what to do.
func Resolve(stage string, p config.Plugin, o ResolveOptions) (Spec, error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return Spec{}, refuse(stage, p, "", fmt.Sprintf("find the site's root: %v", err), "")
	}
	spec := Spec{Stage: stage, Name: p.Use, Dir: root, Env: Environ(stage, p.Env, o.Environ), node: p.Config, pos: p.Pos}
	if spec.Config, err = configJSON(p.Config); err != nil {
		return Spec{}, refuse(stage, p, "config", err.Error(), "give plain values: text, numbers, true, false and lists")
	}
	if spec.attach = o.Attached.find(stage, p.Use); spec.attach != nil {
		return spec, nil
	}
	if name, ok := strings.CutPrefix(p.Use, "builtin:"); ok {
		return resolveBuiltin(spec, p, name, o.Builtins(stage))
	}
	if f := spec.take(p, o); f != nil {
		return Spec{}, refuse(stage, p, f.key, f.message, f.hint)
	}
	return spec, nil
}

// ResolveFile is Resolve for a file that no configuration names, such as the argument of a command: nothing pins it,
// and its Stage is not known.
func ResolveFile(path string, o ResolveOptions) (Spec, error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return Spec{}, fmt.Errorf("find the site's root: %w", err)
	}
	spec, p := Spec{Name: path, Dir: root, Env: Environ("", nil, o.Environ)}, config.Plugin{Use: path}
	o.Lock = nil
	if f := spec.take(p, o); f != nil {
		return Spec{}, &config.Error{Position: config.Position{File: path}, Message: f.message, Hint: f.hint}
	}
	return spec, nil
}

// take copies the file of a custom plugin, checks the copy, and makes it what the spec executes.
func (s *Spec) take(p config.Plugin, o ResolveOptions) *fault {
	path := p.Use
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.Dir, path)
	}
	source, f := openExecutable(path)
	if f != nil {
		return f
	}
	defer source.Close()
	want, f := o.Lock.pin(p)
	if f != nil {
		return f
	}
	s.Path, s.SHA256, f = privateCopy(source, want, o.StateDir)
	return f
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
func (s *Spec) label() string { return strings.TrimSpace(s.Stage + " plugin " + s.Name) }

// sameProcess tells whether only the configuration differs, so that a running process can take the other spec.
func (s *Spec) sameProcess(o *Spec) bool {
	return s.Stage == o.Stage && s.Path == o.Path && s.Dir == o.Dir && slices.Equal(s.Args, o.Args) && slices.Equal(s.Env, o.Env)
}

func (s *Spec) sameConfig(o *Spec) bool { return bytes.Equal(s.Config, o.Config) }
