package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/tqserver/tqserver/sdk"
)

// lane is how to build a page without the go command: what that would run, with which files, as long as one plan holds.
// It is made by prepare and does not change.
type lane struct {
	key      string // of the plan: see laneKey
	compiler string // path
	linker   string // path
	goroot   string
	tools    []string          // what identifies compiler and linker
	env      []string          // of both
	fixed    map[string]string // archives of packages that cannot change: name in the store by import path
	std      map[string]bool   // packages of the standard library that a file may import
	units    []*unit           // packages that can change, each after those that it imports; the last is main
	ldflags  []string
	modinfo  string // line of the linker's importcfg
}

// unit is a package that the lane compiles.
type unit struct {
	path    string // import path
	dir     string
	main    bool
	flags   []string // of the compiler; nil: only the go command can compile it
	files   []string // for the compiler, absolute
	others  []string // further files that count: what is embedded
	embeds  []byte   // content of the -embedcfg; nil: none
	imports []string // packages outside the standard library, and all of a unit whose files cannot change
}

// errSlow wraps what keeps a build off the fast lane. It is no fault of the source: the go command is to build.
var errSlow = errors.New("builder: not on the fast lane")

// trimDir stands in the flags of a unit for the directory that its compiler writes to.
const trimDir = "$WORK"

// laneRun is one build on the lane.
type laneRun struct {
	*build
	lane   *lane
	store  *store
	work   string            // directory for temporary files
	local  map[string]string // archives of the units, by import path: name in the store
	failed map[string]bool   // units with an error, by import path, and those that need them
	config string            // path of the linker's importcfg
	text   strings.Builder   // what the compiler says
}

