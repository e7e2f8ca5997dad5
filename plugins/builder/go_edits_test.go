package builder

import (
	"bytes"
	"cmp"
	"debug/elf"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TestRandomEdits makes random edits of two pages that share packages. After each one, a builder that has seen all
// the edits before and a fresh `go build` must agree: the binaries have the same content and print the same, or both
// fail at the same lines. It makes the same 25 edits each time; with TQSERVER_EDITS=300, 300 that nobody made before, unless
// TQSERVER_SEED repeats a run. The 300 are linked by preloaded linkers, where these can be had.
func TestRandomEdits(t *testing.T) {
	seed := 1
	if os.Getenv("TQSERVER_EDITS") != "" {
		seed = int(time.Now().UnixNano() % 1e9)
	}
	count, seed := number(t, "TQSERVER_EDITS", 25), number(t, "TQSERVER_SEED", seed)
	e := newEditor(t, uint64(seed))
	for i := range count {
		what := e.edit()
		for _, page := range e.pages() {
			e.compare(fmt.Sprintf("edit %d, %s, page %s", i, what, page), page)
		}
		if t.Failed() {
			t.Fatalf("to repeat this: TQSERVER_SEED=%d TQSERVER_EDITS=%d; the files are\n%s", seed, i+1, e.dump())
		}
	}
	t.Logf("seed %d, %d edits: %d builds, of which %d failed as they should, %d found their release, %d were on the fast lane, and %d of the failures; %d were linked by a linker that had waited",
		seed, count, e.builds, e.failures, e.cached, e.fast, e.fastFailures, e.preloaded.n.Load())
	if e.fast < e.builds/6 || e.failures > e.builds/2 {
		t.Error("too few builds were on the fast lane: that proves little")
	}
	if os.Getenv("TQSERVER_EDITS") != "" && runtime.GOOS == "linux" && int(e.preloaded.n.Load()) < e.fast/8 {
		t.Error("too few links were those of a linker that had waited: that proves little")
	}
}

func number(t *testing.T, variable string, otherwise int) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv(variable), strconv.Itoa(otherwise)))
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// editor edits a site at random.
type editor struct {
	*site
	*rand.Rand
	now     scene
	history []scene
	files   map[string]string
	bin     string // that go build makes

	builds, failures, cached, fast, fastFailures int

	preloaded *counter
}

// counter is a log in which the links are counted that a waiting linker did.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(bytes.Count(p, []byte("preloaded linker has linked"))))
	return len(p), nil
}

// linkers waits until the linkers wait that the builds so far asked for.
func (s *site) linkers() {
	s.t.Helper()
	eventually(s.t, "the linkers are prepared", func() bool { return s.g.lanes.store(s.out).linker.Settled() })
}

func newEditor(t *testing.T, seed uint64) *editor {
	e := &editor{site: newLaneSite(t), preloaded: new(counter), Rand: rand.New(rand.NewPCG(seed, 0)), now: newScene(), files: map[string]string{}, bin: filepath.Join(t.TempDir(), "page")}
	if os.Getenv("TQSERVER_EDITS") != "" { // waiting for it takes a second each time
		e.g.SetLogger(hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: e.preloaded}))
		e.configure(func(c *GoConfig) { c.Linker = "auto" })
	}
	e.write("../lib/go.mod", "module example.com/lib\n\ngo 1.24\n")
	e.save()
	e.compare("the beginning", "a")
	e.compare("the beginning", "b")
	return e
}

// edit changes the scene, or takes a change back, and tells how.
func (e *editor) edit() string {
	what := "back to before"
	if n := len(e.history); n > 0 && e.IntN(6) == 0 {
		e.now, e.history = e.history[n-1], e.history[:n-1]
		e.forget()
	} else {
		e.history = append(e.history, e.now.clone())
		what = e.now.change(e.Rand)
	}
	e.save()
	return what
}

// forget removes the releases, so that an edit that is taken back is built.
func (e *editor) forget() {
	all, _ := filepath.Glob(filepath.Join(e.out, "[0-9a-f]*"))
	for _, dir := range all {
		if err := os.RemoveAll(dir); err != nil {
			e.t.Fatal(err)
		}
	}
}

// save writes what differs, and removes what is not there any more.
func (e *editor) save() {
	files := e.now.files()
	for name, text := range files {
		if old, ok := e.files[name]; !ok || old != text {
			e.write(name, text)
		}
	}
	for name := range e.files {
		if _, ok := files[name]; !ok {
			if err := os.Remove(e.path(name)); err != nil {
				e.t.Fatal(err)
			}
		}
	}
	e.files = files
}

