//go:build linux

package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramQuantiles(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var h, other histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(math.Exp(random.Float64() * 20)) // 1 ns to 0.5 s, evenly over the powers
		all = append(all, d)
		if i%2 == 0 {
			h.add(d)
		} else {
			other.add(d)
		}
	}
	h.merge(&other)
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		got := h.quantile(q)
		if got < want || float64(got) > float64(want)*(1+1.0/64)+1 {
			t.Errorf("quantile %v is %v, not %v", q, got, want)
		}
	}
	if got, want := h.max, all[len(all)-1]; got != want {
		t.Errorf("the longest is %v, not %v", got, want)
	}
}

func TestHistogramBuckets(t *testing.T) {
	for _, d := range []time.Duration{-1, 0, 1, 63, 64, 127, 128, 1 << 20, 1<<40 - 1, 1 << 40, math.MaxInt64} {
		i := bucketOf(d)
		if i < 0 || i >= buckets {
			t.Fatalf("%d is in bucket %d of %d", d, i, buckets)
		}
		if d >= 0 && d < 1<<topBit && upperBound(i) < d {
			t.Errorf("%d is above %d, the bound of its bucket", d, upperBound(i))
		}
	}
	for i := range buckets {
		if got := bucketOf(upperBound(i)); got != i {
			t.Fatalf("the bound of bucket %d is in bucket %d", i, got)
		}
	}
	var empty histogram
	if got := empty.quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}

func TestSummary(t *testing.T) {
	if got, want := summarise([]float64{3, 0, 1, 2}), (summary{2, 1, 3}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := summarise([]float64{0, 0}); got != (summary{}) {
		t.Errorf("rounds that measured nothing give %v", got)
	}
	values := []float64{4, 1, 3, 2}
	if got := median(values); got != 2.5 || !slices.Equal(values, []float64{4, 1, 3, 2}) {
		t.Errorf("median is %v of %v", got, values)
	}
}

func TestPaired(t *testing.T) {
	// A machine that is slow in some rounds is so for both: the ratio stays.
	if got := paired([]float64{2, 20, 6, 200}, []float64{1, 10, 3, 100}); got != (interval{2, 2, 2}) {
		t.Errorf("the same ratio in each round gives %v", got)
	}
	got := paired([]float64{1, 2, 3, 4, 5, 6, 7}, []float64{1, 1, 1, 1, 1, 1, 1})
	if got.Ratio != 4 || got.Low >= 4 || got.High <= 4 || got.Low < 1 || got.High > 7 {
		t.Errorf("1 to 7 gives %v", got)
	}
	if again := paired([]float64{1, 2, 3, 4, 5, 6, 7}, []float64{1, 1, 1, 1, 1, 1, 1}); again != got {
		t.Errorf("the same rounds give %v and then %v", got, again)
	}
	if got := paired([]float64{0, 3, 5}, []float64{1, 1, 0}); got != (interval{3, 3, 3}) {
		t.Errorf("rounds of which one measured nothing count: %v", got)
	}
	if got := paired([]float64{1}, nil); got != (interval{}) {
		t.Errorf("without a base: %v", got)
	}
}

func TestRound2(t *testing.T) {
	for v, want := range map[float64]float64{12345: 12000, 9876: 9900, 987: 990, 1: 1, 0: 0, -5: 0} {
		if got := round2(v); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v becomes %v, not %v", v, got, want)
		}
	}
}
