// Package process starts child processes that do not outlive this one, and signals and reaps them with
// everything they started themselves.
//
// Every child leads a process group of its own, so that one signal reaches its children too, and on Linux
// asks the operating system for SIGKILL when this process dies. A child of a child that leaves the group
// (setsid) is out of reach of both.
package process

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// busyRetries bounds how often Start tries again on ETXTBSY; the waits are 1, 2 and 4 ms.
const busyRetries = 3

// Start starts cmd as the leader of a new process group which, on Linux, gets SIGKILL when this process
// dies. It returns once the program runs, or with the error of [exec.Cmd.Start]. cmd.SysProcAttr is
// completed, not replaced. Standard streams should be nil or *os.File: pipes made by cmd itself do not
// survive a retry. It is safe for concurrent use.
//
// The child gets its standard streams, cmd.ExtraFiles and, on Linux 5.11 and later, no other descriptor: those
// that this process was itself started with are marked close-on-exec at the first Start.
//
// A binary that was written a moment ago can still be open for writing in a process forked meanwhile
// (golang/go#22315). Such an ETXTBSY is tried again three times within 7 ms.
func Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pgid = true, 0
	dieWithParent(cmd.SysProcAttr)
	unstarted := *cmd // a Cmd whose Start was called once, even in vain, refuses a second call
	err := spawn(cmd)
	for try := range busyRetries {
		if !errors.Is(err, syscall.ETXTBSY) {
			break
		}
		time.Sleep(time.Millisecond << try)
		*cmd = unstarted
		err = spawn(cmd)
	}
	return err
}

// Wait blocks until cmd, started by Start, has exited, calls exited, and returns what [exec.Cmd.Wait] returns.
// On Linux exited runs before the process is reaped: until it returns, the pid and the group's id belong to
// cmd, and a signal to the group cannot hit a stranger that got the same number. Elsewhere it runs just after.
func Wait(cmd *exec.Cmd, exited func()) error {
	return wait(cmd, exited)
}

// KillGroup sends sig to every process of the group that pid leads. A group that is gone is no error.
func KillGroup(pid int, sig syscall.Signal) error {
	if pid <= 1 { // kill(-1) would reach every process of the user, kill(0) ourselves
		return fmt.Errorf("signal process group %d: not the group of a child", pid)
	}
	if err := syscall.Kill(-pid, sig); err != nil && err != syscall.ESRCH {
		return fmt.Errorf("signal process group %d with %v: %w", pid, sig, err)
	}
	return nil
}

// GroupAlive tells whether a process of the group that pid leads still runs. On Linux one that has exited but
// was not reaped yet does not count; elsewhere it does.
func GroupAlive(pid int) bool {
	return pid > 1 && syscall.Kill(-pid, 0) != syscall.ESRCH && hasLiveMember(pid)
}

// AwaitGroup blocks until no process of the group that pid leads runs any more, stop is closed (nil: never)
// or limit has passed, and tells whether the group is gone. It polls, every 1 to 20 ms: the operating system
// announces the exit of children only, and members of the group may be children of children.
func AwaitGroup(pid int, limit time.Duration, stop <-chan struct{}) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for pause := time.Millisecond; GroupAlive(pid); pause = min(2*pause, 20*time.Millisecond) {
		select {
		case <-time.After(pause):
		case <-deadline.C:
			return !GroupAlive(pid)
		case <-stop:
			return !GroupAlive(pid)
		}
	}
	return true
}

type request struct {
	cmd    *exec.Cmd
	result chan error
}

// requests leads to the one goroutine that starts every child; the first Start launches it.
var requests = sync.OnceValue(func() chan<- request {
	keepDescriptors()
	c := make(chan request)
	go starter(c)
	return c
})

func spawn(cmd *exec.Cmd) error {
	r := request{cmd, make(chan error, 1)}
	requests() <- r
	return <-r.result
}

// starter never ends, on purpose: the parent-death signal fires when the *thread* that forked ends, not the
// process (golang/go#27505), and Go ends threads as it sees fit unless a goroutine holds them.
func starter(requests <-chan request) {
	runtime.LockOSThread()
	for r := range requests {
		r.result <- r.cmd.Start()
	}
}
