package linker

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

const supported = true

// lowest is the nice value of what may wait.
const lowest = 19

// childAttr puts a child into a process group of its own and has it killed when the thread that started it ends.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// lowerPriority has the threads that a process has yield to others.
func lowerPriority(pid int) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, path := range threads {
		if id, err := strconv.Atoi(filepath.Base(path)); err == nil {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, lowest)
		}
	}
}

// lowerThread has the calling thread, and what it starts from now on, yield to others.
func lowerThread() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, lowest) }

// memoryOf gives the bytes that a process holds: what it shares with others in proportion.
func memoryOf(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		var kb int64
		if n, _ := fmt.Sscanf(string(line), "Pss: %d kB", &kb); n == 1 {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("memory of process %d: not in its smaps_rollup", pid)
}

// inode tells a file from one that has taken its place.
func inode(info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

// runs tells whether there is a process.
func runs(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }
