//go:build !linux

package worker

// listens takes for granted that what listens on the port is the worker: no way to find out here.
func listens(int, int) bool { return true }

// Exposed is not known on this platform: always false.
func (w *Worker) Exposed() bool { return false }
