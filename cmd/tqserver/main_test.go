//go:build linux

package main

import (
	"os"
	"testing"
)

// TestMain lets the test binary be tqserver itself, race detector included: the server that a test starts runs its
// plugins by executing itself again, just as the real binary does.
func TestMain(m *testing.M) {
	if os.Getenv("TQSERVER_TEST_BE_SERVER") != "" || len(os.Args) > 2 && os.Args[1] == "plugin" {
		os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}