// pages are those that are built after an edit.
func (e *editor) pages() []string {
	if e.IntN(4) == 0 {
		return []string{"b", "a"}
	}
	return []string{"a"}
}

// compare builds a page both ways.
func (e *editor) compare(what, page string) {
	e.t.Helper()
	if e.IntN(8) > 0 { // else the edit comes before the lane is ready
		e.settle(page)
		e.linkers()
	}
	r, ev := e.build(page)
	out, err := e.goBuild(page)
	lane := ev.fast()
	e.builds++
	switch {
	case (err == nil) != r.OK:
		e.t.Errorf("%s: ok is %v, but go build says %v: %s; diagnostics %v", what, r.OK, err, out, ev.diagnostics)
	case !r.OK:
		e.failures++
		if got, want := places(ev), wanted(out, e.path("pages/"+page)); !slices.Equal(got, want) {
			e.t.Errorf("%s: diagnostics at %v, but go build has %v: %s", what, got, want, out)
		} else if slices.Contains(ev.steps, "compile") && e.laned(page) {
			e.fastFailures++
		}
	case r.Cached:
		e.cached++
		e.sameBinaries(what, r.Artifact)
	default:
		if lane {
			e.fast++
		}
		e.sameBinaries(fmt.Sprintf("%s, lane %v", what, lane), r.Artifact)
	}
}

// laned tells whether a lane for what a page was last built from is there.
func (e *editor) laned(page string) bool {
	src := e.source(page)
	src.fast.mu.Lock()
	defer src.fast.mu.Unlock()
	return src.plan != nil && slices.ContainsFunc(src.fast.lanes, func(l *lane) bool { return strings.HasPrefix(l.key, src.plan.shape) })
}

// goBuild builds a page the plain way.
func (e *editor) goBuild(page string) (string, error) {
	args := append([]string{"build", "-o", e.bin}, e.g.config.buildFlags()...)
	cmd := exec.CommandContext(e.t.Context(), "go", append(args, ".")...)
	cmd.Dir = e.path("pages/" + page)
	cmd.Env = append(os.Environ(), "PWD="+cmd.Dir, "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sameBinaries compares two binaries by what they print, and byte by byte but for the build IDs.
func (e *editor) sameBinaries(what, artifact string) {
	e.t.Helper()
	var texts [2]string
	for i, path := range []string{artifact, e.bin} {
		out, err := exec.CommandContext(e.t.Context(), path).CombinedOutput()
		texts[i] = fmt.Sprintf("%s%v", out, err)
	}
	if texts[0] != texts[1] {
		e.t.Errorf("%s: prints\n%s\nbut that of go build\n%s", what, texts[0], texts[1])
	}
	ours, theirs := sections(e.t, artifact), sections(e.t, e.bin)
	for name, data := range theirs {
		if !bytes.Equal(ours[name], data) {
			e.t.Errorf("%s: section %s has %d bytes and differs from go build's %d", what, name, len(ours[name]), len(data))
		}
	}
	if len(ours) != len(theirs) {
		e.t.Errorf("%s: %d sections, not %d", what, len(ours), len(theirs))
	}
}

// sections gives the content of a binary without build IDs. The build ID is also part of no other section.
func sections(t *testing.T, path string) map[string][]byte {
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]byte{}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_NULL || s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_NOTE || s.Name == ".shstrtab" {
			continue
		}
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; s.Type == elf.SHT_SYMTAB && i+8 <= len(data); i += elf.Sym64Size {
			data[i+6], data[i+7] = 0, 0 // number of a section, which the one with the build ID moves
		}
		all[s.Name] = data
	}
	return all
}

// places are where the errors of a build are.
func places(e events) []string {
	var at []string
	for _, d := range e.diagnostics {
		at = append(at, fmt.Sprintf("%s:%d", d.File, d.Line))
	}
	slices.Sort(at)
	return slices.Compact(at)
}

func wanted(out, source string) []string { return places(events{diagnostics: parse(out, source)}) }

func (e *editor) dump() string {
	var text strings.Builder
	for _, name := range sortedKeys(e.files) {
		fmt.Fprintf(&text, "-- %s --\n%s\n", name, e.files[name])
	}
	return text.String()
}
