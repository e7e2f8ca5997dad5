package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	filesName = "files" // of the directory beside the launcher
	tailLines = 20      // of a command that failed
)

// execBuild is one call of Build.
type execBuild struct {
	*Exec
	task[ExecConfig]
	recipe *recipe
	tree   *sourceTree
	tools  map[string]tool // that the recipe names, by name

	launcher string // text
	release  string
}

// errChanged means that files changed while they were copied.
var errChanged = errors.New("builder: files changed meanwhile")

// rounds builds until the files stay the same from their listing to their copy.
func (b *execBuild) rounds(ctx context.Context) (sdk.Result, error) {
	for range maxRounds {
		result, err := b.round(ctx)
		var fault *faultError
		switch {
		case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
			return b.failed(noSpace(b.job.OutDir)), nil
		case errors.As(err, &fault):
			return b.failed(fault.diagnostic), nil
		case !errors.Is(err, errChanged):
			return result, err
		}
	}
	return b.failed(sdk.Diagnostic{Message: fmt.Sprintf("the source files of page %s changed during %d builds in a row", b.job.Page, maxRounds)}), nil
}

func (b *execBuild) round(ctx context.Context) (sdk.Result, error) {
	b.event(sdk.Event{Step: "resolve"})
	found, err := b.resolve(ctx)
	if err != nil {
		return sdk.Result{}, err
	}
	if len(found) > 0 {
		return b.failed(found...), nil
	}
	if r, ok := b.cached(); ok {
		return r, nil
	}
	start := time.Now()
	temp, err := b.temps.make(b.job.OutDir, b.limit, "release", "work")
	if err != nil {
		return sdk.Result{}, err
	}
	defer func() {
		if err := b.temps.remove(temp); err != nil {
			b.log.Warn("temporary directory stays until a later build", "dir", temp, "error", err)
		}
	}()
	b.event(sdk.Event{Step: "copy"})
	dir := filepath.Join(temp, "release", filesName)
	if err := b.copy(ctx, dir); err != nil {
		return sdk.Result{}, err
	}
	for _, c := range b.recipe.build {
		b.event(sdk.Event{Step: "build"})
		if err := b.command(ctx, c, dir, filepath.Join(temp, "work")); err != nil {
			return sdk.Result{}, err
		}
	}
	if err := b.checkRun(dir); err != nil {
		return sdk.Result{}, err
	}
	return b.commit(temp, time.Since(start))
}

// resolve reads the recipe, the source and the programs, and names the release. The diagnostics are faults; when all
// of them are warnings, a program is missing.
func (b *execBuild) resolve(ctx context.Context) ([]sdk.Diagnostic, error) {
	file := filepath.Join(b.job.Source, recipeName)
	info, err := os.Stat(file) // before the reading, which would wait at a named pipe
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return []sdk.Diagnostic{{File: file, Message: fmt.Sprintf("read %s: %v: this file says how to run the page", recipeName, cause(err))}}, nil
	}
	recipe, found := readRecipe(file, text)
	if b.recipe = recipe; len(found) > 0 {
		b.recipe = nil
		return found, nil
	}
	if b.tree, err = readSource(ctx, b.job.Source, recipe.files, b.src.files); err != nil {
		return nil, err
	}
	b.src.files = b.tree.states()
	i := slices.IndexFunc(b.tree.files, func(f sourceFile) bool { return f.rel == recipeName })
	if sum := sha256.Sum256(text); i < 0 || b.tree.files[i].file.sum != hex.EncodeToString(sum[:]) {
		return nil, errChanged
	}
	if found := b.findTools(file); len(found) > 0 {
		return found, nil
	}
	b.name()
	return nil, nil
}

// findTools finds what the recipe needs besides its own files, and reports what is not there, once each.
func (b *execBuild) findTools(file string) (missing []sdk.Diagnostic) {
	needed := slices.Clone(b.recipe.requires)
	for _, c := range append(slices.Clone(b.recipe.build), b.recipe.run) {
		if !c.own() {
			needed = append(needed, c[0])
		}
	}
	b.tools = map[string]tool{}
	for _, w := range needed {
		if _, ok := b.tools[w.text]; ok {
			continue
		}
		p, err := findTool(w.text)
		if b.tools[w.text] = p; err == nil {
			continue
		}
		hint := ""
		if _, err := os.Stat(filepath.Join(b.job.Source, w.text)); err == nil {
			hint = fmt.Sprintf(", or write ./%s if you mean the file of the page", w.text)
		}
		d := w.fault(file, "%s is not there (%v): install it%s, then run `tqserver reload`", w.text, cause(err), hint)
		d.Warning = true
		missing = append(missing, d)
	}
	return missing
}

// copy copies the source. errChanged is the error when it is not what was listed.
func (b *execBuild) copy(ctx context.Context, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, f := range b.tree.files {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		from, to := filepath.Join(b.tree.dir, f.rel), filepath.Join(dir, f.rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		mode := fs.FileMode(0o600)
		if f.executable {
			mode = 0o700
		}
		sum, err := copyFile(from, to, mode)
		if errors.Is(err, fs.ErrNotExist) || err == nil && sum != f.file.sum {
			return errChanged
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
	}
	return nil
}

// copyFile copies a file with its time, which web servers tell their clients, and gives the hash of what it copied.
func copyFile(from, to string, mode fs.FileMode) (sum string, err error) {
	r, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return "", err
	}
	syscall.ForkLock.RLock() // a child that another build starts must not hold the copy open: it would be "busy" when it is run
	defer syscall.ForkLock.RUnlock()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(w, h), r)
	if err := errors.Join(err, w.Close(), os.Chtimes(to, info.ModTime(), info.ModTime())); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// command runs one build command in the copy. A *faultError has the last lines that it printed.
func (b *execBuild) command(ctx context.Context, c command, dir, work string) error {
	program := filepath.Join(dir, c[0].text)
	if !c.own() {
		program = b.tools[c[0].text].path
	}
	var last []string
	take := func(e sdk.Event) {
		b.event(e)
		last = append(last[max(0, len(last)-tailLines+1):], e.Log)
	}
	env := []string{"TMPDIR=" + work, "TQ_PAGE=" + b.job.Page, "TQ_PAGE_DIR=" + b.job.Dir}
	for name, value := range b.recipe.env {
		env = append(env, name+"="+value)
	}
	err := sdk.Run(ctx, prepare(program, dir, env, c.texts()[1:]...), take)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		return nil
	}
	text := fmt.Sprintf("`%s`: %v", strings.Join(c.texts(), " "), cause(err))
	return &faultError{c[0].fault(filepath.Join(b.job.Source, recipeName), "%s", strings.Join(append([]string{text}, last...), "\n"))}
}

// checkRun makes sure that a program of the page itself can be run.
func (b *execBuild) checkRun(dir string) error {
	c := b.recipe.run
	if !c.own() {
		return nil
	}
	file := filepath.Join(b.job.Source, recipeName)
	info, err := os.Stat(filepath.Join(dir, c[0].text))
	switch {
	case err != nil || !info.Mode().IsRegular():
		return &faultError{c[0].fault(file, "%s is no file of the page, and build does not make it", c[0].text)}
	case info.Mode()&0o100 == 0:
		return &faultError{c[0].fault(file, "%s is not executable: run chmod +x on it, then `tqserver reload`, or name the program that runs it first", c[0].text)}
	}
	return nil
}
