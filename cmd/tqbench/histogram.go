//go:build linux

package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that are at most 1/64 wide, so that a quantile is right to 1.6 %. It holds up
// to 2^40 ns (18 minutes); what is longer counts as that. The zero value is empty. It is not safe for concurrent use.
type histogram struct {
	counts [buckets]uint32
	n      uint64
	max    time.Duration
}

const (
	subBits = 6 // 2^6 buckets for each power of two
	topBit  = 40
	buckets = (topBit - subBits + 1) << subBits
)

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.n++
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// quantile gives the duration that a part q of all does not exceed, 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.n))
	var seen uint64
	for i, c := range h.counts {
		if seen += uint64(c); seen > rank {
			return min(upperBound(i), h.max)
		}
	}
	return h.max
}

// bucketOf is linear up to 2^subBits ns, and then takes the topmost subBits+1 bits.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v >= 1<<topBit {
		return buckets - 1
	}
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// upperBound is the longest duration of a bucket.
func upperBound(i int) time.Duration {
	shift := max(i>>subBits-1, 0)
	return time.Duration((uint64(i-shift<<subBits)+1)<<shift - 1)
}