// fast builds the page into temp. The fault is what is wrong with the source; the error wraps errSlow when the go
// command is to build, and is errChanged when files changed meanwhile.
func (b *build) fast(ctx context.Context, l *lane, temp string) (fault []sdk.Diagnostic, err error) {
	r := &laneRun{build: b, lane: l, store: b.lanes.store(b.job.OutDir), work: filepath.Join(temp, "work"),
		local: map[string]string{}, failed: map[string]bool{}}
	same := b.sameToolchain(ctx)
	fault, err = r.run(ctx, filepath.Join(temp, "release", binaryName))
	if !same() {
		b.src.plan = nil
		return nil, errChanged
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil && len(fault) == 0 {
		b.keep(r)
	}
	return fault, err
}

func (r *laneRun) run(ctx context.Context, binary string) ([]sdk.Diagnostic, error) {
	for _, u := range r.lane.units {
		if err := r.unit(ctx, u); err != nil {
			return nil, err
		}
	}
	if r.text.Len() > 0 {
		return r.explain(r.text.String()), nil
	}
	r.event(sdk.Event{Step: "link"})
	var err error
	page := r.lane.units[len(r.lane.units)-1].path
	if r.config, err = r.store.config(r.importcfg(page) + r.lane.modinfo); err != nil {
		return nil, fmt.Errorf("%w: %w", errSlow, err)
	}
	main := r.store.path(r.local[page])
	if output, err := r.link(ctx, r.lane, r.config, main, binary, r.work); err != nil {
		return nil, fmt.Errorf("%w: link: %w: %s", errSlow, err, tail(output)) // if the source is at fault, the go command says so again
	}
	return nil, nil
}

// unit finds the archive of a package, or makes it.
func (r *laneRun) unit(ctx context.Context, u *unit) error {
	if slices.ContainsFunc(u.imports, func(path string) bool { return r.failed[path] }) {
		r.failed[u.path] = true
		return nil
	}
	key, err := r.key(u)
	if err != nil {
		return err
	}
	free, err := r.store.lock(ctx, key) // another page may compile the same package
	if err != nil {
		return err
	}
	defer free()
	if !r.store.has(key) {
		if u.flags == nil {
			return fmt.Errorf("%w: %s has an edit, and cgo or assembly", errSlow, u.path)
		}
		if err := r.compileUnit(ctx, u, key); err != nil || r.failed[u.path] {
			return err
		}
	}
	r.local[u.path] = key
	return nil
}

// key names the archive of a package after all that goes into it.
func (r *laneRun) key(u *unit) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "tqserver lane 1\n%q\n%q\n%q %q\n%q\n", r.lane.tools, r.lane.env, u.path, u.dir, u.flags)
	h.Write(u.embeds)
	imports := slices.Clone(u.imports)
	for _, path := range slices.Concat(u.files, u.others) {
		f := r.state.files[path]
		fmt.Fprintf(h, "%q %s\n", path, f.sum)
		for _, i := range f.imports {
			if !r.lane.std[i] {
				return "", fmt.Errorf("%w: %s imports %s anew", errSlow, path, i)
			}
			imports = append(imports, i)
		}
	}
	for _, path := range unique(imports) {
		id := r.lane.fixed[path]
		if name, ok := r.local[path]; ok {
			var err error
			if id, err = r.store.export(name); err != nil {
				return "", fmt.Errorf("%w: %w", errSlow, err)
			}
		}
		fmt.Fprintf(h, "import %q %s\n", path, id)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// importcfg lists all packages but those that are still to be compiled, and but one.
func (r *laneRun) importcfg(except string) string {
	var text strings.Builder
	for _, archives := range []map[string]string{r.lane.fixed, r.local} {
		for _, path := range sortedKeys(archives) {
			if path == except {
				continue
			}
			fmt.Fprintf(&text, "packagefile %s=%s\n", path, r.store.path(archives[path]))
		}
	}
	return text.String()
}

// compileUnit compiles a package into the store. Errors of the source go to r.text.
func (r *laneRun) compileUnit(ctx context.Context, u *unit, key string) error {
	dir, err := os.MkdirTemp(r.work, "unit-")
	if err != nil {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	config, archive := filepath.Join(dir, "importcfg"), filepath.Join(dir, "_pkg_.a")
	args := []string{"-o", archive}
	for _, f := range u.flags {
		args = append(args, strings.ReplaceAll(f, trimDir, dir))
	}
	if n := runtime.GOMAXPROCS(0); n > 1 {
		args = append(args, fmt.Sprintf("-c=%d", n))
	}
	args = append(args, "-importcfg", config)
	err = os.WriteFile(config, []byte("# import config\n"+r.importcfg(u.path)), 0o600)
	if u.embeds != nil && err == nil {
		args = append(args, "-embedcfg", filepath.Join(dir, "embedcfg"))
		err = os.WriteFile(filepath.Join(dir, "embedcfg"), u.embeds, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	text, err := r.tool(ctx, r.lane.compiler, append([]string{"GOGC=" + toolGC}, r.lane.env...), r.work, append(args, u.files...)...)
	if err != nil {
		return r.compileError(u, text, err)
	}
	if !r.unchanged(u) {
		return errChanged
	}
	if err := os.Rename(archive, r.store.path(key)); err != nil {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	return nil
}

// compileError takes up the errors in the source, if that is what the compiler stumbled over.
func (r *laneRun) compileError(u *unit, text string, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !exit.Exited() || strings.Contains(text, "could not import") || strings.Contains(text, noSpaceText) {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	text = fmt.Sprintf("# %s\n%s", u.path, shorten(text, u.dir, r.job.Source))
	for _, d := range parse(text, r.job.Source) {
		if d.File == "" || d.Line == 0 {
			return fmt.Errorf("%w: %w", errSlow, err)
		}
	}
	for line := range strings.Lines(text) {
		r.event(sdk.Event{Log: strings.TrimSuffix(line, "\n")})
	}
	r.text.WriteString(text)
	r.failed[u.path] = true
	return nil
}

// unchanged tells whether the files of a package are still those of its key.
func (r *laneRun) unchanged(u *unit) bool {
	for _, path := range slices.Concat(u.files, u.others) {
		if known, ok := r.state.files[path]; ok && read(path, r.state.files, r.plan.std).sum != known.sum {
			return false
		}
	}
	return true
}

// tool runs the compiler or the linker. The text is what it printed.
func (b *build) tool(ctx context.Context, path string, env []string, work string, args ...string) (text string, err error) {
	out := output{event: func(sdk.Event) {}}
	cmd := prepare(path, b.job.Source, slices.Concat([]string{"TMPDIR=" + work}, env), args...)
	err = sdk.Run(ctx, cmd, out.take)
	return out.text.String(), err
}

// sameToolchain asks, beside the build, whether the go command is a switch between several toolchains that by now
// chose another. same waits for the answer.
func (b *build) sameToolchain(ctx context.Context) (same func() bool) {
	if !b.plan.shim {
		return func() bool { return true }
	}
	answer := make(chan bool, 1)
	silent := b.silent()
	go func() {
		env, err := silent.goEnv(ctx)
		answer <- err != nil || b.sameSettings(env)
	}()
	return func() bool { return <-answer }
}

// sameSettings tells whether the toolchain is still the one of the plan.
func (b *build) sameSettings(env map[string]string) bool {
	now := &plan{source: b.job.Source, meta: map[string]bool{}}
	now.toolchain(env, b.config)
	return slices.Equal(now.settings, b.plan.settings[:min(len(now.settings), len(b.plan.settings))])
}

// shorten writes paths in a tool's output the way the go command does: relative to source where that is shorter.
func shorten(text, dir, source string) string {
	text = "\n" + text
	for _, d := range ancestors(dir, "") {
		rel, err := filepath.Rel(source, d)
		if err != nil || len(rel) >= len(d) {
			continue
		}
		for _, before := range []string{"\n", "\n\t", " "} {
			text = strings.ReplaceAll(text, before+d+"/", before+rel+"/")
		}
	}
	return text[1:]
}

// tail gives the end of a text, on one line.
func tail(text string) string {
	lines := strings.Fields(text)
	return strings.Join(lines[max(0, len(lines)-40):], " ")
}
