package worker

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tqserver/tqserver/kernel/process"
)

type pipe struct{ r, w *os.File }

// pipes connect the kernel, at the ends r, with the worker, at the ends w. The one that tells of readiness goes both
// ways: see Retire.
type pipes struct{ stdout, stderr, ready pipe }

func openPipes() (p *pipes, err error) {
	p = &pipes{}
	if p.stdout.r, p.stdout.w, err = os.Pipe(); err == nil {
		if p.stderr.r, p.stderr.w, err = os.Pipe(); err == nil {
			p.ready, err = socketPair()
		}
	}
	if err != nil {
		p.closeReaders()
		p.closeWriters()
		return nil, err
	}
	return p, nil
}

// socketPair gives a pipe for both directions. The kernel's end takes deadlines; the worker's end blocks, as a program
// expects of what it inherits.
func socketPair() (pipe, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return pipe{}, os.NewSyscallError("socketpair", err)
	}
	err = os.NewSyscallError("setnonblock", syscall.SetNonblock(fds[0], true))
	return pipe{os.NewFile(uintptr(fds[0]), "readiness"), os.NewFile(uintptr(fds[1]), "readiness")}, err
}

// closeReaders, like closeWriters, passes over what is closed or was never opened: Close says so and does nothing.
func (p *pipes) closeReaders() {
	p.stdout.r.Close()
	p.stderr.r.Close()
	p.ready.r.Close()
}

func (p *pipes) closeWriters() {
	p.stdout.w.Close()
	p.stderr.w.Close()
	p.ready.w.Close()
}

// run accompanies the process from its start until nothing of it is left.
func (w *Worker) run(p *pipes) {
	defer close(w.delivered)
	defer p.closeReaders()
	read := w.readAll(p)
	process.Wait(w.cmd, w.endGroup)
	process.AwaitGroup(w.pid, groupLimit, nil)
	p.ready.r.SetReadDeadline(time.Now())
	over := time.Now().Add(outputGrace)
	p.stdout.r.SetReadDeadline(over)
	p.stderr.r.SetReadDeadline(over)
	within(read, outputGrace)
	w.how = w.ending()
	close(w.done)
	<-read
}

// endGroup runs when the process has exited and its pid is not free yet. What it leaves behind in its group gets what
// remains of the grace period if the worker was asked to stop, and is killed then.
func (w *Worker) endGroup() {
	w.mu.Lock()
	term, grace := w.term, w.grace
	w.mu.Unlock()
	if term { // Stop closes killed when the time is over
		process.AwaitGroup(w.pid, grace+killLimit, w.killed)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	process.KillGroup(w.pid, syscall.SIGKILL)
	w.reaped = true
}

// readAll reads the three pipes in goroutines; the channel is closed when all have come to their end.
func (w *Worker) readAll(p *pipes) <-chan struct{} {
	var readers sync.WaitGroup
	readers.Go(func() { w.readLines(Stdout, p.stdout.r) })
	readers.Go(func() { w.readLines(Stderr, p.stderr.r) })
	readers.Go(func() { w.listen(p.ready.r) })
	ended := make(chan struct{})
	go func() {
		readers.Wait()
		close(ended)
	}()
	return ended
}

// ending says in words how the process has ended.
func (w *Worker) ending() string {
	status, ok := w.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return fmt.Sprintf("exited with status %d", w.cmd.ProcessState.ExitCode())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := unix.SignalName(status.Signal())
	switch {
	case status.Signal() == syscall.SIGKILL && w.late:
		return "was killed because it did not end within its grace period"
	case status.Signal() == syscall.SIGKILL && isClosed(w.killed):
		return "was killed"
	case status.Signal() == syscall.SIGKILL:
		return "was killed by SIGKILL from outside; if nobody sent it, the machine ran out of memory (see dmesg)"
	case status.Signal() == syscall.SIGTERM && w.term:
		return "ended by SIGTERM, as asked"
	}
	return fmt.Sprintf("was ended by %s (%v)", name, status.Signal())
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
