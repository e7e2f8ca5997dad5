package builder

import (
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tqserver/tqserver/sdk"
)

// position finds file:line[:column]: message.
var position = regexp.MustCompile(`^(?:go: )?([^\s:$][^:]*\.[A-Za-z]+):(\d+)(?::(\d+))?: (.+)$`)

// maxLoose is how many lines without a position are shown.
const maxLoose = 30

const noSpaceText = "no space left on device"

// explain makes diagnostics of what a go command printed: at least one.
func (b *build) explain(text string) []sdk.Diagnostic {
	if strings.Contains(text, noSpaceText) || strings.Contains(text, "disk quota exceeded") {
		return []sdk.Diagnostic{noSpace(b.fullDir(text))}
	}
	if strings.Contains(text, "go.mod file not found") || strings.Contains(text, "cannot find main module") {
		return []sdk.Diagnostic{{Message: fmt.Sprintf("no Go module for %s: run `go mod init NAME` in %s", b.job.Source, b.siteRoot())}}
	}
	found := parse(text, b.job.Source)
	for i := range found {
		found[i].Message = b.hint(found[i].Message)
	}
	return found
}

// parse reads the output of go build. Lines that are indented belong to the finding before them.
func parse(text, dir string) []sdk.Diagnostic {
	var found []sdk.Diagnostic
	var loose []string
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		m := position.FindStringSubmatch(line)
		switch {
		case line == "" || strings.HasPrefix(line, "# "):
			inside = false
		case m != nil && m[4] == "too many errors":
		case m != nil:
			found = append(found, positioned(m, dir))
			inside = true
		case inside && (line[0] == '\t' || line[0] == ' '):
			found[len(found)-1].Message += "\n" + line
		default:
			loose = append(loose, line)
			inside = false
		}
	}
	if !slices.ContainsFunc(found, func(d sdk.Diagnostic) bool { return !d.Warning }) {
		if len(loose) > maxLoose {
			loose = append(loose[:maxLoose], fmt.Sprintf("… and %d more lines", len(loose)-maxLoose))
		}
		found = append(found, sdk.Diagnostic{Message: strings.TrimPrefix(strings.Join(loose, "\n"), "go: ")})
	}
	return found
}

func positioned(m []string, dir string) sdk.Diagnostic {
	d := sdk.Diagnostic{File: absolute(dir, m[1]), Message: m[4]}
	d.Line, _ = strconv.Atoi(m[2])
	d.Column, _ = strconv.Atoi(m[3])
	for _, kind := range []string{"error: ", "warning: ", "note: "} { // of the C compiler
		if rest, ok := strings.CutPrefix(d.Message, kind); ok {
			d.Message, d.Warning = rest, kind != "error: "
		}
	}
	return d
}

// listed makes diagnostics of the errors in the output of go list.
func (b *build) listed(pkgs []pkg, p *plan, env map[string]string) []sdk.Diagnostic {
	var found []sdk.Diagnostic
	add := func(q pkg, e *pkgError) {
		if e == nil {
			return
		}
		d := b.listError(q, e, pkgs, p)
		if strings.Contains(e.Err, "build constraints exclude all Go files") && b.config.Cgo == "auto" && env["CGO_ENABLED"] != "1" {
			d.Message += "; if it needs cgo, install a C compiler"
		}
		if !slices.Contains(found, d) {
			found = append(found, d)
		}
	}
	for _, q := range pkgs {
		add(q, q.Error)
	}
	at := slices.IndexFunc(pkgs, func(q pkg) bool { return !q.DepOnly })
	if len(found) > 0 || at < 0 {
		return found
	}
	root := pkgs[at]
	for _, e := range root.DepsErrors {
		add(root, e)
	}
	if root.Name != "main" && len(found) == 0 {
		found = append(found, notMain(root))
	}
	return found
}

func (b *build) listError(q pkg, e *pkgError, pkgs []pkg, p *plan) sdk.Diagnostic {
	text := strings.TrimSpace(e.Err)
	if dir, ok := p.missing[q.ImportPath]; ok && len(sourceNames(dir)) == 0 { // Go would look in the standard library, or the network
		text = fmt.Sprintf("no package %s: there are no Go files in %s", q.ImportPath, dir)
	}
	if e.Pos != "" {
		text = e.Pos + ": " + strings.TrimPrefix(text, e.Pos+": ")
	}
	d := parse(text, b.job.Source)[0]
	if strings.Contains(text, "import cycle not allowed") {
		d = cycle(d, e.ImportStack, pkgs)
	}
	if d.File == "" && len(q.InvalidGoFiles) > 0 {
		d.File = absolute(q.Dir, q.InvalidGoFiles[0])
	}
	d.Message = b.hint(d.Message)
	return d
}

