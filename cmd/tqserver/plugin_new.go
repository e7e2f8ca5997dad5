package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/config"
)

//go:embed all:plugin
var pluginFiles embed.FS

const (
	ownModule  = "github.com/tqserver/tqserver"
	fetchLimit = 10 * time.Minute // of the download of the sdk and what it needs
)

// scaffold is what the templates of a new plugin are filled with.
type scaffold struct {
	Stage, Name      string
	Adapter, Func    string // of the sdk, and of the plugin
	About            string // what the example does
	Subject          string // further fields of stagetest.Plugin
	ConfigYAML       string
	Use              string // path of the plugin, from the site
	Version, Replace string // of tqserver's module; Replace is "" or a directory
	dir              string
}

// examples say what the plugin of each stage is before its author changes it.
var examples = map[string]scaffold{
	"resolver": {Adapter: "ResolverFunc", Func: "resolve", About: "a directory with a `main.go` is a page, served at its path.",
		ConfigYAML: "      entry: main.go"},
	"builder": {Adapter: "BuilderFunc", Func: "build", About: "it runs `go build` in the directory of a page.",
		ConfigYAML: "      flags: [-trimpath]"},
	"watcher": {Adapter: "WatcherFunc", Func: "watch", About: "it compares all files every half second.",
		ConfigYAML: "      every_ms: 500"},
	"checker": {Adapter: "CheckerFunc", Func: "probe", About: "a worker that takes a connection is healthy.",
		ConfigYAML: "      interval_ms: 5000", Subject: `, Config: "{interval_ms: 50, timeout_ms: 1000}"`},
	"rotator": {Adapter: "RotatorFunc", Func: "write", About: "it appends every line to one file.",
		ConfigYAML: "      file: logs/all.log", Subject: `, Config: "file: all.log", Output: []string{"all.log"}`},
}

func newPluginNew(*app) *cobra.Command {
	var sdkDir string
	cmd := &cobra.Command{
		Use:   "new STAGE NAME [DIR]",
		Short: "Make a plugin to start from: it builds, passes its tests and runs",
		Long: "New writes a Go module for a plugin of a stage (" + strings.Join(stages, ", ") + ") into DIR, which is NAME\n" +
			"if it is not given, and gets the modules that it needs.",
		Example: "  tqserver plugin new resolver vhost\n  tqserver plugin new checker ping ../ping --sdk ~/src/tqserver",
		Args:    cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := newScaffold(args, sdkDir)
			if err != nil {
				return err
			}
			if err := s.write(); err != nil {
				return fmt.Errorf("make plugin: %w", err)
			}
			if err := s.require(cmd.Context(), cmd.ErrOrStderr()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made a %s in %s: run `go test ./... && go build` there, then name %s in config/server.yaml\n", s.Stage, s.dir, s.Use)
			return nil
		},
	}
	cmd.Flags().StringVar(&sdkDir, "sdk", "", "`directory` with the source of tqserver, for its package sdk")
	return cmd
}

var pluginName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// newScaffold checks what the user asks for.
func newScaffold(args []string, sdkDir string) (scaffold, error) {
	s, known := examples[args[0]]
	if !known {
		hint := "stages are: " + strings.Join(stages, ", ")
		if near := config.Nearest(args[0], stages); near != "" {
			hint = fmt.Sprintf("did you mean %s? %s", near, hint)
		}
		return s, &usageError{fmt.Errorf("there is no stage %q", args[0]), hint}
	}
	s.Stage, s.Name = args[0], args[1]
	if !pluginName.MatchString(s.Name) || len(s.Name) > 40 {
		return s, &usageError{fmt.Errorf("%q is no name for a plugin", s.Name), "take lower-case letters, digits and single dashes between them, 40 at most"}
	}
	s.dir = append(args, s.Name)[2]
	abs, err := filepath.Abs(s.dir)
	if err != nil {
		return s, err
	}
	s.Use = filepath.Join(abs, s.Name)
	if cwd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(cwd, s.Use); err == nil {
			s.Use = rel
		}
	}
	if !strings.Contains(s.Use, "/") || !strings.HasPrefix(s.Use, ".") && !filepath.IsAbs(s.Use) {
		s.Use = "./" + s.Use
	}
	s.Version, s.Replace, err = sdkSource(sdkDir)
	return s, err
}

// release is the version of a module that was published; what is built from a clone has another form.
var release = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-(alpha|beta|rc)[.0-9]*)?$`)

// sdkSource tells where a plugin's go.mod finds this module: in the directory that was named, in the registry if this
// is a released version, else in the source that this program, or the present directory, is in.
func sdkSource(named string) (version, replace string, err error) {
	if named != "" {
		dir, err := filepath.Abs(named)
		if err == nil && !isOwnSource(dir) {
			err = fmt.Errorf("%s is not the source of tqserver: it has no go.mod of the module %s", dir, ownModule)
		}
		return "v0.0.0", dir, err
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path == ownModule && release.MatchString(info.Main.Version) {
		return info.Main.Version, "", nil
	}
	var starts []string
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	if cwd, err := os.Getwd(); err == nil {
		starts = append(starts, cwd)
	}
	for _, dir := range starts {
		for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			if isOwnSource(dir) {
				return "v0.0.0", dir, nil
			}
		}
	}
	return "", "", &usageError{errors.New("the plugin needs the package sdk, and this tqserver is no released version and not beside its source"),
		"name the directory of the source with --sdk DIR"}
}

func isOwnSource(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	return err == nil && slices.Contains(strings.Split(string(text), "\n"), "module "+ownModule) && exists(filepath.Join(dir, "sdk", "serve.go"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// write fills a directory that is empty or does not exist.
func (s scaffold) write() error {
	entries, err := os.ReadDir(s.dir)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty: name a new directory", s.dir)
	}
	files, err := s.files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// files gives the content of the plugin's directory, by name.
func (s scaffold) files() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, from := range []string{"all", s.Stage} {
		names, err := fs.Glob(pluginFiles, path.Join("plugin", from, "*.tmpl"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			t, err := template.New(path.Base(name)).Option("missingkey=error").ParseFS(pluginFiles, name)
			if err != nil {
				return nil, err
			}
			var b bytes.Buffer
			if err := t.Execute(&b, s); err != nil {
				return nil, err
			}
			files[strings.TrimSuffix(path.Base(name), ".tmpl")] = b.Bytes()
		}
	}
	if s.Replace == "" {
		return files, nil
	}
	sums, err := os.ReadFile(filepath.Join(s.Replace, "go.sum")) // lets it do without the network where the modules are there
	if err == nil {
		files["go.sum"] = sums
	}
	return files, nil
}

// require completes go.mod and go.sum. Unlike `go mod tidy` it asks for nothing that only the tests of other modules
// need, so that the network can be missing where tqserver itself was built.
func (s scaffold) require(ctx context.Context, progress io.Writer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchLimit, fmt.Errorf("not done within %s", fetchLimit))
	defer cancel()
	fmt.Fprintln(progress, "getting the modules that it needs …")
	cmd := exec.CommandContext(ctx, "go", "list", "-mod=mod", "-deps", "-test", "./...")
	cmd.Dir, cmd.WaitDelay = s.dir, time.Second
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return &usageError{fmt.Errorf("get the modules that %s needs: %w\n%s", s.dir, err, bytes.TrimSpace(errs.Bytes())),
			fmt.Sprintf("its files are there: when that is mended, run `go mod tidy` in %s", s.dir)}
	}
	return nil
}
