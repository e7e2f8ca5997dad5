package builder

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// BenchmarkSave compares Build with the same go build alone, on saves of a small net/http page, one after the other:
//
//	go test ./plugins/builder -run '^$' -bench Save -benchtime 10x
func BenchmarkSave(b *testing.B) {
	dir, out := b.TempDir(), b.TempDir()
	source := filepath.Join(dir, "pages", "a")
	if err := os.MkdirAll(source, 0o755); err != nil {
		b.Fatal(err)
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	write(filepath.Join(dir, "go.mod"), "module site\n\ngo 1.26\n")
	g, n := NewGo(), 0
	save := func() {
		n++
		write(filepath.Join(source, "main.go"), fmt.Sprintf(httpPage, n))
		time.Sleep(2 * clockStep) // as a watcher's debounce
	}
	measure := func(f func() error) time.Duration {
		save()
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	ours := func() error {
		_, err := g.Build(b.Context(), sdk.Job{Page: "a", Dir: source, Source: source, OutDir: out}, func(sdk.Event) {})
		return err
	}
	bare := func() error {
		cmd := exec.CommandContext(b.Context(), "go", append([]string{"build", "-o", filepath.Join(dir, "page")}, append(g.config.buildFlags(), ".")...)...)
		cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0", "PWD="+source)
		return cmd.Run()
	}
	measure(bare) // fills the cache
	measure(ours)
	var with, without []time.Duration
	for b.Loop() {
		with, without = append(with, measure(ours)), append(without, measure(bare))
	}
	a, z := median(with), median(without)
	b.ReportMetric(float64(a.Microseconds())/1000, "ms/Build")
	b.ReportMetric(float64(z.Microseconds())/1000, "ms/go-build")
	b.ReportMetric(float64(a)/float64(z), "ratio")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
