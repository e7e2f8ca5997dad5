package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// settled is how old the last change of a file must be, when it is read, for its time stamps to tell of every later
// one: some file systems count in 2 s.
const settled = 2 * time.Second

// files are the states of files, by absolute path.
type files map[string]file

// file is the state of one file as it was when it was read. One that could not be read has no sum.
type file struct {
	id      fileID
	sum     string   // SHA-256 of the content
	digest  string   // see sdk.FileDigest
	outline string   // of a .go file
	imports []string // of a .go file, from the standard library
	settled bool
	mode    fs.FileMode // type bits
}

type fileID struct {
	size            int64
	inode           uint64
	changed, modded int64 // ns
}

// read gives the state of a file, from known where that is certain to hold. std tells the packages of the standard
// library.
func read(path string, known files, std func(string) bool) file {
	info, err := os.Stat(path)
	if err != nil {
		return file{mode: fs.ModeIrregular}
	}
	now := time.Now()
	ino, changed := inode(info)
	f := file{id: fileID{info.Size(), ino, changed.UnixNano(), info.ModTime().UnixNano()}, mode: info.Mode().Type()}
	if k, ok := known[path]; ok && k.settled && k.id == f.id {
		return k
	}
	if !info.Mode().IsRegular() {
		return f
	}
	f.settled = now.Sub(changed) > settled && now.Sub(info.ModTime()) > settled
	content, sum, err := load(path)
	if err != nil {
		return f
	}
	f.sum, f.digest = sum, sum
	if info.Size() > sdk.DigestLimit {
		f.digest, _ = sdk.FileDigest(path)
	}
	if content != nil {
		f.outline, f.imports = outline(content, std)
	}
	return f
}

// load gives the hash of a file, and its content if it is Go source.
func load(path string) (content []byte, sum string, err error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer r.Close()
	h := sha256.New()
	if filepath.Ext(path) == ".go" {
		content, err = io.ReadAll(io.TeeReader(r, h))
	} else {
		_, err = io.Copy(h, r)
	}
	return content, hex.EncodeToString(h.Sum(nil)), err
}

// outline is the part of a Go file that decides which further files its package needs: the name of the package, the
// imports from outside the standard library, build constraints, what is embedded and whether it is, debug settings, and
// all up to the imports when one of them is "C". While it stays the same, so does the set of files that a build reads.
// imports are those from the standard library.
func outline(src []byte, std func(string) bool) (text string, imports []string) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", src, parser.ImportsOnly)
	if err != nil {
		sum := sha256.Sum256(src)
		return "broken " + hex.EncodeToString(sum[:]), nil
	}
	parts := []string{"package " + f.Name.Name}
	for _, i := range f.Imports {
		path, _ := strconv.Unquote(i.Path.Value)
		if path == "C" {
			parts = append(parts, string(src[:fset.Position(f.Imports[len(f.Imports)-1].End()).Offset]))
		} else if std(path) {
			imports = append(imports, path)
		}
		if path == "embed" || path != "C" && !std(path) {
			parts = append(parts, "import "+path)
		}
	}
	slices.Sort(parts)
	for line := range bytes.Lines(src) {
		line = bytes.TrimSpace(line)
		for _, directive := range []string{"//go:build", "//go:embed", "//go:debug", "// +build", "//+build"} {
			if bytes.HasPrefix(line, []byte(directive)) {
				parts = append(parts, string(line))
			}
		}
	}
	return strings.Join(parts, "\n"), imports
}

// sourceExts are the kinds of files that go build takes up when they lie in the directory of a package.
var sourceExts = map[string]bool{".go": true, ".c": true, ".cc": true, ".cpp": true, ".cxx": true, ".m": true,
	".h": true, ".hh": true, ".hpp": true, ".hxx": true, ".f": true, ".F": true, ".for": true, ".f90": true, ".s": true,
	".S": true, ".sx": true, ".swig": true, ".swigcxx": true, ".syso": true}

// sourceGlobs match the files of sourceExts, and a few more, in dir.
func sourceGlobs(dir string, cgo bool) []string {
	patterns := []string{"*.go", "*.[chms]", "*.syso"}
	if cgo {
		patterns = append(patterns, "*.[SFf]", "*.sx", "*.c[cpx]*", "*.h[hpx]*", "*.f*", "*.swig*")
	}
	for i, p := range patterns {
		patterns[i] = sdk.QuoteMatch(dir) + "/" + p
	}
	return patterns
}

// sourceNames lists the files in dir that may take part in a build, excluded by constraints or not.
func sourceNames(dir string) []string {
	entries, _ := os.ReadDir(dir) // sorted
	var names []string
	for _, e := range entries {
		name := e.Name()
		if sourceExts[filepath.Ext(name)] && name[0] != '.' && name[0] != '_' && !strings.HasSuffix(name, "_test.go") && !e.IsDir() {
			names = append(names, name)
		}
	}
	return names
}

// embed is one pattern of a //go:embed line.
type embed struct{ dir, pattern string }

// names lists everything that lies at or below what the pattern matches: more than is embedded, never less.
func (e embed) names() []string {
	var names []string
	found, _ := fs.Glob(os.DirFS(e.dir), e.pattern)
	for _, match := range found {
		_ = filepath.WalkDir(filepath.Join(e.dir, filepath.FromSlash(match)), func(path string, d fs.DirEntry, err error) error {
			if err == nil {
				names = append(names, path+" "+d.Type().String())
			}
			return nil
		})
	}
	return names
}

func (e embed) globs() []string {
	at := sdk.QuoteMatch(e.dir) + "/" + e.pattern
	return []string{at, at + "/**"}
}
