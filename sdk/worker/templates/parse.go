package templates

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// file is a parsed file: the template that has its name, and those that it defines.
type file struct {
	name  string
	text  string
	trees map[string]*parse.Tree
	uses  map[string]int // names of templates that it calls -> line of the first call
}

// read parses the files that have changed; the others are taken from what was parsed before.
func (s *Set) read(old *parsed) (map[string]*file, error) {
	files := map[string]*file{}
	var faults []error
	err := fs.WalkDir(s.source.fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != ".":
			return nil // it was removed meanwhile
		case err != nil:
			return err
		case name != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir() || entry.Type()&^fs.ModeSymlink != 0 || !s.matches(name):
			return nil
		}
		text, err := fs.ReadFile(s.source.fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if f := old.files[name]; f != nil && f.text == string(text) {
			files[name] = f
			return nil
		}
		f, err := s.parseFile(name, string(text))
		if files[name] = f; err != nil {
			faults = append(faults, err)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("templates: read %s: %w", s.where, err)
	case len(faults) > 0:
		return nil, errors.Join(faults...)
	case len(files) == 0:
		return nil, fmt.Errorf("templates: no template in %s (patterns: %s): put one there, or name other patterns", s.where,
			strings.Join(s.source.patterns, " "))
	}
	return files, nil
}

func (s *Set) parseFile(name, text string) (*file, error) {
	t, err := template.New(name).Delims(s.left, s.right).Funcs(s.funcs).Parse(text)
	if err != nil {
		return nil, s.fault(name, err)
	}
	f := &file{name: name, text: text, trees: map[string]*parse.Tree{}, uses: map[string]int{}}
	for _, t := range t.Templates() {
		f.trees[t.Name()] = t.Tree
		calls(t.Root, func(n *parse.TemplateNode) {
			if line, ok := f.uses[n.Name]; !ok || n.Line < line {
				f.uses[n.Name] = n.Line
			}
		})
	}
	return f, nil
}

// fault gives an error of text/template, "template: NAME:LINE: what", the place in a form of its own.
func (s *Set) fault(name string, err error) error {
	message := strings.TrimPrefix(err.Error(), "template: ")
	line := 0
	if rest, ok := strings.CutPrefix(message, name+":"); ok {
		number, what, _ := strings.Cut(rest, ": ")
		if number, _, _ = strings.Cut(number, ":"); number != "" {
			if n, err := strconv.Atoi(number); err == nil {
				line, message = n, what
			}
		}
	}
	return s.at(name, line, message)
}

func (s *Set) at(name string, line int, message string) error {
	if s.source.dir != "" {
		name = filepath.Join(s.where, filepath.FromSlash(name))
	}
	return &Error{File: name, Line: line, Message: message}
}

// calls finds the calls of other templates.
func calls(node parse.Node, each func(*parse.TemplateNode)) {
	branches := func(b *parse.BranchNode) {
		calls(b.List, each)
		calls(b.ElseList, each)
	}
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, child := range n.Nodes {
			calls(child, each)
		}
	case *parse.IfNode:
		branches(&n.BranchNode)
	case *parse.RangeNode:
		branches(&n.BranchNode)
	case *parse.WithNode:
		branches(&n.BranchNode)
	case *parse.TemplateNode:
		each(n)
	}
}

// sorted gives the names of a map in order, so that one source gives one result.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
