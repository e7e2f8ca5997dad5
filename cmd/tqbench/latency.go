//go:build linux

package main

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// fixedRate is what all proxies did when requests came at the same rate.
type fixedRate struct {
	comparison
	Rate   float64  `json:"rate"`
	Choice string   `json:"choice"` // of the rate
	Left   []string `json:"left_out,omitempty"`
}

// latency measures at half of nginx's maximum, without those that could hardly bear that, and at half of the lowest
// maximum, with all. The maxima are those of the part cores.
func (b *bencher) latency(ctx context.Context, fleet []*server) error {
	limits := map[string]float64{}
	lowest, half, slowest := math.Inf(1), 0.0, ""
	for _, s := range b.results.Cores.Series {
		limits[s.Peer] = median(s.Rate)
		if limits[s.Peer] > 0 && limits[s.Peer] < lowest {
			lowest, slowest = limits[s.Peer], s.Peer
		}
		if s.Peer == nginxPlain {
			half = limits[s.Peer] / 2
		}
	}
	if math.IsInf(lowest, 1) {
		return fmt.Errorf("latency: no proxy answered anything in the comparison before")
	}
	if half > 0 {
		f := &fixedRate{Rate: round2(half), Choice: "half of nginx's maximum"}
		able := slices.DeleteFunc(slices.Clone(fleet), func(s *server) bool { return limits[s.peer.name] < 1.25*half })
		for _, s := range fleet {
			if !slices.Contains(able, s) {
				f.Left = append(f.Left, s.peer.name)
			}
		}
		if err := b.atRate(ctx, able, f, "latency-nginx"); err != nil {
			return err
		}
	}
	return b.atRate(ctx, fleet, &fixedRate{Rate: round2(lowest / 2), Choice: "half of the lowest maximum, that of " + slowest}, "latency-all")
}

func (b *bencher) atRate(ctx context.Context, fleet []*server, f *fixedRate, id string) error {
	j := get(kib, 128)
	j.Rate, j.Length = f.Rate, b.p.fixed
	title := fmt.Sprintf("GET, 1 KiB, %.0f requests a second (%s)", f.Rate, f.Choice)
	c, err := b.compare(ctx, fleet, scenario{id, title, j, b.p.few}, b.results.Cores.Procs)
	f.comparison = *c
	b.results.Latency = append(b.results.Latency, f)
	return err
}

// round2 keeps two digits.
func round2(v float64) float64 {
	if v <= 0 {
		return 0
	}
	scale := math.Pow(10, math.Floor(math.Log10(v))-1)
	return math.Round(v/scale) * scale
}
