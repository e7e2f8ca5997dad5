//go:build !linux

// Command tqbench compares tqserver with other proxies. It reads what the kernel of Linux counts, and runs there only.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "tqbench: error: it needs Linux, whose /proc has the CPU time of a process")
	os.Exit(1)
}
