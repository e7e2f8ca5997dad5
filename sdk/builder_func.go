package sdk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// resultFile is what a finished release of a BuilderFunc has beside its files.
const resultFile = ".result.json"

// BuilderFunc makes a Builder of a function that builds what is in one directory, for Serve. The function finds an empty
// directory in job.OutDir, writes there what is to run, and gives its path in Artifact, relative or absolute; Argv and
// Env are its to set as well. The rest of the Result is added here. The function may be called many times at once; Run
// runs a compiler as a build should.
//
// An error is the fault of the source, unless ctx has ended: it fails the build, and is shown as a diagnostic where
// event was given none. A panic is a fault of the builder, which the kernel asks again.
//
// The release is named by every file below job.Dir, except hidden ones and node_modules, by the configuration and by
// the plugin's own executable; one that was built before is not built again. A builder that reads other files
// implements Builder instead.
func BuilderFunc[C any](build func(ctx context.Context, config C, job Job, event func(Event)) (Result, error)) Builder {
	return &builderFunc[C]{settings: newSettings[C](), build: build, busy: map[string]chan struct{}{}, self: sync.OnceValues(ownDigest)}
}

type builderFunc[C any] struct {
	*settings[C]
	build func(ctx context.Context, config C, job Job, event func(Event)) (Result, error)
	self  func() (string, error)

	mu   sync.Mutex
	busy map[string]chan struct{} // release -> closed when its build has ended
}

func (f *builderFunc[C]) Build(ctx context.Context, job Job, event func(Event)) (Result, error) {
	began, config := time.Now(), f.current()
	inputs, err := sourceInputs(ctx, job.Dir)
	if err != nil {
		return Result{}, err
	}
	release, err := f.release(config, job, inputs)
	if err != nil {
		return Result{}, err
	}
	done, err := f.take(ctx, release)
	if err != nil {
		return Result{}, err
	}
	defer done()
	result, err := f.make(ctx, config, job, release, event)
	if err != nil {
		return Result{}, err
	}
	if now, err := sourceInputs(ctx, job.Dir); err != nil || !slices.Equal(now, inputs) {
		_ = os.Remove(filepath.Join(job.OutDir, release, resultFile)) // of which source it was made is not known
	}
	result.Release, result.Inputs, result.Globs = release, inputs, []string{QuoteMatch(job.Dir) + "/**"}
	result.Duration = time.Since(began)
	return result, nil
}

// take waits until nobody else builds a release.
func (f *builderFunc[C]) take(ctx context.Context, release string) (done func(), err error) {
	for {
		f.mu.Lock()
		other, busy := f.busy[release]
		if !busy {
			mine := make(chan struct{})
			f.busy[release] = mine
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				delete(f.busy, release)
				close(mine)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// make gives the release that there is, or builds it.
func (f *builderFunc[C]) make(ctx context.Context, config C, job Job, release string, event func(Event)) (Result, error) {
	dir := filepath.Join(job.OutDir, release)
	if r, err := loadResult(dir); err == nil {
		r.Cached = true
		return r, nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return Result{}, err
	}
	told := false
	tell := func(e Event) {
		told = told || e.Diagnostic != nil && !e.Diagnostic.Warning
		event(e)
	}
	job.OutDir = dir
	result, err := f.build(context.WithValue(ctx, loggerKey{}, f.log), config, job, tell)
	if err == nil {
		result, err = finish(dir, result)
	}
	if err == nil {
		return result, saveResult(dir, result)
	}
	if removed := os.RemoveAll(dir); removed != nil || ctx.Err() != nil {
		return Result{}, errors.Join(ctx.Err(), removed)
	}
	if !told {
		event(Event{Diagnostic: &Diagnostic{Message: err.Error(), File: job.Dir}})
	}
	return Result{}, nil
}

// finish checks and completes what a build gave.
func finish(dir string, r Result) (Result, error) {
	if r.Artifact == "" {
		return r, errors.New("the builder named no artifact")
	}
	if !filepath.IsAbs(r.Artifact) {
		r.Artifact = filepath.Join(dir, r.Artifact)
	}
	if rel, err := filepath.Rel(dir, r.Artifact); err != nil || !filepath.IsLocal(rel) {
		return r, fmt.Errorf("the builder put its artifact %s outside of %s", r.Artifact, dir)
	}
	if err := os.Chmod(r.Artifact, 0o700); err != nil {
		return r, fmt.Errorf("the builder did not make its artifact: %w", err)
	}
	var err error
	r.OK = true
	r.SHA256, err = fileSHA256(r.Artifact)
	return r, err
}

func saveResult(dir string, r Result) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, resultFile)
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// loadResult gives what an earlier build of a release gave, if its artifact is still what it was.
func loadResult(dir string) (r Result, err error) {
	text, err := os.ReadFile(filepath.Join(dir, resultFile))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, err
	}
	if sum, err := fileSHA256(r.Artifact); err != nil || sum != r.SHA256 {
		return r, fmt.Errorf("release %s has changed: %w", dir, err)
	}
	now := time.Now()
	return r, os.Chtimes(dir, now, now) // the kernel removes what was not used for long
}

// release names what a build makes by everything that goes into it.
func (f *builderFunc[C]) release(config C, job Job, inputs []Input) (string, error) {
	self, err := f.self()
	if err != nil {
		return "", err
	}
	text, err := json.Marshal([]any{self, config, job.Page, job.Dir, job.Source, inputs})
	if err != nil {
		return "", fmt.Errorf("name the release: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// sourceInputs lists the files below a page's directory, except hidden ones and node_modules, in order.
func sourceInputs(ctx context.Context, dir string) (inputs []Input, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		switch {
		case err != nil:
			return err
		case path != dir && (strings.HasPrefix(e.Name(), ".") || e.Name() == "node_modules"):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			return nil
		}
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return nil // a pipe, or a link that leads nowhere or to a directory: no source
		}
		if !utf8.ValidString(path) { // it cannot be sent to the kernel, and watchers do not report it
			return fmt.Errorf("the name of %q is not UTF-8: rename it", path)
		}
		digest, err := FileDigest(path)
		inputs = append(inputs, Input{path, digest})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the source: %w", err)
	}
	return inputs, nil
}

// ownDigest is that of the running executable.
func ownDigest() (string, error) {
	if sum, err := fileSHA256("/proc/self/exe"); err == nil {
		return sum, nil
	}
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	return fileSHA256(path)
}

func fileSHA256(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
