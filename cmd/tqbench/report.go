//go:build linux

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// files are the tables and plots, by name.
func (r *results) files() map[string]string {
	files := r.plots()
	var w strings.Builder
	w.WriteString("# The data plane beside other proxies: results\n\n<!-- written by `go run ./cmd/tqbench`; how it is measured: README.md -->\n")
	r.writeMachine(&w)
	r.writeGoals(&w)
	r.writeHeadline(&w, files)
	r.writeMatrix(&w)
	r.writeCores(&w)
	r.writeLatency(&w, files)
	r.writeReload(&w, files)
	r.writeRoutes(&w)
	r.writeMemory(&w)
	r.writeAllocs(&w)
	r.writeProblems(&w)
	files["results.md"] = w.String()
	return files
}

func (r *results) writeMachine(w *strings.Builder) {
	m := r.Machine
	fmt.Fprintf(w, "\nMeasured on %s with `%s` in %s: %d cores (%s), %s memory, Linux %s, %s, tqserver %s.\n", m.Date, r.Command,
		cmp.Or(r.Took, "no time"), m.Cores, m.CPU, readableKiB(m.Memory), m.Kernel, m.Go, m.Revision)
	fmt.Fprintf(w, "Load average %s before and %s after.", m.Load, m.LoadAfter)
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		fmt.Fprintf(w, " %s %s.", name, m.Versions[name])
	}
	w.WriteString(" [How it is measured](README.md).\n")
	for _, one := range r.Missing {
		fmt.Fprintf(w, "\nLeft out: %s is not installed. To have it: `%s`.\n", one.Name, one.Install)
	}
	if len(r.Peers) > 0 && !r.Lanes {
		w.WriteString("\nThis tqserver has no `server.fast_lane`: lane R is not measured.\n")
	}
	rows := [][]string{{"proxy", "configured with"}}
	for _, p := range r.Peers {
		rows = append(rows, []string{p.Name, p.About})
	}
	table(w, rows)
}

// readableKiB turns "24684092 kB" into GiB.
func readableKiB(text string) string {
	var kib float64
	if _, err := fmt.Sscanf(text, "%f kB", &kib); err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%.1f GiB", kib/1024/1024)
}

func table(w *strings.Builder, rows [][]string) {
	w.WriteString("\n")
	for i, row := range rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
}

func (r *results) writeHeadline(w *strings.Builder, files map[string]string) {
	if r.CPU == nil {
		return
	}
	fmt.Fprintf(w, "\n## CPU time per request\n\n%s; each proxy with one CPU.\n", r.CPU.Title)
	if _, ok := files["cpu.svg"]; ok {
		w.WriteString("\n![CPU time per request by proxy](cpu.svg)\n")
	}
	writeComparison(w, r.CPU)
	r.writeParts(w)
}

// writeParts tells what tqserver's CPU time is spent for. Plugins that use next to nothing are one column.
func (r *results) writeParts(w *strings.Builder) {
	rows := [][]string{{"CPU µs/request", "kernel", "rotator (the log)", "other plugins"}}
	for _, s := range r.CPU.Series {
		if len(s.Parts) == 0 {
			continue
		}
		others := 0.0
		for name, values := range s.Parts {
			if name != "kernel" && name != "rotator" {
				others += median(values)
			}
		}
		rows = append(rows, []string{ours(s.Peer), fine(median(s.Parts["kernel"])), fine(median(s.Parts["rotator"])), fine(others)})
	}
	if len(rows) > 1 {
		table(w, rows)
	}
}

func (r *results) writeMatrix(w *strings.Builder) {
	if len(r.Matrix) == 0 {
		return
	}
	w.WriteString("\n## Other loads\n\nEach proxy with one CPU.\n")
	for _, c := range r.Matrix {
		fmt.Fprintf(w, "\n### %s\n", c.Title)
		writeComparison(w, c)
	}
}

