package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tqserver/tqserver/sdk"
)

// passedOver are names that are never part of a page's source, unless page.yaml names a file in full, beside those
// that begin with ".": what builds make, and what editors leave beside a file while they save it.
var passedOver = []string{"node_modules", "__pycache__",
	"*~", "#*#", "4913", "*.swp", "*.swx", "*.swo", "*___jb_tmp___", "*___jb_old___", "*.tmp"}

// sourceLimit is the number of files above which a directory is taken for a mistake: each release is a copy of them.
const sourceLimit = 20_000

// sourceFile is one file of a page's source.
type sourceFile struct {
	rel        string // slash path in the page's directory
	executable bool
	size       int64
	file       file
}

// sourceTree is the source of a page at one moment.
type sourceTree struct {
	dir      string
	real     string // dir without symlinks
	patterns []string
	known    files // of the look before
	files    []sourceFile
	links    map[string]string // directory in the page that is reached through a link -> where it is
}

// faultError is a fault of the source.
type faultError struct{ diagnostic sdk.Diagnostic }

func (e *faultError) Error() string { return e.diagnostic.String() }

// readSource lists the source and its digests, in the order of the paths. A *faultError says what cannot be read.
func readSource(ctx context.Context, dir string, patterns []string, known files) (*sourceTree, error) {
	t := &sourceTree{dir: dir, patterns: patterns, known: known, links: map[string]string{}}
	var err error
	if t.real, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, t.unreadable("", err)
	}
	if err := t.walk(ctx, "", []string{t.real}); err != nil {
		return nil, err
	}
	for _, p := range append([]string{recipeName}, patterns...) {
		if info, err := os.Stat(filepath.Join(dir, p)); err == nil && info.Mode().IsRegular() && !t.has(p) { // named in full
			if err := t.add(p, info); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(t.files, func(a, b sourceFile) int { return strings.Compare(a.rel, b.rel) })
	return t, nil
}

// walk takes a directory, symlinks in it followed. parents are the directories that it is in, without symlinks.
func (t *sourceTree) walk(ctx context.Context, rel string, parents []string) error {
	entries, err := os.ReadDir(filepath.Join(t.dir, rel))
	if err != nil {
		return t.unreadable(rel, err)
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		at := path.Join(rel, e.Name())
		info, err := os.Stat(filepath.Join(t.dir, at))
		switch {
		case skipName(e.Name()) || errors.Is(err, fs.ErrNotExist): // a link to nowhere, or gone meanwhile
		case err != nil:
			err = t.unreadable(at, err)
		case info.IsDir():
			err = t.enter(ctx, at, parents)
		case info.Mode().IsRegular() && t.wants(at):
			err = t.add(at, info)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// enter walks a directory, unless it is a page of its own, or one that this one is in.
func (t *sourceTree) enter(ctx context.Context, rel string, parents []string) error {
	dir := filepath.Join(t.dir, rel)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return t.unreadable(rel, err)
	}
	if slices.ContainsFunc(parents, func(p string) bool { return within(p, real) }) {
		return nil
	}
	if info, err := os.Stat(filepath.Join(dir, recipeName)); err == nil && info.Mode().IsRegular() {
		return nil
	}
	if real != filepath.Join(t.real, rel) {
		t.links[rel] = real
	}
	return t.walk(ctx, rel, append(slices.Clip(parents), real))
}

// watched gives the path under which a watcher reports a file: it does not look behind links to directories.
func (t *sourceTree) watched(rel string) string {
	if real, ok := t.links[path.Dir(rel)]; ok {
		return filepath.Join(real, path.Base(rel))
	}
	return filepath.Join(t.dir, rel)
}

func (t *sourceTree) add(rel string, info fs.FileInfo) error {
	full := filepath.Join(t.dir, rel)
	if !utf8.ValidString(rel + t.watched(rel)) { // watchers do not report it, and it cannot be named to the kernel
		return &faultError{sdk.Diagnostic{File: filepath.Join(t.dir, recipeName), Message: fmt.Sprintf(
			"the name of %q is not UTF-8: rename it, or leave it out with files in %s", full, recipeName)}}
	}
	f := sourceFile{rel: rel, executable: info.Mode()&0o111 != 0, size: info.Size()}
	if f.file = read(full, t.known, func(string) bool { return false }); f.file.sum == "" {
		r, err := os.Open(full)
		if err != nil {
			return t.unreadable(rel, err)
		}
		return t.unreadable(rel, errors.Join(errors.New("it cannot be read to its end"), r.Close()))
	}
	if t.files = append(t.files, f); len(t.files) > sourceLimit {
		return &faultError{sdk.Diagnostic{File: filepath.Join(t.dir, recipeName), Line: 1, Path: "files", Message: fmt.Sprintf(
			"the page has more than %d files: name those that belong to it, such as files: [\"*.js\", \"public/**\"]", sourceLimit)}}
	}
	return nil
}

// unreadable makes an error of what stands in the way of a file; one that is gone is no fault where a walk meets it.
func (t *sourceTree) unreadable(rel string, err error) error {
	if errors.Is(err, fs.ErrNotExist) && rel != "" {
		return err
	}
	return &faultError{sdk.Diagnostic{File: filepath.Join(t.dir, rel), Message: fmt.Sprintf(
		"cannot be read: %v: let the user that runs tqserver read it, or leave it out with files in %s", cause(err), recipeName)}}
}

// cause is an error without the path, or the program, that it is about.
func cause(err error) error {
	var command *exec.Error
	if errors.As(err, &command) {
		err = command.Err
	}
	var file *fs.PathError
	if errors.As(err, &file) {
		err = file.Err
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = exit
	}
	return err
}

func (t *sourceTree) has(rel string) bool {
	return slices.ContainsFunc(t.files, func(f sourceFile) bool { return f.rel == rel })
}

func (t *sourceTree) wants(rel string) bool {
	return len(t.patterns) == 0 || slices.ContainsFunc(t.patterns, func(p string) bool { return sdk.Match(p, rel) })
}

func skipName(name string) bool {
	return strings.HasPrefix(name, ".") || slices.ContainsFunc(passedOver, func(p string) bool { return sdk.Match(p, name) })
}

// states are the states of the files, for the next look.
func (t *sourceTree) states() files {
	all := files{}
	for _, f := range t.files {
		all[filepath.Join(t.dir, f.rel)] = f.file
	}
	return all
}

// inputs are the files, for the kernel.
func (t *sourceTree) inputs() []sdk.Input {
	var all []sdk.Input
	for _, f := range t.files {
		all = append(all, sdk.Input{Path: t.watched(f.rel), Digest: f.file.digest})
	}
	slices.SortFunc(all, func(a, b sdk.Input) int { return strings.Compare(a.Path, b.Path) })
	return slices.Compact(all) // two links can lead to one directory
}

// globs match what may come to be in the source.
func (t *sourceTree) globs() []string {
	globs := recipeGlobs(t.dir, t.patterns)
	for _, dir := range slices.Sorted(maps.Values(t.links)) {
		if utf8.ValidString(dir) {
			globs = append(globs, sdk.QuoteMatch(dir)+"/**")
		}
	}
	return slices.Compact(globs)
}

// recipeGlobs match the files that would be part of a source with these patterns.
func recipeGlobs(dir string, patterns []string) []string {
	at := sdk.QuoteMatch(dir) + "/"
	if len(patterns) == 0 {
		return []string{at + "**"}
	}
	globs := []string{at + recipeName}
	for _, p := range patterns {
		if strings.Contains(p, "/") {
			globs = append(globs, at+p)
		} else { // a name anywhere, see sdk.Match
			globs = append(globs, at+"**/"+p, at+"**/"+p+"/**")
		}
	}
	return globs
}

// tool is a program outside of the page.
type tool struct {
	path     string // absolute
	identity string // changes when another version is installed
}

// findTool finds a program in PATH, or at an absolute path.
func findTool(name string) (tool, error) {
	found, err := exec.LookPath(name)
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil {
		return tool{}, err
	}
	real, err := filepath.EvalSymlinks(found)
	if err != nil {
		return tool{}, err
	}
	info, err := os.Stat(real)
	if err != nil {
		return tool{}, err
	}
	return tool{found, fmt.Sprintf("%s %s %d %d", found, real, info.Size(), info.ModTime().UnixNano())}, nil
}

// own tells whether the first word of a command is a file of the page.
func (c command) own() bool { return strings.Contains(c[0].text, "/") && !filepath.IsAbs(c[0].text) }
