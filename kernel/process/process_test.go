package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		child(os.Args[2])
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/tqserver/tqserver/kernel/process.starter"))
}

// child is what the test binary does when a test starts it.
func child(role string) {
	switch role {
	case "echo": // until stdin ends
		io.Copy(os.Stdout, os.Stdin)
	case "parent": // starts an echo in the background, tells its pid, lives as long
		c := self("echo")
		c.Stdin = os.Stdin // which the test keeps open: its end is not what ends the child
		if err := Start(c); err != nil {
			panic(err)
		}
		fmt.Println(c.Process.Pid)
		Wait(c, func() {})
	case "leaver": // starts an echo in its own group, tells its pid and exits
		c := self("echo")
		c.Stdin = os.Stdin
		if err := c.Start(); err != nil {
			panic(err)
		}
		fmt.Println(c.Process.Pid)
	}
}

func self(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	c := exec.Command(exe, append([]string{"child"}, args...)...)
	c.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // the race detector waits a second at exit
	return c
}

// started is a running child whose standard streams the test holds.
type started struct {
	*exec.Cmd
	in  *os.File
	out *bufio.Reader
}

func start(t *testing.T, role string) *started {
	t.Helper()
	c := self(role)
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdin, c.Stdout, c.Stderr = inR, outW, os.Stderr
	err = Start(c)
	inR.Close()
	outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		inW.Close()
		if c.ProcessState == nil {
			Wait(c, func() { KillGroup(c.Process.Pid, syscall.SIGKILL) })
		}
		outR.Close()
	})
	outR.SetReadDeadline(time.Now().Add(10 * time.Second))
	return &started{c, inW, bufio.NewReader(outR)}
}

func (s *started) line(t *testing.T) string {
	t.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatalf("read from the child: %v", err)
	}
	return strings.TrimSpace(line)
}

func (s *started) pidLine(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(s.line(t))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// eventually polls a fact about another process.
func eventually(t *testing.T, limit time.Duration, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !fact(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func TestStartLeadsItsOwnGroup(t *testing.T) {
	c := start(t, "echo")
	pgid, err := syscall.Getpgid(c.Process.Pid)
	if err != nil || pgid != c.Process.Pid {
		t.Fatalf("group %d (%v), want the pid %d", pgid, err, c.Process.Pid)
	}
	if !GroupAlive(c.Process.Pid) {
		t.Fatal("a running group counts as dead")
	}
}

func TestStartReportsItsError(t *testing.T) {
	err := Start(exec.Command(filepath.Join(t.TempDir(), "missing")))
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v, want not found", err)
	}
}

func TestStartConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c := self("none")
			if err := Start(c); err != nil {
				t.Error(err)
				return
			}
			if err := Wait(c, func() {}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestKillGroup(t *testing.T) {
	for _, pid := range []int{-7, 0, 1} {
		if err := KillGroup(pid, 0); err == nil {
			t.Errorf("KillGroup(%d) is accepted", pid)
		}
		if GroupAlive(pid) {
			t.Errorf("GroupAlive(%d)", pid)
		}
	}
	c := start(t, "echo")
	if err := KillGroup(c.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var status *exec.ExitError
	if err := Wait(c.Cmd, func() {}); !errors.As(err, &status) || status.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Fatalf("ended with %v, want SIGTERM", err)
	}
	if err := KillGroup(c.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatalf("signal to a group that is gone: %v", err)
	}
}

func TestAwaitGroup(t *testing.T) {
	c := start(t, "echo")
	pid := c.Process.Pid
	if AwaitGroup(pid, 5*time.Millisecond, nil) {
		t.Fatal("a running group is gone")
	}
	stop := make(chan struct{})
	close(stop)
	if AwaitGroup(pid, time.Hour, stop) {
		t.Fatal("a running group is gone")
	}
	c.in.Close()
	Wait(c.Cmd, func() {})
	if !AwaitGroup(pid, 10*time.Second, nil) {
		t.Fatal("the group is still there")
	}
}
