//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// goBenchmark is a line that `go test -bench` prints.
type goBenchmark struct {
	Name   string             `json:"name"`
	Values map[string]float64 `json:"values"` // by unit
}

// allocs runs the benchmarks of the package that forwards: what a request allocates can be counted only inside.
func (b *bencher) allocs(ctx context.Context) error {
	for _, args := range [][]string{
		{"-bench", "^BenchmarkForward$/^GET-1KiB$", "-benchtime", "1x"},
		{"-bench", "^BenchmarkLookup", "-benchtime", "200ms"},
	} {
		b.progress("go test %s", strings.Join(args, " "))
		argv := append([]string{"go", "test", "-run", "^$", "-count=1", "-timeout", "5m"}, args...)
		out, err := run(ctx, buildLimit, command{argv: append(argv, "./kernel/proxy"), dir: b.module})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			b.problem("allocations: %v", err)
			continue
		}
		found := parseBenchmarks(out)
		if len(found) == 0 {
			b.problem("allocations: no benchmark in the output of go test %s", strings.Join(args, " "))
		}
		b.results.Allocs = append(b.results.Allocs, found...)
	}
	return nil
}

// parseBenchmarks reads "BenchmarkName-2   5   123 ns/op   0 allocs/op". Names lose the number of CPUs.
func parseBenchmarks(out string) (all []goBenchmark) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		g := goBenchmark{Name: strings.TrimPrefix(f[0], "Benchmark"), Values: map[string]float64{}}
		if i := strings.LastIndexByte(g.Name, '-'); i > 0 {
			if _, err := strconv.Atoi(g.Name[i+1:]); err == nil {
				g.Name = g.Name[:i]
			}
		}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				g.Values[f[i+1]] = v
			}
		}
		all = append(all, g)
	}
	return all
}

// requests are the ways of BenchmarkForward, with what each allocates: its values are named "WAY-allocs/req".
func (g goBenchmark) ways() (names []string) {
	for unit := range g.Values {
		if name, ok := strings.CutSuffix(unit, "-allocs/req"); ok {
			names = append(names, name)
		}
	}
	return names
}

func perRequest(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
