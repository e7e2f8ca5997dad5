//go:build linux

package main

import (
	"fmt"
	"strings"
)

// goal is one that the data plane was built to, and what was measured.
type goal struct {
	what  string
	limit float64
	got   interval
	unit  string
	exact bool // one value, not a ratio of rounds: it was measured, also when it is 0
}

// writeGoals holds the results to the goals.
func (r *results) writeGoals(w *strings.Builder) {
	rows := [][]string{{"goal", "at most", "measured", "95 % within", ""}}
	for _, g := range r.goals() {
		if g.got.Ratio == 0 && !g.exact {
			rows = append(rows, []string{g.what, number(g.limit) + g.unit, "not measured", "", ""})
			continue
		}
		verdict := "holds"
		if g.got.Ratio > g.limit {
			verdict = "**falls short**"
		}
		spread := ""
		if g.got.High > 0 {
			spread = times(g.got.Low) + " to " + times(g.got.High)
		}
		rows = append(rows, []string{g.what, number(g.limit) + g.unit, "**" + number(g.got.Ratio) + g.unit + "**", spread, verdict})
	}
	w.WriteString("\n## The goals\n\nRatios are medians of what the rounds gave one by one; within the bounds lie 95 % of medians of resampled rounds.\n")
	table(w, rows)
}

func (r *results) goals() []goal {
	cpu := func(c *comparison, peer, base string) interval { return paired(c.of(peer).CPU, c.of(base).CPU) }
	main := r.main()
	all := []goal{
		{what: "CPU per request, GET 1 KiB, lane R ÷ nginx", limit: 1.3, got: cpu(r.CPU, laneR, nginxPlain)},
		{what: "the same, lane R ÷ Caddy", limit: 0.3, got: cpu(r.CPU, laneR, caddyName)},
		{what: "the same, lane S ÷ tuned ReverseProxy", limit: 0.65, got: cpu(r.CPU, laneS, reverseTuned)},
	}
	for _, c := range r.Matrix {
		if strings.HasSuffix(c.ID, "-1m") {
			for _, base := range []string{nginxPlain, nginxLarge} {
				all = append(all, goal{what: fmt.Sprintf("CPU per request, %s: %s ÷ %s", c.Title, main, base), limit: 1, got: cpu(c, main, base)})
			}
		}
	}
	for _, f := range r.Latency {
		all = append(all, goal{what: fmt.Sprintf("p99 at %.0f requests a second (%s), %s ÷ nginx", f.Rate, f.Choice, main), limit: 2, got: paired(f.of(main).P99, f.of(nginxPlain).P99)})
	}
	all = append(all, r.lookupGoals()...)
	for _, x := range r.Reload {
		if isOurs(x.Peer) {
			all = append(all, goal{what: fmt.Sprintf("p99 during %d reloads (%s) ÷ quiet", x.Reloads, x.Way), limit: 1.5, got: paired(x.During.P99, x.Quiet.P99)})
		}
	}
	return all
}

func number(v float64) string { return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00") }

// main is the lane that requests take by default.
func (r *results) main() string {
	if r.Lanes {
		return laneR
	}
	return laneS
}

func (r *results) lookupGoals() (all []goal) {
	for _, g := range r.Allocs {
		if strings.HasPrefix(g.Name, "Lookup") {
			all = append(all,
				goal{what: "a route among 1,000 found (" + g.Name + ")", limit: 150, got: interval{Ratio: g.Values["ns/op"]}, unit: " ns", exact: true},
				goal{what: "the same", got: interval{Ratio: g.Values["allocs/op"]}, unit: " allocations", exact: true})
		}
	}
	return all
}
