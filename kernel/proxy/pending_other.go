//go:build !linux

package proxy

// bytesPending cannot tell here; answers are then flushed before each read and
// copied instead of spliced.
func bytesPending(int) (int, error) { return 0, nil }
