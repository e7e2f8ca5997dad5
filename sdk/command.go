package sdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pipeLimit  = time.Second     // for output that is still in the pipes when a command is gone
	groupLimit = 5 * time.Second // for the end of what it started
	lineLimit  = 64 << 10        // bytes; a longer line is cut into several
)

// Run runs a command for a Builder, to its end: each line that it prints on standard output or standard error, but for
// empty ones, becomes a Log event. When ctx ends, and when the command has, everything that it started is killed, and is
// gone before Run returns; it also dies with the plugin (on Linux). cmd is as exec.Command makes it. Its Stderr is set
// here, and its Stdout where that is nil; one that is given takes the standard output instead. event is called from one
// goroutine at a time. The error is that of ctx, or tells how the command failed, with the last line of its output; it
// wraps an *exec.ExitError where the command ran.
func Run(ctx context.Context, cmd *exec.Cmd, event func(Event)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	runtime.LockOSThread() // the kernel kills the child when the thread that started it ends
	defer runtime.UnlockOSThread()
	out := &logLines{event: event}
	cmd.Stderr, cmd.SysProcAttr, cmd.WaitDelay = out, childAttr(), pipeLimit
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	pid := cmd.Process.Pid
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-pid, syscall.SIGKILL) })
	err := cmd.Wait()
	stop()
	last := out.close()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the command ended well; what it left behind held the pipes
	}
	if left := endGroup(pid); left != nil {
		return errors.Join(err, left)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && last != "" {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, last)
	} else if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}

// endGroup kills what is left of a process group and waits until nothing of it runs.
func endGroup(pid int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(groupLimit); time.Now().Before(deadline); <-tick.C {
		if err := syscall.Kill(-pid, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) || !groupRuns(pid) {
			return nil
		}
	}
	return fmt.Errorf("end process group %d: still there after %v", pid, groupLimit)
}

// logLines makes a Log event of each line that is written to it.
type logLines struct {
	mu    sync.Mutex
	event func(Event)
	part  []byte
	last  string
	done  bool
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return len(p), nil
	}
	l.part = append(l.part, p...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok && len(l.part) < lineLimit {
			return len(p), nil
		}
		l.emit(line)
		l.part = rest
	}
}

func (l *logLines) emit(line []byte) {
	text := strings.ToValidUTF8(strings.TrimRight(string(line), "\r"), "\uFFFD")
	if text == "" {
		return
	}
	l.last = text
	l.event(Event{Log: text})
}

// close gives the last line. Nothing becomes an event from then on.
func (l *logLines) close() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.emit(l.part)
	}
	l.done = true
	return l.last
}
