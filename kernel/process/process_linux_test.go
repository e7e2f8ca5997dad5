package process

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestChildDiesWithParent(t *testing.T) {
	parent := start(t, "parent")
	child := parent.pidLine(t)
	if !GroupAlive(child) {
		t.Fatal("the child does not run")
	}
	if err := syscall.Kill(parent.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "child dead after kill -9 of its parent", func() bool { return !GroupAlive(child) })
}

// Every thread that Go may end does end after the start; a parent-death signal bound to one of them would
// kill the child.
func TestChildOutlivesThreads(t *testing.T) {
	c := start(t, "echo")
	endThreads(t, 64)
	io.WriteString(c.in, "still here\n")
	if got := c.line(t); got != "still here" {
		t.Fatalf("read %q", got)
	}
}

// endThreads makes n goroutines take a thread each, idle ones first, and end it with them.
func endThreads(t *testing.T, n int) {
	t.Helper()
	tids := make(chan int, n)
	var taken sync.WaitGroup
	taken.Add(n)
	for range n {
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			tids <- syscall.Gettid()
			taken.Done()
			taken.Wait()
		}()
	}
	for range n {
		tid := <-tids
		if tid == os.Getpid() {
			continue // the main thread is parked instead
		}
		eventually(t, 5*time.Second, "end of a thread", func() bool {
			_, err := os.Stat("/proc/self/task/" + strconv.Itoa(tid))
			return os.IsNotExist(err)
		})
	}
}

func TestStartRetriesBusyBinary(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "page")
	content, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(exe, content, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		writer, err := os.OpenFile(exe, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		time.AfterFunc(2*time.Millisecond, func() { writer.Close(); close(closed) })
		c := exec.Command(exe)
		before := time.Now()
		err = Start(c)
		retried := time.Since(before) >= time.Millisecond
		if err == nil {
			Wait(c, func() {})
		}
		<-closed
		if err == nil && retried {
			return
		}
	}
	t.Fatal("no start in 50 got over a binary that was open for writing for 2 ms")
}

func TestStartGivesUpOnBusyBinary(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "page")
	writer, err := os.OpenFile(exe, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	c := exec.Command(exe)
	if err := Start(c); err == nil || !isBusy(err) {
		t.Fatalf("got %v, want ETXTBSY", err)
	}
}

func TestWaitCallsBackBeforeReaping(t *testing.T) {
	c := start(t, "leaver")
	grandchild := c.pidLine(t)
	pid := c.Process.Pid
	err := Wait(c.Cmd, func() {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("the pid is free already: %v", err)
		}
		if members, err := Members(pid); err != nil || !slices.Equal(members, []int{grandchild}) {
			t.Errorf("members %v (%v), want only the grandchild %d", members, err, grandchild)
		}
		if !GroupAlive(pid) {
			t.Error("a group with a running grandchild counts as dead")
		}
		KillGroup(pid, syscall.SIGKILL)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !AwaitGroup(pid, 5*time.Second, nil) {
		t.Fatal("the grandchild lives on")
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	c := start(t, "none")
	Wait(c.Cmd, func() {
		if GroupAlive(c.Process.Pid) {
			t.Error("a zombie counts as alive")
		}
	})
}

func isBusy(err error) bool {
	pathErr, ok := err.(*os.PathError)
	return ok && pathErr.Err == syscall.ETXTBSY
}
