package kernel

import "testing"

// A checker tells by the version which of two sets is the newer one.
func TestVersionOfTargetSetsRises(t *testing.T) {
	k := testKernel(t)
	first := k.targetSet().Version
	if second := k.targetSet().Version; first == 0 || second <= first {
		t.Errorf("version %d follows %d", second, first)
	}
}