func (r *results) writeCores(w *strings.Builder) {
	if r.Cores == nil {
		return
	}
	fmt.Fprintf(w, "\n## With all CPUs\n\n%s; each proxy with as many threads or processes as there are CPUs (%d), which it shares with the generator and the worker.\n", r.Cores.Title, r.Cores.Procs)
	writeComparison(w, r.Cores)
}

// writeComparison has CPU time, its ratio to nginx, and what else is worth telling. The fixed-rate tables are others.
func writeComparison(w *strings.Builder, c *comparison) {
	rows := [][]string{{"proxy", "CPU µs/request", "min to max", "÷ nginx", "95 % within", "requests/s", "p50", "p99", "errors", "asked again"}}
	base := c.of(nginxPlain)
	for _, s := range c.Series {
		cpu, ratio := summarise(s.CPU), paired(s.CPU, base.CPU)
		rows = append(rows, []string{ours(s.Peer), fine(cpu.Median), fine(cpu.Min) + " to " + fine(cpu.Max), "**" + times(ratio.Ratio) + "**",
			times(ratio.Low) + " to " + times(ratio.High), whole(median(s.Rate)), duration(median(s.P50)), duration(median(s.P99)),
			fmt.Sprint(s.Errors), fmt.Sprint(s.Retries)})
	}
	table(w, rows)
}

func (r *results) writeLatency(w *strings.Builder, files map[string]string) {
	if len(r.Latency) == 0 {
		return
	}
	w.WriteString("\n## Latency at a fixed rate\n\nRequests are sent at fixed times, over 128 connections; a latency counts from the time at which its request was due. Medians of the rounds.\n")
	for i, f := range r.Latency {
		fmt.Fprintf(w, "\n### %s\n", f.Title)
		if name := fmt.Sprintf("latency-%d.svg", i+1); files[name] != "" {
			fmt.Fprintf(w, "\n![Latency by proxy](%s)\n", name)
		}
		base := f.of(nginxPlain)
		rows := [][]string{{"proxy", "p50", "p99", "min to max", "÷ nginx", "95 % within", "p99.9", "answered/s", "sent late, p99", "errors"}}
		for _, s := range f.Series {
			p99, ratio := summarise(s.P99), paired(s.P99, base.P99)
			rows = append(rows, []string{ours(s.Peer), duration(median(s.P50)), duration(p99.Median), duration(p99.Min) + " to " + duration(p99.Max),
				"**" + times(ratio.Ratio) + "**", times(ratio.Low) + " to " + times(ratio.High), duration(median(s.P999)), whole(median(s.Rate)), duration(median(s.Late)), fmt.Sprint(s.Errors)})
		}
		table(w, rows)
		if len(f.Left) > 0 {
			fmt.Fprintf(w, "\nLeft out, because their maximum is below 1.25 times this rate: %s.\n", strings.Join(f.Left, "; "))
		}
	}
}

func (r *results) writeReload(w *strings.Builder, files map[string]string) {
	if len(r.Reload) == 0 {
		return
	}
	w.WriteString("\n## During reloads\n\nSegments with reloads in turns with quiet ones. *save* changes a page's source, which is built on the same cores; *rollback* swaps its workers without a build; *reload* is the program's own.\n")
	if files["reload.svg"] != "" {
		w.WriteString("\n![p99 in quiet and during reloads](reload.svg)\n")
	}
	rows := [][]string{{"proxy", "what", "reloads", "requests/s", "p99 in quiet", "p99 during", "during ÷ quiet", "95 % within", "p99.9 in quiet", "p99.9 during", "errors", "asked again"}}
	for _, x := range r.Reload {
		ratio := paired(x.During.P99, x.Quiet.P99)
		rows = append(rows, []string{ours(x.Peer), x.Way, fmt.Sprint(x.Reloads), whole(x.Rate), duration(median(x.Quiet.P99)), duration(median(x.During.P99)),
			"**" + times(ratio.Ratio) + "**", times(ratio.Low) + " to " + times(ratio.High), duration(median(x.Quiet.P999)), duration(median(x.During.P999)),
			fmt.Sprint(x.During.Errors), fmt.Sprint(x.During.Retries)})
	}
	table(w, rows)
}

