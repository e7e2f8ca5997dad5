//go:build !linux

package sdk

import "syscall"

// childAttr puts a child into a process group of its own.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// groupRuns is not known here better than by a signal.
func groupRuns(int) bool { return true }
