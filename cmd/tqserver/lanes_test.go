//go:build linux

package main

import (
	"os"
	"strconv"
	"testing"
)

// lane is a way through the kernel that must keep every promise, and the YAML that it takes.
type lane struct {
	name   string
	server string
	page   string // of workers.default
}

func lanes() []lane {
	return []lane{{name: "standard", server: "fast_lane: false"}, {name: "fast", server: "fast_lane: true"}}
}

// waysToWorkers are the lanes, and other ways in which a page can have its workers.
func waysToWorkers() []lane {
	return append(lanes(), lane{name: "two workers", page: "instances: 2"}, lane{name: "unix sockets", page: "endpoint: unix"})
}

// eachLane runs a test once in each lane.
func eachLane(t *testing.T, run func(t *testing.T, l lane)) {
	t.Helper()
	eachOf(t, lanes(), run)
}

func eachOf(t *testing.T, ways []lane, run func(t *testing.T, l lane)) {
	t.Helper()
	for _, l := range ways {
		t.Run(l.name, func(t *testing.T) { run(t, l) })
	}
}

// amount is the number in an environment variable, or a default for `make test`.
func amount(t *testing.T, variable string, small int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return small
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s: %q is not a number above 0", variable, text)
	}
	return n
}
