package stagetest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// relatives gives the running processes of a group, and those whose environment contains mark.
func relatives(group int, mark string) []int {
	names, _ := filepath.Glob("/proc/[0-9]*")
	var found []int
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(name + "/stat")
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // state, parent, group: proc_pid_stat(5)
		if err != nil || len(fields) < 3 || bytes.ContainsAny(fields[0], "ZXx") {
			continue
		}
		environ, _ := os.ReadFile(name + "/environ") // of another user: unreadable
		if string(fields[2]) == strconv.Itoa(group) || mark != "" && bytes.Contains(environ, []byte(mark)) {
			found = append(found, pid)
		}
	}
	return found
}

// descriptors counts the open files of a process; false: that cannot be told here.
func descriptors(pid int) (int, bool) {
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	return len(entries), err == nil
}

// listeners gives the sockets on which a process listens, by inode, with their addresses.
func listeners(pid int) map[string]string {
	dir := "/proc/" + strconv.Itoa(pid)
	listening := map[string]string{}
	for file, column := range map[string]struct {
		flag  string
		at    int
		inode int
		addr  int
	}{"tcp": {"0A", 3, 9, 1}, "tcp6": {"0A", 3, 9, 1}, "unix": {"00010000", 3, 6, 7}} {
		table, _ := os.ReadFile(dir + "/net/" + file)
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			if len(f) > max(column.at, column.inode) && f[column.at] == column.flag {
				listening[f[column.inode]] = file + " " + strings.Join(f[min(column.addr, len(f)-1):min(column.addr+1, len(f))], "")
			}
		}
	}
	own := map[string]string{}
	names, _ := filepath.Glob(dir + "/fd/*")
	for _, name := range names {
		target, _ := os.Readlink(name)
		inode := strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")
		if addr, ok := listening[inode]; ok {
			own[inode] = addr
		}
	}
	return own
}
