// Package templates renders the templates of a page. They are parsed once, shared by all requests, and parsed again
// when one is saved: the edit is live at once, without a build and without a new worker.
//
//	pages, err := templates.New(runtime, templates.Dir("templates"))
//	if err != nil {
//		log.Fatal(err)
//	}
//	http.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
//		pages.Render(w, "home.html", data)
//	})
//
// A template is named by its path from the root of the set: {{template "partials/nav.html" .}}. What a file defines
// with {{define}} or {{block}} has a meaning for each template that is rendered, so that two pages can fill in the
// same layout: the definition in the rendered file counts, else that in the files it uses, the nearest first, else
// the only one there is in the set.
//
// This is a package of its own, because html/template takes time to link.
package templates

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log"
	"mime"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tqserver/tqserver/sdk/worker"
)

// Source says where the templates are. Make one with [Dir] or [FS].
type Source struct {
	dir      string // "" for a file system
	fsys     fs.FS
	patterns []string
	near     string // the directory of the program's source, for a program that was started by hand
}

// Dir takes the files in a directory and below it that match one of the patterns of [path.Match], by default *.html,
// *.tmpl and *.gohtml. A pattern without a slash is for names in any directory, one with a slash for the path from
// dir. Names that begin with a dot and node_modules are left out.
//
// dir is relative to the directory of the page. A program that was started by hand finds it next to its source.
func Dir(dir string, patterns ...string) Source {
	s := Source{dir: dir, patterns: patterns}
	if _, file, _, ok := runtime.Caller(1); ok && filepath.IsAbs(file) {
		s.near = filepath.Dir(file)
	}
	return s
}

// FS takes the files of a file system, as Dir does. They are parsed once. Those of an [embed.FS] are part of the
// program: an edit of them is built.
func FS(fsys fs.FS, patterns ...string) Source { return Source{fsys: fsys, patterns: patterns} }

// FuncMap holds functions for templates by their names.
type FuncMap = template.FuncMap

// Option changes how templates are parsed.
type Option func(*settings)

type settings struct {
	funcs       FuncMap
	left, right string
	text        bool
}

// Funcs makes functions known to the templates.
func Funcs(funcs FuncMap) Option { return func(s *settings) { s.funcs = funcs } }

// Delims takes other marks than {{ and }} for actions.
func Delims(left, right string) Option {
	return func(s *settings) { s.left, s.right = left, right }
}

// Text takes the templates for plain text, as text/template does: nothing is escaped.
func Text() Option { return func(s *settings) { s.text = true } }

// Set is a set of templates. It is safe for concurrent use.
type Set struct {
	settings
	source Source
	where  string // the directory, for people
	now    atomic.Pointer[parsed]

	mu  sync.Mutex // held while parsing
	err error      // of the last time
}

// New parses the templates of a source. The error is one of parsing, or that there is no template; see [Error].
//
// When a file of a [Dir] changes, they are parsed again, all or nothing: after an error the set stays as it was, and
// tqserver shows the error until it is mended. A nil runtime is for tests: they are parsed once.
func New(rt *worker.Runtime, source Source, options ...Option) (*Set, error) {
	s := &Set{source: source, where: "the file system"}
	for _, option := range options {
		option(&s.settings)
	}
	if source.fsys == nil {
		s.where = locate(rt, source)
		s.source.fsys = os.DirFS(s.where)
		if rt != nil {
			rt.OnChange(s.where, s.changed)
		}
	}
	if err := s.parse(); err != nil {
		return nil, err
	}
	return s, nil
}

// locate gives the absolute path of a directory of templates.
func locate(rt *worker.Runtime, source Source) string {
	base := source.near
	if rt != nil && rt.PageDir != "" {
		base = rt.PageDir
	}
	if filepath.IsAbs(source.dir) {
		base = ""
	}
	dir, err := filepath.Abs(filepath.Join(base, source.dir))
	if err != nil {
		return source.dir
	}
	return dir
}

// Error is a fault of one file.
type Error struct {
	File    string // its path
	Line    int    // 0: unknown
	Message string
}

var _ worker.Fault = (*Error)(nil)

func (e *Error) Error() string {
	if e.Line == 0 {
		return "templates: " + e.File + ": " + e.Message
	}
	return "templates: " + e.File + ":" + strconv.Itoa(e.Line) + ": " + e.Message
}

// Fault implements [worker.Fault].
func (e *Error) Fault() (file string, line int, message string) { return e.File, e.Line, e.Message }

// Execute writes what a template makes of data, all of it or, when there is an error, nothing. A name is that of a
// file, or of a definition that is in one file only.
func (s *Set) Execute(w io.Writer, name string, data any) error {
	return s.render(name, data, func(page []byte) error {
		_, err := w.Write(page)
		return err
	})
}

// Render answers a request with what a template makes of data. It sets Content-Type by the template's name, unless it
// is set. An error is logged and answered with 500; never is a part of a page sent.
func (s *Set) Render(w http.ResponseWriter, name string, data any) {
	s.RenderStatus(w, http.StatusOK, name, data)
}

// RenderStatus is Render with another status than 200.
func (s *Set) RenderStatus(w http.ResponseWriter, status int, name string, data any) {
	begun := false
	err := s.render(name, data, func(page []byte) error {
		begun = true
		if header := w.Header(); header.Get("Content-Type") == "" {
			header.Set("Content-Type", s.contentType(name))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(page)))
		w.WriteHeader(status)
		_, _ = w.Write(page) // the client may be gone
		return nil
	})
	if err != nil && !begun {
		log.Print(err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
	}
}

func (s *Set) contentType(name string) string {
	if s.text {
		return cmp.Or(mime.TypeByExtension(path.Ext(name)), "text/plain; charset=utf-8")
	}
	return "text/html; charset=utf-8"
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// keep is the size up to which a buffer is kept for the next request.
const keep = 1 << 20

func (s *Set) render(name string, data any, use func(page []byte) error) error {
	buffer := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buffer.Cap() <= keep {
			buffer.Reset()
			buffers.Put(buffer)
		}
	}()
	program, err := s.now.Load().lookup(name)
	if err == nil {
		err = program.ExecuteTemplate(buffer, name, data)
	}
	if err != nil {
		if own := (*Error)(nil); errors.As(err, &own) {
			return own
		}
		return fmt.Errorf("templates: render %s: %w", name, err)
	}
	return use(buffer.Bytes())
}

// changed parses again when one of the files is a template.
func (s *Set) changed(files []string) error {
	mine := func(file string) bool {
		name, err := filepath.Rel(s.where, file)
		return err == nil && s.matches(filepath.ToSlash(name))
	}
	if files == nil || slices.ContainsFunc(files, mine) {
		return s.parse()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// parse reads the source and, if all is well, puts what it has parsed in the place of what was.
func (s *Set) parse() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.err = err }()
	old := s.now.Load()
	if old == nil {
		old = &parsed{}
	}
	files, err := s.read(old)
	if err != nil {
		return err
	}
	next, err := s.link(files, old)
	if err != nil {
		return err
	}
	s.now.Store(next)
	return nil
}

func (s *Set) matches(name string) bool {
	patterns := s.source.patterns
	if len(patterns) == 0 {
		patterns = []string{"*.html", "*.tmpl", "*.gohtml"}
	}
	for _, pattern := range patterns {
		text := name
		if !strings.Contains(pattern, "/") {
			text = path.Base(name)
		}
		if ok, _ := path.Match(pattern, text); ok {
			return true
		}
	}
	return false
}
