package templates

import (
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"
)

// parsed is a set as it is at one time. It is not changed any more.
type parsed struct {
	set     *Set
	files   map[string]*file
	definer map[string][]*file // name -> files that have a template of that name
	entries map[string]*entry  // of each file
}

// entry is a file as it is rendered: with all that it calls, and each name with the meaning that it has there.
type entry struct {
	file    *file
	trees   map[string]*parse.Tree
	from    map[string]*file // where each is from
	missing []missing        // calls of what is not there
	once    sync.Once
	program executor
	err     error
}

type missing struct {
	file *file
	name string
}

// executor is a template of html/template or text/template.
type executor interface {
	ExecuteTemplate(w io.Writer, name string, data any) error
}

// link makes the entries. Those that come out as before are kept, with all that was made of them.
//
// Files that no other calls are what pages render: a fault that only shows when they are put together is an error of
// the set. The others, layouts and partials, may make sense only where they are called, and are put together when they
// are rendered. So is a layout that is not called yet: it calls what is no file and nowhere defined.
func (s *Set) link(files map[string]*file, old *parsed) (*parsed, error) {
	p := &parsed{set: s, files: files, definer: map[string][]*file{}, entries: map[string]*entry{}}
	called := map[string]bool{}
	for _, name := range sorted(files) {
		for defined := range files[name].trees {
			p.definer[defined] = append(p.definer[defined], files[name])
		}
		for use := range files[name].uses {
			called[use] = called[use] || use != name
		}
	}
	var faults []error
	for _, name := range sorted(files) {
		e := p.resolve(files[name])
		if before := old.entries[name]; before != nil && before.same(e) {
			e = before
		}
		p.entries[name] = e
		if called[name] || e.isLayout(s) {
			continue
		}
		if err := e.ready(s, p); err != nil && !slices.ContainsFunc(faults, func(f error) bool { return f.Error() == err.Error() }) {
			faults = append(faults, err)
		}
	}
	return p, errors.Join(faults...)
}

// resolve gives each name that a file uses its meaning: the files it calls follow it in the order of the calls, and
// the first that has a template of a name counts. A name that none of these has may be defined in one other file.
func (p *parsed) resolve(f *file) *entry {
	e := &entry{file: f, trees: map[string]*parse.Tree{}, from: map[string]*file{}}
	var order []*file
	add := func(f *file) {
		order = append(order, f)
		for name, tree := range f.trees {
			if e.trees[name] == nil {
				e.trees[name], e.from[name] = tree, f
			}
		}
	}
	add(f)
	for follow := 0; follow < len(order); {
		for ; follow < len(order); follow++ {
			for _, name := range order[follow].called() {
				if called := p.files[name]; called != nil && !slices.Contains(order, called) {
					add(called)
				}
			}
		}
		e.missing = nil
		for _, f := range slices.Clone(order) {
			for _, name := range f.called() {
				if e.trees[name] != nil {
					continue
				}
				if only := p.definer[name]; len(only) == 1 {
					add(only[0])
				} else {
					e.missing = append(e.missing, missing{f, name})
				}
			}
		}
	}
	return e
}

// called gives the names that a file calls, in the order of the calls.
func (f *file) called() []string {
	return slices.SortedFunc(maps.Keys(f.uses), func(a, b string) int {
		if d := f.uses[a] - f.uses[b]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
}

func (e *entry) same(other *entry) bool {
	return e.file == other.file && slices.Equal(e.missing, other.missing) && maps.Equal(e.trees, other.trees)
}

func (e *entry) isLayout(s *Set) bool {
	return len(e.missing) > 0 && !slices.ContainsFunc(e.missing, func(m missing) bool { return s.matches(m.name) })
}

// ready puts the templates of an entry together, once.
func (e *entry) ready(s *Set, p *parsed) error {
	e.once.Do(func() {
		for _, m := range e.missing {
			e.err = s.at(m.file.name, m.file.uses[m.name], unknown(m.name, p))
			return
		}
		if s.text {
			e.program, e.err = e.linkText(s)
		} else {
			e.program, e.err = e.linkHTML(s)
		}
	})
	return e.err
}

func unknown(name string, p *parsed) string {
	if files := p.definer[name]; len(files) > 1 {
		return fmt.Sprintf("template %q is defined in %s and %s: call that file, or define it here", name, files[0].name, files[1].name)
	}
	return fmt.Sprintf("template %q is neither a file nor defined", name)
}

func (e *entry) linkText(s *Set) (executor, error) {
	t := template.New(e.file.name).Funcs(s.funcs)
	for _, name := range sorted(e.trees) {
		if _, err := t.AddParseTree(name, e.trees[name]); err != nil {
			return nil, s.fault(e.from[name].name, err)
		}
	}
	return t, nil
}

// check is a template that calls the one to check and does not execute it: html/template escapes at the first
// execution, with all that can be called, and finds faults of the context then.
const check = " check"

func (e *entry) linkHTML(s *Set) (executor, error) {
	t := htmltemplate.New(check).Funcs(s.funcs)
	for _, name := range sorted(e.trees) {
		if _, err := t.AddParseTree(name, e.trees[name].Copy()); err != nil { // a copy: it is changed by escaping
			return nil, s.fault(e.from[name].name, err)
		}
	}
	if _, err := t.Parse(fmt.Sprintf("{{if false}}{{template %q}}{{end}}", e.file.name)); err != nil {
		return nil, s.fault(e.file.name, err)
	}
	err := t.ExecuteTemplate(io.Discard, check, nil)
	if fault := (*htmltemplate.Error)(nil); errors.As(err, &fault) {
		return nil, e.htmlFault(s, fault)
	}
	if err != nil {
		return nil, s.fault(e.file.name, err)
	}
	return t, nil
}

// htmlFault finds the place of an error of html/template, which tells it by the node.
func (e *entry) htmlFault(s *Set, fault *htmltemplate.Error) error {
	if fault.Node == nil {
		return s.at(e.file.name, fault.Line, fault.Description)
	}
	place, _ := (*parse.Tree)(nil).ErrorContext(fault.Node) // NAME:LINE:COLUMN
	if strings.HasPrefix(place, check+":") {                // the {{if}} there has two ends, of which one is that of the file
		return s.at(e.file.name, 0, "it ends within a tag, an attribute, a script or a style")
	}
	parts := strings.Split(place, ":")
	name := strings.Join(parts[:max(0, len(parts)-2)], ":")
	return s.fault(name, errors.New(place+": "+fault.Description))
}

// lookup gives what executes the template of a name: a file, or what one file alone defines.
func (p *parsed) lookup(name string) (executor, error) {
	e := p.entries[name]
	if e == nil && len(p.definer[name]) == 1 {
		e = p.entries[p.definer[name][0].name]
	}
	if e == nil {
		return nil, fmt.Errorf("no such template in %s, which has %s", p.set.where, strings.Join(sorted(p.files), ", "))
	}
	if err := e.ready(p.set, p); err != nil {
		return nil, err
	}
	return e.program, nil
}
