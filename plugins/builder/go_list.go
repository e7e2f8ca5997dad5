package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tqserver/tqserver/sdk"
)

// minGo is the oldest toolchain that builds pages which import the worker SDK.
const minGo = "1.26"

// pkg is what go list says about a package.
type pkg struct {
	Dir, ImportPath, Name     string
	Standard, DepOnly         bool
	Module                    *module
	GoFiles, CgoFiles         []string
	CFiles, CXXFiles, MFiles  []string
	HFiles, FFiles, SFiles    []string
	SwigFiles, SwigCXXFiles   []string
	SysoFiles, InvalidGoFiles []string
	EmbedPatterns, EmbedFiles []string
	Imports                   []string
	ImportMap                 map[string]string
	Export                    string // archive
	Error                     *pkgError
	DepsErrors                []*pkgError
}

type module struct {
	Path, Version, Dir string
	Main               bool
	Replace            *module
}

type pkgError struct {
	ImportStack []string
	Pos, Err    string
}

const listFields = "-json=Dir,ImportPath,Name,Standard,DepOnly,Module,GoFiles,CgoFiles,CFiles,CXXFiles,MFiles,HFiles,FFiles," +
	"SFiles,SwigFiles,SwigCXXFiles,SysoFiles,InvalidGoFiles,EmbedPatterns,EmbedFiles,Error,DepsErrors"

// toolchainVars are the settings that change what comes out of a build; cgoVars those that count only with cgo.
var (
	toolchainVars = []string{"GOVERSION", "GOROOT", "GOMODCACHE", "GOOS", "GOARCH", "GOFLAGS", "GOEXPERIMENT", "GO386",
		"GOAMD64", "GOARM", "GOARM64", "GOMIPS", "GOMIPS64", "GOPPC64", "GORISCV64", "GOWASM", "GOFIPS140", "GO_EXTLINK_ENABLED"}
	cgoVars  = []string{"AR", "CC", "CXX", "FC", "PKG_CONFIG", "CGO_CFLAGS", "CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_FFLAGS", "CGO_LDFLAGS"}
	pathVars = []string{"GOMOD", "GOWORK", "GOENV", "GOCACHE", "GOTOOLDIR", "CGO_ENABLED"}
)

// cgoPaths are variables that the C compiler and pkg-config read.
var cgoPaths = []string{"CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR"}

// toolError is a go command that ended with an error because of the source; the text is what it printed.
type toolError struct{ text string }

func (e *toolError) Error() string { return e.text }

// goPath finds the go command.
func (c GoConfig) goPath() (string, error) {
	path, err := exec.LookPath(c.Go)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("find the go command: %w: install Go %s or newer, or set PATH or the key `go` of the builder to it", err, minGo)
	}
	return path, nil
}

// query runs the go command in the directory of the source and gives its standard output.
func (b *build) query(ctx context.Context, env []string, args ...string) ([]byte, error) {
	path, err := b.config.goPath()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	errs := output{event: b.event}
	cmd := prepare(path, b.job.Source, env, args...)
	cmd.Stdout = &out
	err = sdk.Run(ctx, cmd, errs.take)
	text := errs.text.String()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &exit) && text == "":
		return nil, &toolError{fmt.Sprintf("go %s: %v", args[0], exit)}
	case errors.As(err, &exit):
		return nil, &toolError{text}
	case err != nil:
		return nil, fmt.Errorf("run %s %s: %w", path, args[0], err)
	}
	return out.Bytes(), nil
}

// goEnv gives the settings of the toolchain that the source is built with.
func (b *build) goEnv(ctx context.Context) (map[string]string, error) {
	out, err := b.query(ctx, nil, slices.Concat([]string{"env", "-json"}, toolchainVars, cgoVars, pathVars)...)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	if err := json.Unmarshal(out, &env); err != nil {
		return nil, fmt.Errorf("read the output of go env: %w", err)
	}
	return env, nil
}

// list gives the package of the source and all that it depends on. cgo is the value of CGO_ENABLED, "" for the
// toolchain's own choice.
func (b *build) list(ctx context.Context, cgo string) ([]pkg, error) {
	var env []string
	if cgo != "" {
		env = []string{"CGO_ENABLED=" + cgo}
	}
	args := append(append([]string{"list", "-e", "-deps", listFields}, b.config.listFlags()...), ".")
	out, err := b.query(ctx, env, args...)
	if err != nil {
		return nil, err
	}
	return readPackages(out)
}

// readPackages reads the output of go list.
func readPackages(out []byte) ([]pkg, error) {
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the output of go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// sources are the files of a package that go into the build, as absolute paths.
func (p pkg) sources() []string {
	names := slices.Concat(p.GoFiles, p.CgoFiles, p.CFiles, p.CXXFiles, p.MFiles, p.HFiles, p.FFiles, p.SFiles,
		p.SwigFiles, p.SwigCXXFiles, p.SysoFiles, p.EmbedFiles)
	for i, name := range names {
		if !filepath.IsAbs(name) {
			names[i] = filepath.Join(p.Dir, name)
		}
	}
	return names
}

// local tells whether files of the package can change: it is neither of the standard library nor in the module cache.
func (p pkg) local(modcache string) bool {
	return !p.Standard && p.Dir != "" && !within(p.Dir, modcache)
}

// version names the module of a package in the module cache.
func (p pkg) version() string {
	m := p.Module
	if m == nil || m.Version == "" {
		return ""
	}
	if r := m.Replace; r != nil {
		return m.Path + " => " + r.Path + "@" + r.Version
	}
	return m.Path + "@" + m.Version
}

// needsCgo tells whether a package outside the standard library uses cgo. Those of the standard library can all do
// without.
func needsCgo(pkgs []pkg) bool {
	return slices.ContainsFunc(pkgs, func(p pkg) bool { return !p.Standard && len(p.CgoFiles)+len(p.SwigFiles)+len(p.SwigCXXFiles) > 0 })
}

// within tells whether path is dir or lies below it.
func within(path, dir string) bool {
	return dir != "" && (path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/"))
}

// ancestors lists dir and the directories above it, up to and with last; up to the root if last is not above dir.
func ancestors(dir, last string) []string {
	var dirs []string
	for {
		dirs = append(dirs, dir)
		parent := filepath.Dir(dir)
		if dir == last || parent == dir {
			return dirs
		}
		dir = parent
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
