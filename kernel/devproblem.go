package kernel

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/dev"
	"github.com/tqserver/tqserver/sdk"
)

// maxFindings bounds what is shown of a build that has failed in many places.
const maxFindings = 20

// devProblems is all that is wrong with the page, for its developer: what keeps the newest source from being live, then
// what the worker does.
func (p *page) devProblems() []dev.Problem {
	var all []dev.Problem
	rest := p.trouble()
	take := func(text string) string {
		rest = strings.TrimSpace(strings.Replace(rest, text, "", 1))
		return text
	}
	switch b := p.built; {
	case b != nil && !b.result.OK:
		take(p.stale)
		all = append(all, p.buildProblem(b))
	case p.stale != "":
		title := "The newest release is not live"
		if strings.Contains(p.stale, "does not start") {
			title = "The new release does not start"
		} else if strings.Contains(p.stale, "was rolled back") {
			title = "The new release was rolled back"
		}
		all = append(all, p.textProblem(title, take(p.stale)))
	}
	take(p.problem)
	if len(p.dev.trace) > 0 {
		all = append(all, p.panicProblem("Panic", p.dev.trace))
	} else if text := cmp.Or(p.problem, p.dev.crash); text != "" {
		all = append(all, p.textProblem("The worker has ended", text))
	}
	if rest != "" {
		all = append(all, p.placedProblem(rest))
	}
	for i := range all {
		all[i].Note = cmp.Or(all[i].Note, p.devNote())
	}
	return all
}

// devNote tells what serves in spite of the problem.
func (p *page) devNote() string {
	switch {
	case p.current == nil:
		return "Page " + p.name + ": nothing serves it until this is mended."
	case p.stale != "":
		return "Page " + p.name + ": the previous release serves on."
	}
	return "Page " + p.name + ": its release serves on."
}

func (p *page) buildProblem(b *buildReport) dev.Problem {
	out := dev.Problem{Title: "Build failed"}
	if b.skipped() {
		out.Title = "Page skipped: something that it needs is not installed"
	}
	for _, d := range b.diagnostics[:min(maxFindings, len(b.diagnostics))] {
		out.Findings = append(out.Findings, p.finding(d.Message, d.File, d.Line, d.Column))
	}
	if more := len(b.diagnostics) - maxFindings; more > 0 {
		out.Output = "… and more; the log has all of it"
	}
	return out
}

// textProblem is for what is told in words. A trace in it is shown as one.
func (p *page) textProblem(title, text string) dev.Problem {
	var trace dev.Trace
	var panicked []string
	first, more, _ := strings.Cut(text, "\n")
	for line := range strings.Lines(more) {
		line = strings.TrimSuffix(line, "\n")
		if cut, ok := strings.CutPrefix(line, "\t"); ok { // as it was indented
			line = cut
		} else {
			line = strings.TrimPrefix(line, "  ")
		}
		if lines := trace.Add(line); lines != nil {
			panicked = lines
		}
	}
	if panicked != nil {
		out := p.panicProblem(title, panicked)
		out.Output = text
		return out
	}
	out := dev.Problem{Title: title, Output: strings.TrimSpace(more)}
	out.Findings = []dev.Finding{p.finding(first, "", 0, 0)}
	for _, at := range dev.Places(text) {
		if path, ok := p.ownFile(at.File); ok {
			out.Findings[0] = p.finding(first, path, at.Line, at.Column)
			break
		}
	}
	return out
}

// placed is a line of trouble that names its place: "update failed: pages/x/a.html:3:7: unexpected end".
var placed = regexp.MustCompile(`^([a-z ]+ failed): ([^\s:]+):(\d+)(?::(\d+))?: (.+)$`)

// placedProblem is for trouble of which each line names its place, or else as textProblem.
func (p *page) placedProblem(text string) dev.Problem {
	var out dev.Problem
	for line := range strings.Lines(text) {
		m := placed.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			return p.textProblem("There is a problem", text)
		}
		row, _ := strconv.Atoi(m[3]) // one that is too long for a number is unknown
		column, _ := strconv.Atoi(m[4])
		out.Title = strings.ToUpper(m[1][:1]) + m[1][1:]
		out.Findings = append(out.Findings, p.finding(m[5], m[2], row, column))
	}
	return out
}

// panicProblem shows the first place of a trace that is in the page's own source.
func (p *page) panicProblem(title string, lines []string) dev.Problem {
	text := strings.Join(lines, "\n")
	out := dev.Problem{Title: title, Output: text, Findings: []dev.Finding{{Message: dev.PanicMessage(lines)}}}
	for _, at := range dev.Places(text) {
		if path, ok := p.ownFile(at.File); ok {
			out.Findings[0] = p.finding(out.Findings[0].Message, path, at.Line, 0)
			break
		}
	}
	return out
}

// finding adds to a place what only this machine has: the lines of the source, and a link to the editor.
func (p *page) finding(message, file string, line, column int) dev.Finding {
	out := dev.Finding{Message: message, File: file, Line: line, Column: column}
	path, ok := p.ownFile(file)
	if !ok {
		return out
	}
	out.File = sourcePath(p.k.site.root, path)
	out.Source = dev.Excerpt(path, line)
	if link := p.k.editorLink(); link != "" {
		out.Link = dev.Link(link, path, line, column)
	}
	return out
}

func (k *Kernel) editorLink() string {
	if name, _ := k.lookupEnv(editorEnv); name != "" {
		if link, err := config.EditorLink(name); err == nil {
			return link
		}
	}
	link, err := config.EditorLink(k.config().Dev.Editor)
	if err != nil { // checked when it was read
		return ""
	}
	return link
}

// ownFile finds a file that a tool or a trace has named, and tells whether it may be shown: it must have gone into the
// page, or lie in the site, where hidden files, and those of the kernel, are nobody's source.
func (p *page) ownFile(name string) (path string, ok bool) {
	if name == "" {
		return "", false
	}
	inputs := map[string]string{}
	if src := p.sources.Load(); src != nil {
		inputs = src.inputs
	}
	if b := p.built; b != nil {
		if slices.ContainsFunc(b.result.Inputs, func(in sdk.Input) bool { return in.Path == filepath.Clean(name) }) {
			return filepath.Clean(name), true
		}
	}
	for _, dir := range []string{"", p.route.Source, p.route.Dir, p.k.site.root} {
		path := filepath.Join(dir, name)
		if !filepath.IsAbs(path) {
			continue
		}
		if _, ok := inputs[path]; ok || p.k.inSite(path) {
			return path, true
		}
		if filepath.IsAbs(name) {
			break
		}
	}
	return "", false
}

// inSite tells whether a path names a file of the site that is neither hidden nor led out of it by a link.
func (k *Kernel) inSite(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	root, err := filepath.EvalSymlinks(k.site.root)
	if err != nil {
		return false
	}
	rel, err := filepath.Rel(root, real)
	if err != nil || !filepath.IsLocal(rel) || below(k.site.state, path) {
		return false
	}
	if slices.ContainsFunc(strings.Split(rel, string(filepath.Separator)), func(elem string) bool { return strings.HasPrefix(elem, ".") }) {
		return false
	}
	info, err := os.Stat(real)
	return err == nil && info.Mode().IsRegular()
}
