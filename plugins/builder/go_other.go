//go:build !linux

package builder

import (
	"io/fs"
	"syscall"
	"time"
)

// childAttr puts a child into a process group of its own.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// inode gives the time of the last modification; the number of the file is not known here.
func inode(info fs.FileInfo) (uint64, time.Time) { return 0, info.ModTime() }

// groupRuns is not known here better than by a signal.
func groupRuns(int) bool { return true }

// full is not known here.
func full(string) bool { return false }
