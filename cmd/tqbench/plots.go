//go:build linux

package main

import "fmt"

// plots are those of what was measured, by name of the file.
func (r *results) plots() map[string]string {
	files := map[string]string{}
	if r.CPU != nil {
		var bars []bar
		for _, s := range r.CPU.Series {
			c := summarise(s.CPU)
			bars = append(bars, bar{label: s.Peer, value: c.Median, low: c.Min, high: c.Max, strong: isOurs(s.Peer)})
		}
		files["cpu.svg"] = barChart("CPU time per request, µs (less is better)", r.CPU.Title+"; one CPU; median, with the least and most of all rounds", nil, bars)
	}
	for i, f := range r.Latency {
		files[fmt.Sprintf("latency-%d.svg", i+1)] = f.plot()
	}
	if len(r.Reload) > 0 {
		files["reload.svg"] = plotReloads(r.Reload)
	}
	return files
}

func (f *fixedRate) plot() string {
	var bars []bar
	for _, s := range f.Series {
		p50, p99 := summarise(inMillis(s.P50)), summarise(inMillis(s.P99))
		bars = append(bars,
			bar{label: s.Peer, value: p50.Median, low: p50.Min, high: p50.Max, strong: isOurs(s.Peer)},
			bar{label: s.Peer, value: p99.Median, low: p99.Min, high: p99.Max, strong: isOurs(s.Peer), series: 1, continuesGroup: true})
	}
	return barChart(fmt.Sprintf("Latency at %.0f requests a second, ms (less is better)", f.Rate), "median of the rounds, with the least and most; "+f.Choice, []string{"p50", "p99"}, bars)
}

func plotReloads(all []*reloading) string {
	var bars []bar
	for _, x := range all {
		quiet, during := summarise(inMillis(x.Quiet.P99)), summarise(inMillis(x.During.P99))
		bars = append(bars,
			bar{label: x.Peer + ", " + x.Way, value: quiet.Median, low: quiet.Min, high: quiet.Max, strong: isOurs(x.Peer)},
			bar{label: x.Peer, value: during.Median, low: during.Min, high: during.Max, strong: isOurs(x.Peer), series: 1, continuesGroup: true})
	}
	return barChart("p99 in quiet and during reloads, ms (less is better)", "median of the segments, with the least and most", []string{"in quiet", "during reloads"}, bars)
}

func inMillis(micros []float64) (all []float64) {
	for _, v := range micros {
		all = append(all, v/1000)
	}
	return all
}
