package worker

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// OnChange has changed called after a file in dir, or below it, was changed, added or removed: for templates and data
// that the page keeps in memory, so that an edit of them needs neither a build nor a restart. dir is relative to
// PageDir; "" is PageDir itself. It must lie in the pages directory of the site, for only that is watched. Files that
// a build of the page reads (Go files, what is embedded) are not reported: they bring a new worker.
//
// files has absolute paths. It is nil when anything may have changed; read everything anew then. Reading only once
// all that is registered can be read loses nothing: a change since the start of the process is reported.
//
// An error is shown by tqserver, as a build error is, until a later call for the same dir returns nil; the page is to
// go on with what it had before. One that has the method of [Fault], or several that [errors.Join] has joined, are
// shown with file and line. All functions are called by one goroutine, while StartServer runs, and should return soon.
// A program that was started by hand is told nothing.
func (r *Runtime) OnChange(dir string, changed func(files []string) error) {
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(r.PageDir, dir)
	}
	r.changes.add(filepath.Clean(dir), changed)
}

// Fault is an error that has a place.
type Fault interface {
	error
	// Fault gives the file, its line (0: unknown), and what is wrong there, without both.
	Fault() (file string, line int, message string)
}

// The kernel tells of changes only who asks for it, so that it can speak to workers of every age. What is said after
// the byte for ready, in lines, strings quoted as in Go:
//
//	worker:  watch DIR             it wants to know what changes below DIR
//	kernel:  changed ID FILE...    these did
//	         rescan ID             anything may have
//	worker:  fault ID FILE LINE TEXT    what is wrong now, no line for each that is well
//	         done ID               the answer is complete; the kernel waits for it before it tells of more
//
// At the beginning of a line, the kernel's byte '0' is a message of its own: see announce.
const (
	longestLine  = 8 << 10 // of the kernel
	longestFault = 1 << 10 // text of a fault, in bytes
	mostFaults   = 20
)

// changes knows who wants to know of changed files.
type changes struct {
	mu    sync.Mutex
	hooks []*hook
	pipe  *os.File // nil until the worker is ready, and without a kernel
}

type hook struct {
	dir     string
	changed func([]string) error
	err     error // of the last call; for the goroutine that listens
}

func (c *changes) add(dir string, changed func([]string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooks = append(c.hooks, &hook{dir: dir, changed: changed})
	if c.pipe != nil {
		_, _ = c.pipe.WriteString(watchLine(dir)) // an error is the kernel's end, which nothing survives
	}
}

// begin says that the worker is ready, and what it wants to know.
func (c *changes) begin(pipe *os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	words := "1"
	for _, h := range c.hooks {
		words += watchLine(h.dir)
	}
	if _, err := pipe.WriteString(words); err != nil {
		return err
	}
	c.pipe = pipe
	return nil
}

func watchLine(dir string) string { return "watch " + strconv.Quote(dir) + "\n" }

// listen takes the kernel's messages until the pipe ends. retired is called for each byte that says so.
func (c *changes) listen(pipe *os.File, retired func()) {
	in := bufio.NewReaderSize(pipe, longestLine)
	for {
		first, err := in.Peek(1)
		if err != nil {
			return
		}
		if first[0] == '0' {
			_, _ = in.Discard(1)
			retired()
			continue
		}
		read, err := in.ReadSlice('\n')
		line := string(read)
		for err == bufio.ErrBufferFull { // a newer kernel's
			_, err = in.ReadSlice('\n')
			line = ""
		}
		if err != nil {
			return
		}
		if answer := c.hear(strings.TrimSuffix(line, "\n")); answer != "" {
			_, _ = pipe.WriteString(answer)
		}
	}
}

// hear takes one message and gives the answer. One that a newer kernel may send has none.
func (c *changes) hear(line string) string {
	verb, rest, _ := strings.Cut(line, " ")
	id, quoted, _ := strings.Cut(rest, " ")
	var files []string
	switch verb {
	case "rescan":
	case "changed":
		for quoted != "" {
			word, err := strconv.QuotedPrefix(quoted)
			if err != nil {
				return ""
			}
			file, _ := strconv.Unquote(word) // it is quoted well
			files = append(files, file)
			quoted = strings.TrimPrefix(quoted[len(word):], " ")
		}
	default:
		return ""
	}
	return c.tell(files, id)
}

// tell calls those whom the files concern, and gives what is wrong now, also with the others.
func (c *changes) tell(files []string, id string) string {
	c.mu.Lock()
	hooks := slices.Clone(c.hooks)
	c.mu.Unlock()
	var faults []string
	for _, h := range hooks {
		if mine := h.below(files); files == nil || len(mine) > 0 {
			h.err = call(h.changed, mine)
		}
		faults = appendFaults(faults, h.err)
	}
	var answer strings.Builder
	for _, f := range faults[:min(len(faults), mostFaults)] {
		answer.WriteString("fault " + id + " " + f + "\n")
	}
	answer.WriteString("done " + id + "\n")
	return answer.String()
}

func (h *hook) below(files []string) (mine []string) {
	for _, file := range files {
		if file == h.dir || strings.HasPrefix(file, strings.TrimSuffix(h.dir, "/")+"/") {
			mine = append(mine, file)
		}
	}
	return mine
}

// call makes an error of a panic, which would otherwise end the page for a mistake in one of its files.
func call(changed func([]string) error, files []string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return changed(files)
}

func appendFaults(faults []string, err error) []string {
	if err == nil {
		return faults
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			faults = appendFaults(faults, one)
		}
		return faults
	}
	file, line, message := "", 0, err.Error()
	if f := Fault(nil); errors.As(err, &f) {
		file, line, message = f.Fault()
	}
	message = message[:min(len(message), longestFault)]
	return append(faults, strconv.Quote(file)+" "+strconv.Itoa(line)+" "+strconv.Quote(message))
}
