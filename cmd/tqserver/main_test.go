//go:build linux

package main

import (
	"os"
	"syscall"
	"testing"
)

// TestMain lets the test binary be tqserver itself, race detector included: the server that a test starts runs its
// plugins by executing itself again, just as the real binary does. It can also be the program of a page.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_BE_PAGE") != "" {
		bePage()
	}
	if os.Getenv("TQSERVER_TEST_BE_SERVER") != "" || len(os.Args) > 2 && os.Args[1] == "plugin" {
		code := execute(os.Args[1:], os.Stdout, os.Stderr)
		// os.Exit would have the race detector sleep for a second, in each of the processes of each test. What it
		// finds is printed when it happens.
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(code), 0, 0)
	}
	code := m.Run()
	os.RemoveAll(standinDir)
	os.Exit(code)
}
