package worker

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// takeReadyPipe returns the pipe that TQ_READY_FD names, nil when it is unset.
// It removes the variable and marks the descriptor close-on-exec, because a
// child that held the pipe could keep the kernel waiting or answer for us.
func takeReadyPipe() (*os.File, error) {
	const name, form = "TQ_READY_FD", "the number of an open pipe, 3 or higher"
	value := os.Getenv(name)
	os.Unsetenv(name)
	if value == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 || !isPipe(fd) {
		return nil, malformed(name, value, form)
	}
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil { // so that closing it ends a read
		return nil, fmt.Errorf("worker: prepare the pipe of %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "readiness pipe"), nil
}

func isPipe(fd int) bool {
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		return false
	}
	kind := stat.Mode & syscall.S_IFMT
	return kind == syscall.S_IFIFO || kind == syscall.S_IFSOCK
}

// announce writes the byte that the kernel waits for, and which changes the page
// wants to know of; see changes. A byte '0' that comes back, later, says that the
// worker gets no further requests: Done is closed. The result ends the listening.
func (r *Runtime) announce() (release func(), err error) {
	if r.ready == nil {
		return func() {}, nil
	}
	pipe := r.ready
	r.ready = nil
	if err := r.changes.begin(pipe); err != nil {
		pipe.Close()
		return nil, fmt.Errorf("worker: tell tqserver that page %s is ready: %w", r.Route, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.changes.listen(pipe, r.stop)
	}()
	return func() { pipe.Close(); <-ended }, nil
}
