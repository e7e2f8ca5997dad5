package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// fullSocket listens, takes no connection, and has a backlog that is full: the next connection is refused with EAGAIN.
// The listener takes them from then on.
func fullSocket(t *testing.T) (path string, l net.Listener) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tq") // t.TempDir can be too long for a socket
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	must(t, syscall.Listen(fd, 0))
	l, err = net.FileListener(f)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	waiting, err := net.Dial("unix", path) // what a backlog of 0 has room for
	must(t, err)
	t.Cleanup(func() { waiting.Close() })
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		t.Skip("the backlog is not full")
	}
	return path, l
}

// A burst beyond the backlog of a unix socket waits until the worker takes its connections, as one at a port does.
func TestFullBacklogOfASocketIsWaitedFor(t *testing.T) {
	path, l := fullSocket(t)
	accepted := make(chan error, 2)
	time.AfterFunc(20*time.Millisecond, func() {
		for range 2 {
			c, err := l.Accept()
			if err == nil {
				c.Close()
			}
			accepted <- err
		}
	})
	c, err := dialWorker(t.Context(), "unix", path)
	must(t, err)
	c.Close()
	must(t, <-accepted)
	must(t, <-accepted)
}

func TestFullBacklogOfASocketEndsWithTheContext(t *testing.T) {
	path, _ := fullSocket(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if c, err := dialWorker(ctx, "unix", path); !errors.Is(err, context.Canceled) {
		t.Errorf("dial of a full socket: %v, %v", c, err)
	}
}
