package kernel

import "testing"

func TestGrowth(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1: 400, 8 << 20: 400, 10 << 20: 320, 16 << 20: 200, 32 << 20: 100, 1 << 40: 100} {
		if got := growth(live); got != want {
			t.Errorf("a heap of %d bytes may grow by %d %%, want %d", live, got, want)
		}
	}
}
