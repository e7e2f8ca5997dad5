//go:build !linux

package linker

import (
	"errors"
	"io/fs"
	"syscall"
)

// supported: elsewhere a process cannot be made to end with the one that started it.
const supported = false

func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func lowerPriority(int) {}

func lowerThread() {}

func memoryOf(int) (int64, error) { return 0, errors.ErrUnsupported }

func inode(fs.FileInfo) uint64 { return 0 }

func runs(int) bool { return true }
