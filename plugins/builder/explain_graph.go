package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// linked is a package that the linker reads, as go list tells it.
type linked struct {
	ImportPath, Dir   string
	Export            string // the compiled package
	Standard, DepOnly bool
	Module            *module
	Imports           []string
	GoFiles, CgoFiles []string
	bytes             int64
}

const linkedFields = "-json=ImportPath,Dir,Export,Standard,DepOnly,Module,Imports,GoFiles,CgoFiles"

// graph is all packages of a page.
type graph struct {
	all   map[string]*linked
	roots []string            // the page's main package, and what every program links
	own   map[string]bool     // the packages whose imports the user can change: those of the main module
	lines map[string][]string // where these import a package: file:line by import path
}

// graph lists the packages of the page. They are compiled where the build cache has lost them.
func (b *build) graph(ctx context.Context) (*graph, error) {
	args := append([]string{"list", "-export", "-deps", linkedFields}, b.config.listFlags()...)
	out, err := b.query(ctx, b.plan.cgoSettings(nil)[:1], append(args, ".")...)
	var fault *toolError
	if errors.As(err, &fault) {
		return nil, diagnosed(b.explain(fault.text))
	}
	if err != nil {
		return nil, err
	}
	g := &graph{all: map[string]*linked{}, own: map[string]bool{}, lines: map[string][]string{}}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &linked{}
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read the output of go list: %w", err)
		}
		g.add(p)
	}
	g.root()
	return g, g.findLines()
}

func (g *graph) add(p *linked) {
	if info, err := os.Stat(p.Export); err == nil { // unsafe has none
		p.bytes = info.Size()
	}
	if len(p.CgoFiles) > 0 { // what cgo adds to the generated files
		p.Imports = append(p.Imports, "runtime/cgo", "syscall")
	}
	if p.ImportPath != "unsafe" {
		g.all[p.ImportPath] = p
	}
	if !p.DepOnly {
		g.roots = append(g.roots, p.ImportPath)
	}
	if !p.Standard && p.Module != nil && p.Module.Main {
		g.own[p.ImportPath] = true
	}
}

// root adds what the go command links into every program: no package imports it.
func (g *graph) root() {
	imported := map[string]bool{}
	for _, p := range g.all {
		for _, path := range p.Imports {
			imported[path] = true
		}
	}
	for path := range g.all {
		if path == "runtime" || !imported[path] && !slices.Contains(g.roots, path) {
			g.roots = append(g.roots, path)
		}
	}
}

// findLines notes where the user's packages import what.
func (g *graph) findLines() error {
	for path := range g.own {
		p := g.all[path]
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.ImportsOnly)
			if err != nil {
				return fmt.Errorf("read the imports: %w", err)
			}
			for _, spec := range file.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return fmt.Errorf("read the imports of %s: %w", name, err)
				}
				at := fmt.Sprintf("%s:%d", relative(p.Module.Dir, filepath.Join(p.Dir, name)), files.Position(spec.Pos()).Line)
				g.lines[imported] = append(g.lines[imported], at)
			}
		}
	}
	for _, at := range g.lines {
		slices.Sort(at)
	}
	return nil
}

func relative(root, path string) string {
	if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel)
	}
	return path
}

// closure is a package and all that it needs.
func (g *graph) closure(path string) map[string]bool { return g.reach([]string{path}, "") }

// without is what the page links when none of the user's packages imports one: all, for "".
func (g *graph) without(path string) map[string]bool { return g.reach(g.roots, path) }

// reach is what is imported from some packages on, with no heed to the user's imports of one.
func (g *graph) reach(from []string, without string) map[string]bool {
	seen := map[string]bool{}
	for todo := slices.Clone(from); len(todo) > 0; {
		path := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		p := g.all[path]
		if p == nil || seen[path] {
			continue
		}
		seen[path] = true
		for _, next := range p.Imports {
			if next != without || !g.own[path] {
				todo = append(todo, next)
			}
		}
	}
	return seen
}

// neededBy gives the other imports of the user's that bring a package, in the order of their names. His own packages
// bring nothing by themselves: it is their imports that do.
func (g *graph) neededBy(path string) []string {
	by := []string{}
	for other := range g.lines {
		if other != path && !g.own[other] && g.closure(other)[path] {
			by = append(by, other)
		}
	}
	slices.Sort(by)
	return by
}

func (g *graph) size(paths map[string]bool) (sum int64) {
	for path := range paths {
		sum += g.all[path].bytes
	}
	return sum
}
