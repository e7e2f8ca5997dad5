package resolver

import (
	"bytes"
	"go/build"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// clause is what the head of a .go file says.
type clause struct {
	name     string // of the package; "": it cannot be told
	excluded bool   // by its build constraint or name: not part of a build on this machine

	size  int64
	mtime time.Time
	final bool // the file was old enough: the same size and time mean the same content
}

// settled is how old a file's time must be for that: coarser file systems give two changes in a row the same time.
const settled = 2 * time.Second

// isMain tells whether a directory holds a package main. A file whose clause cannot be read, because it is being
// saved, has no say; where that is true of all of them, main.go is trusted, so that a save takes no route away.
func (w *walk) isMain(dir string, entries []fs.DirEntry) bool {
	told, named := false, false
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "_") || strings.HasPrefix(name, ".") || e.IsDir() {
			continue
		}
		file := filepath.Join(dir, name)
		info, err := e.Info()
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			info, err = os.Stat(file)
		}
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		c := w.clause(file, info)
		if c.name == "main" && !c.excluded {
			return true
		}
		told = told || c.name != "" && !c.excluded
		named = named || name == "main.go" && c.name == ""
	}
	return named && !told
}

func (w *walk) clause(file string, info fs.FileInfo) clause {
	c, ok := w.before[file]
	if !ok || !c.final || c.size != info.Size() || !c.mtime.Equal(info.ModTime()) {
		c = readClause(file)
		c.size, c.mtime = info.Size(), info.ModTime()
		c.final = time.Since(info.ModTime()) > settled
	}
	w.clauses[file] = c
	return c
}

// headSize is how much of a file is read to find its package clause, in bytes. Licences and documentation come first.
const headSize = 64 << 10

func readClause(file string) clause {
	f, err := os.Open(file)
	if err != nil {
		return clause{}
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, headSize))
	if err != nil {
		return clause{}
	}
	parsed, _ := parser.ParseFile(token.NewFileSet(), file, head, parser.PackageClauseOnly)
	if parsed == nil || parsed.Name == nil || parsed.Name.Name == "_" {
		return clause{}
	}
	return clause{name: parsed.Name.Name, excluded: excluded(file, head)}
}

// excluded asks go/build, so that the answer is that of the builder. Whether cgo is there is the builder's to say.
func excluded(file string, head []byte) bool {
	ctx := build.Default
	ctx.CgoEnabled = true
	ctx.OpenFile = func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(head)), nil }
	match, err := ctx.MatchFile(filepath.Dir(file), filepath.Base(file))
	return err == nil && !match
}
