//go:build linux

package main

import (
	"bytes"
	"os"
	"strconv"
	"testing"

	"github.com/tqserver/tqserver/config"
)

// lane is a way through the kernel that must keep every promise, and the YAML that it takes.
type lane struct {
	name    string
	server  string
	workers string
	page    string // of workers.default
}

// lanes are those that the configuration knows. A key of it is found by its name.
func lanes() []lane {
	if !hasKey("fast_lane") {
		return []lane{{name: "standard"}}
	}
	return []lane{{name: "standard", server: "fast_lane: false"}, {name: "fast", server: "fast_lane: true"}}
}

// hasKey reports whether the configuration that is shipped has a key of this name.
func hasKey(name string) bool { return bytes.Contains(config.DefaultYAML, []byte("\n  "+name+": ")) }

// waysToWorkers are the lanes, and other ways in which a page can have its workers, on the last of the lanes.
func waysToWorkers() []lane {
	all := lanes()
	last := all[len(all)-1]
	if hasKey("  instances") {
		all = append(all, lane{name: "two workers", server: last.server, page: "instances: 2"})
	}
	if hasKey("endpoint") {
		all = append(all, lane{name: "unix sockets", server: last.server, workers: "endpoint: unix\n"})
	}
	return all
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