func (r *results) writeRoutes(w *strings.Builder) {
	if len(r.Routes) == 0 {
		return
	}
	w.WriteString("\n## Routes\n\nCPU µs/request, medians; every route is asked in turn. A route of tqserver is a real page with a worker of its own; the others have all routes lead to one worker.\n")
	head, names := []string{"proxy"}, []string{}
	for _, c := range r.Routes {
		head = append(head, fmt.Sprintf("%d", c.Routes))
		for _, s := range c.Series {
			if !slices.Contains(names, s.Peer) {
				names = append(names, s.Peer)
			}
		}
	}
	rows := [][]string{head}
	for _, name := range names {
		row := []string{ours(name)}
		for _, c := range r.Routes {
			s := c.of(name)
			cell := fine(median(s.CPU))
			if s.Errors > 0 {
				cell += fmt.Sprintf(" (%d errors)", s.Errors)
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	table(w, rows)
}

func (r *results) writeMemory(w *strings.Builder) {
	if len(r.Memory) == 0 {
		return
	}
	w.WriteString("\n## Memory\n\nOf all processes of a proxy, for tqserver the kernel and its five plugins, without workers; with connections that have asked once and are idle. PSS counts what processes share once.\n")
	rows := [][]string{{"proxy", "connections", "PSS", "RSS", "PSS more than with none, a connection"}}
	none := map[string]int64{}
	for _, m := range r.Memory {
		each := ""
		if m.Connections == 0 {
			none[m.Peer] = m.PSS
		} else if base, ok := none[m.Peer]; ok {
			each = fmt.Sprintf("%.1f KiB", max(0, float64(m.PSS-base))/float64(m.Connections))
		}
		rows = append(rows, []string{ours(m.Peer), fmt.Sprint(m.Connections), inMiB(m.PSS), inMiB(m.RSS), each})
	}
	table(w, rows)
}

func inMiB(kib int64) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }

func (r *results) writeAllocs(w *strings.Builder) {
	if len(r.Allocs) == 0 {
		return
	}
	w.WriteString("\n## Inside tqserver\n\nOf `go test -bench` in `kernel/proxy`: what a request allocates, and what looking a route up among 1,000 costs.\n")
	rows := [][]string{{"benchmark", "way", "CPU µs", "allocations", "bytes"}}
	for _, g := range r.Allocs {
		for _, way := range slices.Sorted(slices.Values(g.ways())) {
			rows = append(rows, []string{g.Name, way, fine(g.Values[way+"-us/req"]), perRequest(g.Values[way+"-allocs/req"]), perRequest(g.Values[way+"-B/req"])})
		}
		if ns, ok := g.Values["ns/op"]; ok && len(g.ways()) == 0 {
			rows = append(rows, []string{g.Name, "", fmt.Sprintf("%.3f", ns/1000), perRequest(g.Values["allocs/op"]), perRequest(g.Values["B/op"])})
		}
	}
	table(w, rows)
}

func (r *results) writeProblems(w *strings.Builder) {
	if len(r.Problems) == 0 {
		return
	}
	w.WriteString("\n## What went wrong\n\n")
	for _, p := range r.Problems {
		p = strings.ReplaceAll(strings.TrimSpace(p), "\n", " ")
		fmt.Fprintf(w, "- %s\n", p[:min(len(p), 300)]) // results.json has all of it
	}
}

func isOurs(peer string) bool { return strings.HasPrefix(peer, "tqserver") }

func ours(peer string) string {
	if isOurs(peer) {
		return "**" + peer + "**"
	}
	return peer
}

// What was not measured is 0, and shown as a dash.

func fine(v float64) string  { return shown(v, "%.1f") }
func whole(v float64) string { return shown(v, "%.0f") }
func times(v float64) string { return shown(v, "%.2f") }

func shown(v float64, format string) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

// duration is of microseconds.
func duration(us float64) string {
	if us == 0 {
		return "–"
	}
	d := time.Duration(us * 1000)
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.2f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
}
