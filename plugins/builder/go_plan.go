package builder

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tqserver/tqserver/sdk"
)

// plan is which files the build of a source reads, as go list tells it. It holds as long as the shape of the files
// (see scan) stays what it was.
type plan struct {
	source      string
	settings    []string          // of the toolchain and the flags: lines for the hash
	env         map[string]string // as go env tells it
	shim        bool              // the go command is a script or program that chooses between several
	version     string            // of Go
	goroot      string
	gocache     string
	cgo         bool
	files       []string          // what is compiled and embedded
	dirs        []string          // of local packages
	embeds      []embed           // of local packages
	meta        map[string]bool   // go.mod, go.sum, go.work, … where they would count, there or not
	tools       []string          // files of the toolchain: a new size or time makes the plan void
	missing     map[string]string // directories where packages that were not found should be, by import path
	modules     []string          // path@version of those in the module cache
	diagnostics []sdk.Diagnostic
	shape       string // "": not known to hold
}

// newPlan asks the go command. Faults of the source are in the plan's diagnostics.
func (b *build) newPlan(ctx context.Context) (*plan, error) {
	p := &plan{source: b.job.Source, meta: map[string]bool{}, missing: map[string]string{}, dirs: []string{b.job.Source}}
	path, err := b.config.goPath()
	if err != nil {
		return nil, err
	}
	p.tools, p.shim = []string{path}, isShim(path)
	env, err := b.goEnv(ctx)
	if err == nil {
		p.toolchain(env, b.config)
	}
	if b.src.goroot != p.goroot { // what is of the standard library may be seen otherwise
		b.src.goroot, b.src.files = p.goroot, nil
	}
	p.addMeta(b.job.Source, env["GOMOD"], env["GOWORK"])
	var pkgs []pkg
	if err == nil {
		pkgs, err = b.packages(ctx, p, env)
	}
	var fault *toolError
	if errors.As(err, &fault) {
		p.diagnostics = b.explain(fault.text)
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	p.settings = append(p.settings, p.cgoSettings(env)...)
	p.add(pkgs, env["GOMODCACHE"])
	p.diagnostics = b.listed(pkgs, p, env)
	return p, nil
}

// packages lists the packages with and, if that is the same or the page is better off, without cgo.
func (b *build) packages(ctx context.Context, p *plan, env map[string]string) ([]pkg, error) {
	first := map[string]string{"on": "1", "off": "0"}[b.config.Cgo]
	pkgs, err := b.list(ctx, first)
	if err != nil {
		return nil, err
	}
	p.cgo = first == "1" || first == "" && needsCgo(pkgs)
	if first != "" || p.cgo || env["CGO_ENABLED"] != "1" || !b.mentionsCgo(p, pkgs, env["GOMODCACHE"]) {
		return pkgs, nil
	}
	return b.list(ctx, "0")
}

// mentionsCgo tells whether the files of a local package are chosen by whether cgo is there.
func (b *build) mentionsCgo(p *plan, pkgs []pkg, modcache string) bool {
	for _, q := range pkgs {
		if !q.local(modcache) {
			continue
		}
		for _, name := range sourceNames(q.Dir) {
			f := read(filepath.Join(q.Dir, name), b.src.files, p.std)
			if strings.Contains(f.outline, "cgo") {
				return true
			}
		}
	}
	return false
}

func (p *plan) toolchain(env map[string]string, c GoConfig) {
	p.env, p.version, p.goroot, p.gocache = env, env["GOVERSION"], env["GOROOT"], env["GOCACHE"]
	for _, name := range toolchainVars {
		p.settings = append(p.settings, name+"="+cmp.Or(env[name], os.Getenv(name)))
	}
	p.settings = append(p.settings, c.buildFlags()...)
	p.tools = append(p.tools, filepath.Join(p.goroot, "VERSION"), filepath.Join(p.goroot, "go.env"), p.tool("compile"), p.tool("link"))
	if f := env["GOENV"]; filepath.IsAbs(f) {
		p.tools = append(p.tools, f)
	}
	for _, f := range append(strings.Fields(env["GOFLAGS"]), c.Flags...) {
		name, value, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
		if name == "modfile" || name == "overlay" || name == "pgo" && value != "auto" && value != "off" {
			p.flagFile(name, value)
		}
	}
}

// tool gives the path of a program of the toolchain.
func (p *plan) tool(name string) string { return filepath.Join(p.env["GOTOOLDIR"], name) }

// isShim tells whether a go command does not belong to a toolchain.
func isShim(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	return err != nil || !isFile(filepath.Join(filepath.Dir(filepath.Dir(real)), "VERSION"))
}

// flagFile adds the files that a flag names.
func (p *plan) flagFile(name, path string) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.source, path)
	}
	p.meta[path] = true
	switch name {
	case "modfile":
		p.meta[strings.TrimSuffix(path, ".mod")+".sum"] = true
	case "overlay":
		for _, file := range overlayFiles(path) {
			p.flagFile("", file)
		}
	}
}

