//go:build linux && bench

package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	binaryUnderTest = "../../bin/tqserver" // as `make build` leaves it
	benchmarksDoc   = "../../docs/benchmarks.md"
	resultsBegin    = "<!-- results: replaced by make bench -->\n"
	resultsEnd      = "<!-- end of results -->\n"
)

// TestBenchmarks measures the whole program, prints the results, and puts them into docs/benchmarks.md when all
// parts have run and succeeded. `make bench` runs it; the build tag keeps it out of `make test`.
func TestBenchmarks(t *testing.T) {
	r := &results{}
	r.machine(t)
	parts := []struct {
		name string
		run  func(*testing.T, *results)
	}{{"save", benchSave}, {"edit", benchEdit}, {"size", benchSize}, {"start", benchStart}, {"memory", benchMemory}, {"plugins", benchPlugins}, {"plugins stopped", benchStopped}}
	ran := 0
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) { ran++; part.run(t, r) })
	}
	fmt.Fprintf(r, "\nLoad average at the end: %s.\n", loadAverage(t))
	fmt.Print("\n", r.String())
	if t.Failed() || ran < len(parts) {
		t.Logf("%s stays as it is", benchmarksDoc)
		return
	}
	if err := r.keep(); err != nil {
		t.Fatal(err)
	}
}

// results is Markdown in the making.
type results struct{ strings.Builder }

func (r *results) machine(t *testing.T) {
	info, err := buildinfo.ReadFile(binaryUnderTest)
	if err != nil {
		t.Fatalf("read the server to measure: %v (run `make bench`, which builds it first)", err)
	}
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	fmt.Fprintf(r, "Measured on %s: %d cores (%s), Linux %s, %s, load average %s at the start.\n", time.Now().UTC().Format(time.DateOnly),
		runtime.NumCPU(), field("/proc/cpuinfo", "model name"), release, info.GoVersion, loadAverage(t))
}

// field gives the first value of a name in a file of "name: value" lines.
func field(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// loadAverage is that of the last minute.
func loadAverage(t *testing.T) string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))[0]
}

// table writes a Markdown table. The first row is its head.
func (r *results) table(title string, rows ...[]string) {
	fmt.Fprintf(r, "\n### %s\n\n", title)
	for i, row := range rows {
		fmt.Fprintf(r, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(r, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
}

// keep replaces the results in the document.
func (r *results) keep() error {
	doc, err := os.ReadFile(benchmarksDoc)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(doc), resultsBegin)
	_, foot, ended := strings.Cut(rest, resultsEnd)
	if !ok || !ended {
		return fmt.Errorf("%s has no place for the results: no %q and %q", benchmarksDoc, resultsBegin, resultsEnd)
	}
	return os.WriteFile(benchmarksDoc, []byte(head+resultsBegin+r.String()+resultsEnd+foot), 0o644)
}

// launchReal is launch with the program as users run it, quiet: a console that nobody reads would be measured too.
// args are further words of the command line.
func (s *site) launchReal(args ...string) {
	s.t.Helper()
	path, err := filepath.Abs(binaryUnderTest)
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.CommandContext(context.Background(), path, append(append([]string{"-C", s.dir}, args...), "--quiet")...)
	s.cmd.Env = append(os.Environ(), s.environ...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, exited := s.cmd, make(chan struct{})
	s.exited = exited
	go func() { _ = cmd.Wait(); close(exited) }()
	s.t.Cleanup(s.stop)
}

// startReal waits until all pages serve.
func (s *site) startReal(args ...string) {
	s.t.Helper()
	s.launchReal(args...)
	s.awaitServing()
}

func (s *site) awaitServing() {
	s.t.Helper()
	s.await("all pages to serve and all plugins to run", func() error {
		st, err := s.tryStatus()
		if err != nil {
			return err
		}
		for _, p := range st.Pages {
			if p.State != "serving" {
				return fmt.Errorf("page %s is %s: %s", p.Name, p.State, p.Error)
			}
		}
		for _, stage := range st.Stages {
			if stage.State != "running" && stage.State != "idle" {
				return fmt.Errorf("the %s is %s", stage.Stage, stage.State)
			}
		}
		if st.State != "serving" {
			return fmt.Errorf("state is %s", st.State)
		}
		return nil
	})
}

// quantile gives the value below which a part q of the values lies. It sorts them.
func quantile[T int64 | float64 | time.Duration](values []T, q float64) T {
	slices.Sort(values)
	return values[min(int(q*float64(len(values))), len(values)-1)]
}

func median[T int64 | float64 | time.Duration](values []T) T {
	values = slices.Clone(values)
	upper := quantile(values, 0.5)
	if len(values)%2 == 1 {
		return upper
	}
	return (values[len(values)/2-1] + upper) / 2
}

func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

func ratio[T int64 | float64 | time.Duration](a, b T) string {
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}
