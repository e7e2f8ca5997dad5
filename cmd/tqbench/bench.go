//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// bencher is one run.
type bencher struct {
	o       options
	p       plan
	dir     string // for everything that the run writes but its results
	module  string // directory of tqserver's source
	peers   []*peer
	workers setup
	results *results
	fleets  int // that were started
	begin   time.Time
}

// bench runs the parts that are asked for, and writes the results. Whatever it started has ended when it returns.
func bench(ctx context.Context, o options) (err error) {
	b := &bencher{o: o, p: newPlan(o), begin: time.Now(), results: newResults(o)}
	if b.module, err = moduleDir(ctx); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "tqbench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	workers, stop, err := startWorkers(ctx, b.bin("worker"), b.dir)
	if err != nil {
		return err
	}
	defer stop()
	b.workers = workers
	if err := b.parts(ctx); err != nil {
		return err
	}
	return b.finish()
}

func (b *bencher) bin(name string) string { return filepath.Join(b.dir, name) }

// parts runs those that share servers together.
func (b *bencher) parts(ctx context.Context) error {
	b.progress("measuring takes about %v", b.p.estimate(b.o, b.peers).Round(10*time.Second))
	b.results.Machine.Load = loadAverage()
	groups := []struct {
		parts []string
		peers []*peer
		procs int
		run   func(context.Context, []*server) error
	}{
		{[]string{"cpu", "matrix"}, b.peers, 1, b.oneCPU},
		{[]string{"cores", "latency", "reload"}, mainPeers(b.peers), runtime.NumCPU(), b.allCPUs},
	}
	for _, g := range groups {
		if !slices.ContainsFunc(g.parts, b.asked) {
			continue
		}
		if err := b.withFleet(ctx, g.peers, g.procs, 1, g.run); err != nil {
			return err
		}
	}
	if b.asked("memory") { // of processes that have done little before
		if err := b.withFleet(ctx, mainPeers(b.peers), 1, 1, b.memory); err != nil {
			return err
		}
	}
	if b.asked("routes") {
		if err := b.routes(ctx); err != nil {
			return err
		}
	}
	if b.asked("allocs") {
		return b.allocs(ctx)
	}
	return nil
}

func (b *bencher) asked(part string) bool { return slices.Contains(b.o.only, part) }

// oneCPU has the parts where every proxy has one CPU.
func (b *bencher) oneCPU(ctx context.Context, fleet []*server) (err error) {
	if b.asked("cpu") {
		if b.results.CPU, err = b.compare(ctx, fleet, headline(b.p), 1); err != nil {
			return err
		}
	}
	if b.asked("matrix") {
		for _, s := range matrix(b.p) {
			c, err := b.compare(ctx, mainServers(fleet), s, 1)
			if err != nil {
				return err
			}
			b.results.Matrix = append(b.results.Matrix, c)
		}
	}
	return nil
}

// allCPUs has the parts where every proxy has all CPUs.
func (b *bencher) allCPUs(ctx context.Context, fleet []*server) (err error) {
	if b.asked("cores") || b.asked("latency") {
		s := headline(b.p)
		s.rounds, s.id = b.p.few, "get-1k-cores"
		if b.results.Cores, err = b.compare(ctx, fleet, s, runtime.NumCPU()); err != nil {
			return err
		}
	}
	if b.asked("latency") {
		if err := b.latency(ctx, fleet); err != nil {
			return err
		}
	}
	if b.asked("reload") {
		return b.reload(ctx, fleet)
	}
	return nil
}

// withFleet starts servers, warms them up, and ends them after run. One that does not start is left out.
func (b *bencher) withFleet(ctx context.Context, peers []*peer, procs, routes int, run func(context.Context, []*server) error) error {
	var fleet []*server
	defer func() {
		for _, sv := range fleet {
			sv.stop(stopLimit)
		}
	}()
	b.fleets++
	for i, p := range peers {
		b.progress("starting %s", p.name)
		s := b.workers
		s.dir, s.procs, s.routes = filepath.Join(b.dir, fmt.Sprintf("%d-%d", b.fleets, i)), procs, routes
		if err := os.Mkdir(s.dir, 0o755); err != nil {
			return err
		}
		sv, err := p.start(ctx, p, s)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			b.problem("%s does not start, and is left out: %v", p.name, err)
			continue
		}
		fleet = append(fleet, sv)
	}
	for _, sv := range fleet {
		warm := get(kib, 32)
		warm.Length = b.p.round / 2
		if _, _, _, err := measure(ctx, sv, warm); err != nil {
			return fmt.Errorf("warm %s up: %w", sv.peer.name, err)
		}
	}
	return run(ctx, fleet)
}

// extra are variants that only the first comparison has.
func extra(p *peer) bool {
	return p.unix || p.name == reverseNaive
}

func mainPeers(all []*peer) []*peer { return slices.DeleteFunc(slices.Clone(all), extra) }

func mainServers(all []*server) []*server {
	return slices.DeleteFunc(slices.Clone(all), func(s *server) bool { return extra(s.peer) })
}

// finish writes the results to where they were asked for.
func (b *bencher) finish() error {
	b.results.Machine.LoadAfter = loadAverage()
	b.results.Took = time.Since(b.begin).Round(time.Second).String()
	data, err := json.MarshalIndent(b.results, "", " ")
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	files := b.results.files()
	if b.o.json {
		_, err = b.o.results.Write(append(data, '\n'))
	} else {
		_, err = b.o.results.Write([]byte(files["results.md"]))
	}
	if err != nil || b.o.out == "" {
		return err
	}
	out := b.o.out
	if !filepath.IsAbs(out) && out == defaultOut {
		out = filepath.Join(b.module, out)
	}
	files["results.json"] = string(data) + "\n"
	if err := (setup{dir: out}).write(files); err != nil {
		return err
	}
	b.progress("the results are in %s", out)
	return nil
}

func (b *bencher) progress(format string, args ...any) {
	fmt.Fprintf(b.o.narration, "tqbench: %5s  %s\n", time.Since(b.begin).Round(time.Second), fmt.Sprintf(format, args...))
}

// problem is progress that the results tell of, too.
func (b *bencher) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.progress("problem: %s", text)
	b.results.Problems = append(b.results.Problems, text)
}
