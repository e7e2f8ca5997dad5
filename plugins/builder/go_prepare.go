package builder

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/tqserver/tqserver/sdk"
)

// laneFlags are the flags of go build that the lane knows how to follow. Of most it sees the effect in the calls of the
// tools; the others keep a page off it.
var laneFlags = []string{"mod", "modfile", "modcacherw", "tags", "trimpath", "ldflags", "buildvcs", "p"}

// prepare makes the lane of a plan that holds: it asks the go command which archives there are and what it would run.
// known are states of files. An error means that the page is built by the go command alone, as long as the plan holds.
func (b *build) prepare(ctx context.Context, p *plan, known files) (*lane, error) {
	if err := b.laneFits(p); err != nil {
		return nil, err
	}
	before := p.scan(known)
	b.plan, b.state = p, before
	pkgs, err := b.exports(ctx)
	if err != nil {
		return nil, err
	}
	text, err := b.dryRun(ctx)
	if err != nil {
		return nil, err
	}
	cmds, err := readCommands(text, p.env["GOTOOLDIR"])
	if err != nil {
		return nil, fmt.Errorf("read what go build would run: %w", err)
	}
	after := p.scan(before.files)
	if before.shape != p.shape || after.shape != p.shape {
		return nil, errChanged
	}
	l, err := b.newLane(cmds)
	if err != nil {
		return nil, err
	}
	return l, b.fill(l, pkgs, cmds, after.files)
}

// laneFits tells why a page can never be on the lane.
func (b *build) laneFits(p *plan) error {
	if p.cgo {
		return fmt.Errorf("the page uses cgo")
	}
	for _, f := range append(strings.Fields(p.env["GOFLAGS"]), b.config.Flags...) {
		if name, _, _ := strings.Cut(strings.TrimLeft(f, "-"), "="); !slices.Contains(laneFlags, name) {
			return fmt.Errorf("it is built with the flag %s", f)
		}
	}
	if isFile(filepath.Join(p.source, "default.pgo")) {
		return fmt.Errorf("it is built with a profile")
	}
	return nil
}

// exports lists the packages with their archives, which the go command makes where they are missing.
func (b *build) exports(ctx context.Context) ([]pkg, error) {
	args := append([]string{"list", "-e", "-deps", "-export", listFields + ",Export,Imports,ImportMap"}, b.config.listFlags()...)
	out, err := b.inBackground(ctx, false, append(args, ".")...)
	if err != nil {
		return nil, fmt.Errorf("list the archives: %w", err)
	}
	return readPackages(out)
}

// dryRun asks the go command what it would run if nothing was compiled yet.
func (b *build) dryRun(ctx context.Context) (string, error) {
	args := append([]string{"build", "-n", "-a", "-o", filepath.Join(b.job.OutDir, storeName, binaryName)}, b.config.buildFlags()...)
	out, err := b.inBackground(ctx, true, append(args, ".")...)
	if err != nil {
		return "", fmt.Errorf("ask go build what it would run: %w", err)
	}
	return string(out), nil
}

// inBackground runs the go command with a low priority, and gives its standard output; if both is set, with its standard
// error. Each failure may have to do with the moment, and wraps errSlow.
func (b *build) inBackground(ctx context.Context, both bool, args ...string) ([]byte, error) {
	path, err := b.config.goPath()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSlow, err)
	}
	temp, err := b.lanes.temps.make(b.job.OutDir, backLimit)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSlow, err)
	}
	defer b.lanes.temps.remove(temp)
	env := []string{"GOTMPDIR=" + temp, "TMPDIR=" + temp, "GOGC=" + toolGC, b.plan.cgoSettings(nil)[0]}
	cmd := prepare("/bin/sh", b.job.Source, env, gently(both, append([]string{path}, args...)...)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := sdk.Run(ctx, cmd, func(sdk.Event) {}); err != nil {
		return nil, fmt.Errorf("%w: go %s: %w", errSlow, args[0], err)
	}
	return out.Bytes(), nil
}

