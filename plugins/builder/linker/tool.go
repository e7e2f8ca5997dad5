package linker

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	buildLimit  = 10 * time.Minute // for building a linker, at low priority
	retryFailed = 24 * time.Hour   // after a build that failed
	forgetTool  = 30 * 24 * time.Hour
)

// patch holds what is added to the packages of cmd/link.
//
//go:embed _patch
var patch embed.FS

// edits are the changes to files of GOROOT/src/cmd/link/internal: in a function, by its first line, the line old
// becomes new. There is one of each, or the toolchain is not one that this was written for.
var edits = []struct{ file, function, old, new string }{
	{"ld/lib.go", "func (ctxt *Link) loadlib() {", "\ti := 0", "\ti := ctxt.preload()"},
	{"ld/deadcode.go", "func deadcode(ctxt *Link) {", "\td.init()", "\td.preloadedInit()"},
	{"loader/loader.go", "func (l *Loader) LoadSyms(arch *sys.Arch) {", "\tvar symSize, hashedSize, hashed64Size int",
		"\tif preloadedSyms(l, arch) {\n\t\treturn\n\t}\n\tvar symSize, hashedSize, hashed64Size int"},
}

// added are the files that are put there, by their place in patch.
var added = []struct{ file, from string }{
	{"ld/tqserver_preload.go", "_patch/ld.go"},
	{"loader/tqserver_preload.go", "_patch/loader.go"},
	{"loader/tqserver_marks.go", "_patch/marks.go"},
}

// tool is a linker that can preload, or the reason why there is none.
type tool struct {
	path string
	err  error
}

// tool gives the linker for the toolchain of s. It builds it, once, which takes seconds; that there is none is said once.
func (l *Linker) tool(s Spec) (string, error) {
	l.mu.Lock()
	t, ok := l.tools[s.toolchain()]
	l.mu.Unlock()
	if ok {
		return t.path, t.err
	}
	t.path, t.err = l.makeTool(s)
	if l.ctx.Err() != nil {
		return "", l.ctx.Err()
	}
	if t.err != nil {
		l.o.Log.Info("no preloaded linker for this toolchain; pages are linked with the stock one", "goroot", s.GOROOT, "reason", t.err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tools[s.toolchain()] = t
	return t.path, t.err
}

func (l *Linker) makeTool(s Spec) (path string, err error) {
	files, id, err := patched(s)
	if err != nil {
		return "", err
	}
	path = filepath.Join(l.toolDir(), "link-"+id[:32])
	failed := path + ".failed"
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		_ = os.Chtimes(path, time.Time{}, time.Now())
		return path, nil
	}
	if info, err := os.Stat(failed); err == nil && time.Since(info.ModTime()) < retryFailed {
		return "", fmt.Errorf("building it failed at %v; to try again, remove %s", info.ModTime().Format(time.DateTime), failed)
	}
	if err := os.MkdirAll(l.toolDir(), 0o700); err != nil {
		return "", err
	}
	l.removeOldTools()
	if err := l.buildTool(s, files, path); err != nil {
		if l.ctx.Err() == nil {
			err = errors.Join(err, os.WriteFile(failed, []byte(err.Error()+"\n"), 0o600))
		}
		return "", err
	}
	return path, nil
}

// patched gives the contents of the files that differ in the linker to build, by path, and a hash of them and the Go
// version.
func patched(s Spec) (files map[string]string, id string, err error) {
	root := filepath.Join(s.GOROOT, "src/cmd/link/internal")
	version, err := os.ReadFile(filepath.Join(s.GOROOT, "VERSION"))
	if err != nil {
		return nil, "", err
	}
	files = make(map[string]string)
	parts := []string{string(version), s.Tool}
	for _, e := range edits {
		path := filepath.Join(root, filepath.FromSlash(e.file))
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, "", err
		}
		if files[path], err = replaceLine(string(text), e.function, e.old, e.new); err != nil {
			return nil, "", fmt.Errorf("%s: %w", path, err)
		}
		parts = append(parts, files[path])
	}
	for _, a := range added {
		text, err := patch.ReadFile(a.from)
		if err != nil {
			return nil, "", err
		}
		files[filepath.Join(root, filepath.FromSlash(a.file))] = string(text)
		parts = append(parts, string(text))
	}
	return files, hashOf(parts...), nil
}

func replaceLine(text, function, old, new string) (string, error) {
	var found []int
	lines, in := strings.Split(text, "\n"), false
	for i, line := range lines {
		switch {
		case line == function:
			in = true
		case line == "}":
			in = false
		case in && line == old:
			found = append(found, i)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s: the line %q is there %d times, not once", function, strings.TrimSpace(old), len(found))
	}
	lines[found[0]] = new
	return strings.Join(lines, "\n"), nil
}

// buildTool builds the linker with the go command of its own toolchain, at low priority, into path.
func (l *Linker) buildTool(s Spec, files map[string]string, path string) error {
	work, err := os.MkdirTemp(l.toolDir(), "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	overlay, err := writeOverlay(work, files)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(l.ctx, buildLimit)
	defer cancel()
	built := filepath.Join(work, "link")
	cmd := exec.Command(goCommand(s), "build", "-p=1", "-trimpath", "-buildvcs=false", "-overlay="+overlay, "-o", built, "cmd/link")
	cmd.Dir, cmd.Env = work, toolEnv(s, work)
	if printed, err := runLow(ctx, cmd); err != nil {
		return fmt.Errorf("build linker: %w\n%s", err, printed)
	}
	if err := sameVersion(ctx, s, built); err != nil {
		return err
	}
	return os.Rename(built, path)
}

func writeOverlay(dir string, files map[string]string) (overlay string, err error) {
	replace := make(map[string]string)
	for path, text := range files {
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(replace[path], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}

func goCommand(s Spec) string {
	own := filepath.Join(s.GOROOT, "bin", "go")
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return s.Go
}

// toolEnv builds for this machine, with the toolchain as it is, whatever the pages are built for.
func toolEnv(s Spec, work string) []string {
	env := []string{"GOROOT=" + s.GOROOT, "GOTOOLCHAIN=local", "GOENV=off", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOMAXPROCS=1", "GOTMPDIR=" + work}
	for _, v := range s.Env {
		name, _, _ := strings.Cut(v, "=")
		if name == "GOCACHE" || name == "GOPATH" || name == "GOMODCACHE" || !strings.HasPrefix(name, "GO") && name != "CGO_ENABLED" {
			env = append(env, v)
		}
	}
	return env
}

// sameVersion holds what was built against the stock linker.
func sameVersion(ctx context.Context, s Spec, built string) error {
	var versions [2]string
	for i, path := range []string{s.Tool, built} {
		cmd := exec.Command(path, "-V=full")
		cmd.Env = s.Env
		printed, err := runLow(ctx, cmd)
		if err != nil {
			return err
		}
		_, versions[i], _ = strings.Cut(string(printed), " version ")
	}
	if versions[0] != versions[1] {
		return fmt.Errorf("the stock linker is of version %q, the sources are of %q", versions[0], versions[1])
	}
	return nil
}

// removeOldTools removes what was not used for long, and what a build left that was killed.
func (l *Linker) removeOldTools() {
	for pattern, age := range map[string]time.Duration{"link-*": forgetTool, "build-*": 2 * buildLimit} {
		old, _ := filepath.Glob(filepath.Join(l.toolDir(), pattern))
		for _, path := range old {
			if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > age {
				_ = os.RemoveAll(path)
			}
		}
	}
}

// toolDir is where the built linkers are.
func (l *Linker) toolDir() string { return cmp.Or(l.o.Tools, l.o.Dir) }
