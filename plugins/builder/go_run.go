package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pipeLimit  = time.Second     // for output that is still in the pipes when the child is gone
	groupLimit = 5 * time.Second // for the end of killed grandchildren
	textLimit  = 1 << 20         // bytes of a tool's output that are kept
)

// run starts a command in dir and waits for it. When it ends, or ctx does, what is left of its process group is killed.
// The error is that of exec.Cmd.Wait, or of the start.
func run(ctx context.Context, path, dir string, env []string, stdout, stderr io.Writer, args ...string) error {
	runtime.LockOSThread() // the kernel kills the child when the thread that started it ends
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, stdout, stderr
	cmd.Env = append(append(os.Environ(), "PWD="+dir), env...) // PWD: paths come back as they were given, symlinks and all
	cmd.SysProcAttr = childAttr()
	cmd.WaitDelay = pipeLimit
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) { // the command ended, something that it started holds the pipes
		err = nil
	}
	return errors.Join(err, endGroup(cmd.Process.Pid)) // what it left in the background would outlive the server
}

func killGroup(pid int) error {
	if err := syscall.Kill(-pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return os.ErrProcessDone
}

// endGroup kills what is left of a process group and waits until nothing of it runs.
func endGroup(pid int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(groupLimit); time.Now().Before(deadline); <-tick.C {
		if err := killGroup(pid); errors.Is(err, os.ErrProcessDone) || !groupRuns(pid) {
			return nil
		}
	}
	return fmt.Errorf("end process group %d: still there after %v", pid, groupLimit)
}

// output takes the output of a tool, gives each line to line as it comes, and keeps the beginning of it.
type output struct {
	mu   sync.Mutex
	line func(string)
	text strings.Builder
	part []byte
	done bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done {
		return len(p), nil
	}
	if o.text.Len() < textLimit {
		o.text.Write(p)
	}
	o.part = append(o.part, p...)
	for {
		line, rest, ok := bytes.Cut(o.part, []byte("\n"))
		if !ok && len(o.part) < textLimit {
			return len(p), nil
		}
		if s := strings.TrimRight(string(line), "\r"); s != "" {
			o.line(s)
		}
		o.part = rest
	}
}

// close gives the last line and what was kept. Nothing is taken from then on.
func (o *output) close() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.part) > 0 && !o.done {
		o.line(string(o.part))
	}
	o.done = true
	return o.text.String()
}
