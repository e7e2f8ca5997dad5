package builder

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const httpPage = `package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello %d") })
	if err := http.ListenAndServe("127.0.0.1:"+os.Getenv("TQ_PORT"), nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
`

// BenchmarkSave compares, on saves of a small net/http page: Build on the fast lane, the compiler and the linker called
// directly and nothing else, which is the floor, and go build. They take turns.
//
//	go test ./plugins/builder -run '^$' -bench Save -benchtime 10x
func BenchmarkSave(b *testing.B) {
	s := &saves{B: b, dir: b.TempDir(), out: b.TempDir(), g: NewGo()}
	s.source = filepath.Join(s.dir, "pages", "a")
	if err := os.MkdirAll(s.source, 0o755); err != nil {
		b.Fatal(err)
	}
	s.write(filepath.Join(s.dir, "go.mod"), "module site\n\ngo 1.26\n")
	s.g.lanes.background.quiet = time.Millisecond
	defer func() {
		if err := s.g.Drain(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	s.measure(s.build)
	for f := &s.g.sources[s.source].fast; ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		pending := f.pending
		f.mu.Unlock()
		if !pending {
			break
		}
	}
	s.measure(s.build) // the spare time of the first check is not measured
	took := map[string][]time.Duration{}
	for b.Loop() {
		for name, f := range map[string]func() error{"Build": s.build, "floor": s.floor, "go-build": s.goBuild} {
			own, all := cpuTime(syscall.RUSAGE_SELF), cpuTime(syscall.RUSAGE_CHILDREN)
			took[name] = append(took[name], s.measure(f))
			own, all = cpuTime(syscall.RUSAGE_SELF)-own, cpuTime(syscall.RUSAGE_CHILDREN)-all
			took[name+"-cpu"] = append(took[name+"-cpu"], own+all)
			took[name+"-own-cpu"] = append(took[name+"-own-cpu"], own)
		}
	}
	delete(took, "go-build-own-cpu")
	for name, times := range took {
		b.ReportMetric(float64(median(times).Microseconds())/1000, "ms/"+name)
	}
	for _, kind := range []string{"", "-cpu"} { // the latter also tells something on a busy machine
		b.ReportMetric(float64(median(took["Build"+kind]))/float64(median(took["floor"+kind])), "Build/floor"+kind)
		b.ReportMetric(float64(median(took["Build"+kind]))/float64(median(took["go-build"+kind])), "Build/go-build"+kind)
	}
}

// saves makes saves of a page.
type saves struct {
	*testing.B
	dir, source, out string
	g                *Go
	n                int
	fresh            string // directory for what is not built by Build: nobody else's files are overwritten in the time that counts
}

func (s *saves) write(path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

func (s *saves) measure(f func() error) time.Duration {
	s.n++
	s.write(filepath.Join(s.source, "main.go"), fmt.Sprintf(httpPage, s.n))
	s.fresh = filepath.Join(s.dir, fmt.Sprint("fresh", s.n))
	if err := os.Mkdir(s.fresh, 0o700); err != nil {
		s.Fatal(err)
	}
	time.Sleep(2 * clockStep) // as a watcher's debounce
	start := time.Now()
	if err := f(); err != nil {
		s.Fatal(err)
	}
	return time.Since(start)
}

func (s *saves) build() error {
	var steps []string
	job := sdk.Job{Page: "a", Dir: s.source, Source: s.source, OutDir: s.out}
	r, err := s.g.Build(s.Context(), job, func(e sdk.Event) { steps = append(steps, e.Step+e.Log) })
	if err == nil && (!r.OK || s.n > 1 && !slices.Contains(steps, "link")) {
		err = fmt.Errorf("ok %v, steps %q", r.OK, steps)
	}
	return err
}

func (s *saves) floor() error {
	f := &s.g.sources[s.source].fast
	f.mu.Lock()
	l, store := f.lanes[0], s.g.lanes.store(s.out)
	f.mu.Unlock()
	u := l.units[0]
	r := &laneRun{lane: l, store: store}
	config, link, archive := filepath.Join(s.fresh, "importcfg"), filepath.Join(s.fresh, "importcfg.link"), filepath.Join(s.fresh, "main.a")
	s.write(config, r.importcfg(""))
	s.write(link, r.importcfg("")+l.modinfo)
	compile := exec.CommandContext(s.Context(), l.compiler, slices.Concat([]string{"-o", archive, "-c=2", "-importcfg", config}, u.flags, u.files)...)
	compile.Dir, compile.Env = s.source, slices.Concat(os.Environ(), l.env, []string{"GOGC=" + toolGC})
	if err := compile.Run(); err != nil {
		return err
	}
	ld := exec.CommandContext(s.Context(), l.linker, slices.Concat([]string{"-o", filepath.Join(s.fresh, "page"), "-importcfg", link}, l.ldflags, []string{archive})...)
	ld.Dir, ld.Env = s.source, slices.Concat(os.Environ(), l.env, l.linkEnv())
	return ld.Run()
}

func (s *saves) goBuild() error {
	cmd := exec.CommandContext(s.Context(), "go", append([]string{"build", "-o", filepath.Join(s.fresh, "page")}, append(s.g.config.buildFlags(), ".")...)...)
	cmd.Dir, cmd.Env = s.source, append(os.Environ(), "CGO_ENABLED=0", "PWD="+s.source)
	return cmd.Run()
}

func cpuTime(who int) time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(who, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