// newLane makes a lane without packages.
func (b *build) newLane(cmds commands) (*lane, error) {
	l := &lane{key: b.laneKey(), goroot: b.plan.env["GOROOT"], modinfo: cmds.modinfo, fixed: map[string]string{}, std: map[string]bool{"unsafe": true}}
	l.compiler, l.linker = b.plan.tool("compile"), b.plan.tool("link")
	for _, path := range []string{l.compiler, l.linker} {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("find the tools: %w", err)
		}
		l.tools = append(l.tools, fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano()))
	}
	for _, name := range toolchainVars {
		if value := b.plan.env[name]; value != "" && name != "GOFLAGS" && name != "GOMODCACHE" && name != "GOVERSION" {
			l.env = append(l.env, name+"="+value)
		}
	}
	l.env = append(l.env, b.plan.cgoSettings(nil)[0])
	flags, err := cmds.link.linkFlags()
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "linux" {
		flags = append(flags, "-buildid=tqserver/"+l.key) // macOS starts no program without
	}
	for _, v := range cmds.link.env {
		if root, ok := strings.CutPrefix(v, "GOROOT="); ok {
			l.goroot = root // "" with -trimpath
		}
	}
	l.ldflags = flags
	return l, nil
}

// fill adds the packages. now are the states of their files after they were listed.
func (b *build) fill(l *lane, pkgs []pkg, cmds commands, now files) error {
	s, modcache := b.lanes.store(b.job.OutDir), b.plan.env["GOMODCACHE"]
	r := &laneRun{build: b, lane: l, store: s, local: map[string]string{}}
	isUnit := map[string]bool{}
	for _, q := range pkgs {
		if !q.local(modcache) && !slices.ContainsFunc(q.Imports, func(path string) bool { return isUnit[path] }) {
			if err := l.addFixed(q, s); err != nil {
				return err
			}
			continue
		}
		u := l.newUnit(q, cmds, q.local(modcache))
		isUnit[u.path] = true
		l.units = append(l.units, u)
		key, err := r.key(u)
		if err != nil {
			return err
		}
		if q.Export != "" && unedited(u, b.state.files, now) {
			if _, err := s.adopt(q.Export, key); err != nil {
				return err
			}
		} else if !s.has(key) {
			return errChanged
		}
		r.local[u.path] = key
	}
	if n := len(l.units); n == 0 || !l.units[n-1].main || l.units[n-1].flags == nil {
		return fmt.Errorf("its package cannot be compiled by a call of the compiler alone")
	}
	b.hold(r, "")
	return nil
}

func (l *lane) addFixed(q pkg, s *store) error {
	if q.ImportPath == "unsafe" {
		return nil
	}
	if q.Export == "" {
		return fmt.Errorf("there is no archive of %s", q.ImportPath)
	}
	name, err := s.adopt(q.Export, "")
	if err != nil {
		return err
	}
	l.fixed[q.ImportPath] = name
	if q.Standard && !hidden(q.ImportPath) {
		l.std[q.ImportPath] = true
	}
	return nil
}

// hidden tells whether a page may not import a package of the standard library.
func hidden(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "/"), func(e string) bool { return e == "internal" || e == "vendor" })
}

func (l *lane) newUnit(q pkg, cmds commands, local bool) *unit {
	u := &unit{path: q.ImportPath, dir: q.Dir, main: !q.DepOnly}
	all := q.sources()
	u.files, u.others = all[:len(q.GoFiles)], all[len(q.GoFiles):]
	name := u.path
	if u.main {
		name = "main"
	}
	cmd := cmds.compile[name]
	flags, err := cmd.compileFlags(u.files)
	if err == nil && len(u.others) == len(q.EmbedFiles) && len(q.ImportMap) == 0 {
		u.flags, u.embeds = flags, cmd.embeds
	}
	for _, path := range q.Imports {
		if !local || !l.std[path] { // those of the standard library are read from the files, as they may change
			u.imports = append(u.imports, path)
		}
	}
	return u
}

// unedited tells whether the files of a package are the same in two states.
func unedited(u *unit, before, after files) bool {
	return !slices.ContainsFunc(slices.Concat(u.files, u.others), func(path string) bool { return before[path].sum != after[path].sum })
}

// laneKey names the plan of a build.
func (b *build) laneKey() string {
	return b.plan.shape + " " + strings.Join(b.plan.settings, " ")
}

// silent gives a build of the same source that tells nobody of its events.
func (b *build) silent() *build {
	s := &build{Go: b.Go, task: b.task}
	s.event = func(sdk.Event) {}
	return s
}