func (p *plan) cgoSettings(env map[string]string) []string {
	if !p.cgo {
		return []string{"CGO_ENABLED=0"}
	}
	settings := []string{"CGO_ENABLED=1"}
	for _, name := range cgoVars {
		settings = append(settings, name+"="+env[name])
	}
	for _, name := range cgoPaths {
		settings = append(settings, name+"="+os.Getenv(name))
	}
	return append(settings, compilerOf(env["CC"])...)
}

// add takes up what go list said.
func (p *plan) add(pkgs []pkg, modcache string) {
	modules, roots := map[string]bool{}, map[string]string{}
	for _, q := range pkgs {
		if m := q.Module; m != nil && m.Dir != "" && q.local(modcache) {
			roots[m.Path] = m.Dir
		}
	}
	for _, q := range pkgs {
		if !q.local(modcache) {
			if v := q.version(); v != "" {
				modules[v] = true
			}
			if dir := expected(q, roots); dir != "" {
				p.missing[q.ImportPath] = dir
			}
			continue
		}
		p.files = append(p.files, q.sources()...)
		p.dirs = append(p.dirs, q.Dir)
		for _, pattern := range q.EmbedPatterns {
			p.embeds = append(p.embeds, embed{q.Dir, strings.TrimPrefix(pattern, "all:")})
		}
		if m := q.Module; m != nil && within(q.Dir, m.Dir) {
			for _, dir := range ancestors(q.Dir, m.Dir) {
				p.meta[filepath.Join(dir, "go.mod")] = true
			}
		}
	}
	p.meta[filepath.Join(p.source, "default.pgo")] = true
	p.modules = slices.Sorted(maps.Keys(modules))
	p.dirs = unique(p.dirs)
	p.files = unique(p.files)
}

// expected gives the directory where a package that was not found should be, if a local module tells.
func expected(q pkg, roots map[string]string) string {
	if q.Standard || q.Error == nil {
		return ""
	}
	for path, root := range roots {
		if rest, ok := strings.CutPrefix(q.ImportPath, path+"/"); ok {
			return filepath.Join(root, filepath.FromSlash(rest))
		}
	}
	return ""
}

// std tells whether an import is of the standard library.
func (p *plan) std(path string) bool {
	if p.goroot == "" || path == "" || path == "C" {
		return false
	}
	info, err := os.Stat(filepath.Join(p.goroot, "src", filepath.FromSlash(path)))
	return err == nil && info.IsDir()
}

// globs are the patterns where a new file may change the build.
func (p *plan) globs() []string {
	var globs []string
	for _, dir := range slices.AppendSeq(slices.Clone(p.dirs), maps.Values(p.missing)) {
		globs = append(globs, sourceGlobs(dir, p.cgo)...)
	}
	for _, e := range p.embeds {
		globs = append(globs, e.globs()...)
	}
	for path := range p.meta {
		globs = append(globs, sdk.QuoteMatch(path))
	}
	return unique(globs)
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
