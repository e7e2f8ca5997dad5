package process

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Members returns the pids of the running processes of the group that pid leads, that process first.
// Without a readable /proc it fails.
func Members(pid int) ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var members []int
	for _, name := range names {
		id, err := strconv.Atoi(name)
		if err != nil || !runsIn(pid, name) {
			continue
		}
		members = append(members, id)
		if last := len(members) - 1; id == pid {
			members[0], members[last] = members[last], members[0]
		}
	}
	return members, nil
}

// runsIn tells whether the process is of the group and neither a zombie nor dead. The fields that follow
// the name, which is in parentheses and may hold anything, are: state, parent, group (proc_pid_stat(5)).
func runsIn(group int, process string) bool {
	stat, err := os.ReadFile("/proc/" + process + "/stat")
	if err != nil {
		return false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 3 || string(fields[2]) != strconv.Itoa(group) {
		return false
	}
	return !bytes.ContainsAny(fields[0], "ZXx")
}

func hasLiveMember(pid int) bool {
	members, err := Members(pid)
	return err != nil || len(members) > 0
}

// keepDescriptors makes all descriptors close-on-exec but the standard ones. Go opens its own like that; what is
// left is what a shell or an init system has leaked into this process. Older kernels cannot do it at once.
func keepDescriptors() { unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) }

func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

func wait(cmd *exec.Cmd, exited func()) error {
	for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	exited()
	return cmd.Wait()
}
