package proxy

import (
	"fmt"
	"testing"
)

// TestChoosingAllocatesNothing, whatever the set is like.
func TestChoosingAllocatesNothing(t *testing.T) {
	for _, n := range []int{1, 2, 64} {
		for _, limit := range []int{0, 8} {
			b := NewBackend("p", BackendOptions{})
			set := make([]*Endpoint, n)
			for i := range set {
				set[i] = limited(limit)
			}
			b.Set(set...)
			check := func(what string) {
				if got := testing.AllocsPerRun(200, func() { takeTurn(t, b) }); got != 0 {
					t.Errorf("%d workers, limit %d, %s: %v allocations", n, limit, what, got)
				}
			}
			check("all well")
			failTimes(set[0], 5)
			check("one ejected")
			b.Set(append(set, limited(limit))...)
			check("one starts slowly")
		}
	}
}

func takeTurn(t testing.TB, b *Backend) {
	turn := turn{backend: b}
	e, err := turn.next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.leave()
}

// BenchmarkTurn is what finding a worker and leaving it costs.
func BenchmarkTurn(b *testing.B) {
	for _, limit := range []int{0, 1000} {
		for _, n := range []int{1, 4, 64} {
			backend := NewBackend("p", BackendOptions{})
			set := make([]*Endpoint, n)
			for i := range set {
				set[i] = limited(limit)
			}
			backend.Set(set...)
			name := fmt.Sprintf("workers=%d/limit=%d", n, limit)
			b.Run(name, func(b *testing.B) { benchTurns(b, backend) })
			if n > 1 {
				failTimes(set[0], 5)
				b.Run(name+"/ejected", func(b *testing.B) { benchTurns(b, backend) })
			}
		}
	}
}

func benchTurns(b *testing.B, backend *Backend) {
	b.ReportAllocs()
	for b.Loop() {
		takeTurn(b, backend)
	}
}

// BenchmarkQueue is what a place costs that is handed on, with a long line.
func BenchmarkQueue(b *testing.B) {
	backend := NewBackend("p", BackendOptions{})
	backend.Set(limited(2), limited(2))
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			takeTurn(b, backend)
		}
	})
}
