//go:build linux

package linker

import (
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkLink links the same program with the stock linker and with a preloaded one, in turns, and reports the
// medians in ms and their ratio: go test -run '^$' -bench Link -benchtime 15x
func BenchmarkLink(b *testing.B) {
	files := map[string]string{"shared/shared.go": shared1}
	set := append(slices.Clone(sets["http"]), sets["templates"]...)
	addMain(files, "page", mainOf(set, set, ""))
	page := programs(b, files)["page"]
	l := newLinker(b, Options{})
	out := filepath.Join(b.TempDir(), "out")
	var took [2][]time.Duration
	for b.Loop() {
		prepare(b, l, "page", page)
		for i, key := range []string{"no page", "page"} {
			start := time.Now()
			preloaded, output, err := l.Link(b.Context(), key, page.spec, page.main, out)
			if err != nil || preloaded != (i == 1) {
				b.Fatal(preloaded, err, string(output))
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	var ms [2]float64
	for i, all := range took {
		slices.Sort(all)
		ms[i] = float64(all[len(all)/2].Microseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms[0], "stock-ms")
	b.ReportMetric(ms[1], "preloaded-ms")
	b.ReportMetric(ms[1]/ms[0], "ratio")
}
