//go:build linux

package main

import (
	"math/rand/v2"
	"slices"
)

// summary is what is told of a value that was measured once in each round. A round with 0 has not measured it; without
// any other all is 0.
type summary struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func summarise(values []float64) summary {
	values = slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return v == 0 })
	if len(values) == 0 {
		return summary{}
	}
	return summary{median(values), slices.Min(values), slices.Max(values)}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	upper := sorted[len(sorted)/2]
	if len(sorted)%2 == 1 {
		return upper
	}
	return (sorted[len(sorted)/2-1] + upper) / 2
}

// interval is a ratio with the bounds within which 95 of 100 resampled medians lie.
type interval struct {
	Ratio float64 `json:"ratio"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

const resamples = 2000

// paired compares two values by the ratio that they have in each round: what disturbed the machine in a round is in
// both. The bounds are those of a percentile bootstrap over the rounds, with a fixed seed, so that the same numbers
// give the same bounds. Rounds that only one of the two has measured do not count; without any other all is 0.
func paired(values, base []float64) interval {
	n := min(len(values), len(base))
	ratios := make([]float64, 0, n)
	for i := range n {
		if base[i] > 0 && values[i] > 0 {
			ratios = append(ratios, values[i]/base[i])
		}
	}
	if len(ratios) == 0 {
		return interval{}
	}
	medians, draw := make([]float64, resamples), make([]float64, len(ratios))
	random := rand.New(rand.NewPCG(1, 2))
	for i := range medians {
		for j := range draw {
			draw[j] = ratios[random.IntN(len(ratios))]
		}
		medians[i] = median(draw)
	}
	slices.Sort(medians)
	return interval{median(ratios), medians[resamples*25/1000], medians[resamples*975/1000]}
}