// cycle names the packages of an import cycle and points to the import that closes it.
func cycle(d sdk.Diagnostic, stack []string, pkgs []pkg) sdk.Diagnostic {
	if n := len(stack); n >= 2 {
		d.Message = "import cycle not allowed: " + strings.Join(stack, " imports ")
		for _, q := range pkgs {
			if q.ImportPath == stack[n-2] && d.File == "" {
				d.File, d.Line, d.Column = importOf(q, stack[n-1])
			}
		}
	}
	return d
}

// importOf finds where a package imports another.
func importOf(q pkg, path string) (file string, line, column int) {
	for _, name := range slices.Concat(q.GoFiles, q.CgoFiles) {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, absolute(q.Dir, name), nil, parser.ImportsOnly)
		if err != nil {
			continue
		}
		for _, i := range f.Imports {
			if i.Path.Value == strconv.Quote(path) {
				at := fset.Position(i.Path.Pos())
				return at.Filename, at.Line, at.Column
			}
		}
	}
	return "", 0, 0
}

// notMain tells that a package is no program. go build would make an archive of it, and no error.
func notMain(q pkg) sdk.Diagnostic {
	d := sdk.Diagnostic{Message: fmt.Sprintf("a page is a program: want package main, got package %s", q.Name)}
	if files := slices.Concat(q.GoFiles, q.CgoFiles); len(files) > 0 {
		fset := token.NewFileSet()
		d.File = absolute(q.Dir, files[0])
		if f, err := parser.ParseFile(fset, d.File, nil, parser.PackageClauseOnly); err == nil {
			at := fset.Position(f.Name.Pos())
			d.Line, d.Column = at.Line, at.Column
		}
	}
	return d
}

// hint adds what to do next where Go does not say it, or says it about another directory.
func (b *build) hint(message string) string {
	for _, sign := range []string{"missing go.sum entry", "updates to go.mod needed", "updates to go.sum needed"} {
		if strings.Contains(message, sign) {
			return fmt.Sprintf("%s; run `go mod tidy` in %s", message, b.moduleRoot())
		}
	}
	if strings.Contains(message, "C compiler") && strings.Contains(message, "not found") {
		return message + "; install a C compiler, or set the key `cgo` of the builder to off"
	}
	return message
}

// moduleRoot is the directory of the nearest go.mod.
func (b *build) moduleRoot() string {
	for _, dir := range ancestors(b.job.Source, "") {
		if isFile(filepath.Join(dir, "go.mod")) {
			return dir
		}
	}
	return b.siteRoot()
}

// siteRoot is the directory above pages or workers, where the pages lie in one.
func (b *build) siteRoot() string {
	for _, dir := range ancestors(b.job.Source, "") {
		if name := filepath.Base(dir); name == "pages" || name == "workers" {
			return filepath.Dir(dir)
		}
	}
	if b.job.Dir != "" {
		return b.job.Dir
	}
	return b.job.Source
}

// fullDir tells which directory a message about a full disk speaks of. The tools' temporary files are in OutDir too.
func (b *build) fullDir(text string) string {
	if b.plan != nil && b.plan.gocache != "" && strings.Contains(text, b.plan.gocache) {
		return b.plan.gocache + " (GOCACHE)"
	}
	return b.job.OutDir
}

func noSpace(dir string) sdk.Diagnostic {
	return sdk.Diagnostic{Message: fmt.Sprintf("%s: free some in %s, then save the page again", noSpaceText, dir)}
}

// spaceFirst puts a full disk before findings without a position, which the go command's words for it may be:
// "cannot find package", where it could not write its cache.
func (b *build) spaceFirst(found []sdk.Diagnostic) []sdk.Diagnostic {
	if len(found) == 0 || found[0].File != "" || strings.HasPrefix(found[0].Message, noSpaceText) {
		return found
	}
	for _, dir := range []string{b.plan.gocache, b.job.OutDir} {
		if full(dir) {
			return append([]sdk.Diagnostic{noSpace(dir)}, found...)
		}
	}
	return found
}
