package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/tqserver/tqserver/kernel/process"
)

const (
	drainLimit   = 250 * time.Millisecond // for the last lines of a process that exited; another may hold its pipes open
	reapLimit    = time.Second            // for what it started and SIGKILL has ended
	maxHandshake = 8 << 10                // bytes of the first line; it carries a certificate of less than 1 KiB
	maxSocket    = 100                    // bytes of a unix socket's path: 108 on Linux, 104 elsewhere, with a reserve

	// socketName is the longest name that go-plugin gives a socket in its directory: "/plugin" and a random uint32.
	socketName = len("/plugin4294967295")
)

// proc is the process of one plugin: what go-plugin starts instead of a plain command. Its standard input is a pipe
// that the kernel holds open and whose end tells the plugin that the kernel is gone. Of its output go-plugin sees the
// handshake line only, so that its view of the process never waits for somebody who inherited the pipes.
type proc struct {
	spec   *Spec
	out    *output
	onExit func(err error) // called once, when the process that was started has exited

	handshake    *io.PipeReader
	handshakeEnd *io.PipeWriter
	socketDir    string
	cmd          *exec.Cmd
	exited       chan struct{} // closed when the process has exited, and everything of its group was sent SIGKILL
	done         chan struct{} // closed when its output was read as well

	mu                      sync.Mutex
	first                   string // line of stdout
	pid                     int    // 0: not started
	killed, reaped, started bool
	err                     error // of the exit
}

var _ runner.Runner = (*proc)(nil)

func newProc(spec *Spec, log hclog.Logger, onExit func(error)) *proc {
	p := &proc{spec: spec, onExit: onExit, exited: make(chan struct{}), done: make(chan struct{})}
	p.handshake, p.handshakeEnd = io.Pipe()
	p.out = newOutput(log, p.shake)
	p.out.throttle.ended = p.exited
	return p
}

// prepare is go-plugin's RunnerFunc. Of its command only the environment counts; what the plugin was configured with
// cannot override it.
func (p *proc) prepare(_ hclog.Logger, cmd *exec.Cmd, socketDir string) (runner.Runner, error) {
	p.socketDir = socketDir
	if n := len(socketDir) + socketName; n >= maxSocket {
		return nil, fmt.Errorf("the path of its socket in %s would have %d bytes, a unix socket takes less than %d: use a shorter runtime directory", socketDir, n, maxSocket)
	}
	name := p.spec.Path
	if name == selfPath {
		name = "tqserver"
	}
	p.cmd = &exec.Cmd{Path: p.spec.Path, Args: append([]string{name}, p.spec.Args...), Dir: p.spec.Dir,
		Env: append(append([]string{}, p.spec.Env...), cmd.Env...)}
	if p.spec.Stage == "rotator" { // its own stdout is the protocol's
		p.cmd.ExtraFiles = []*os.File{os.Stdout}
		p.cmd.Env = append(p.cmd.Env, stdoutVar+"=3")
	}
	return p, nil
}

// stdoutVar names the descriptor of the kernel's standard output in a rotator's environment. It is passed on as it is:
// only the rotator knows whether it wants to wait for a reader.
const stdoutVar = "TQSERVER_STDOUT_FD"

// shake passes the handshake line on to go-plugin, which reads nothing else, and gets stuck at a line above 64 KiB.
func (p *proc) shake(line []byte) {
	line = line[:min(len(line), maxHandshake)]
	p.mu.Lock()
	p.first = string(line)
	p.mu.Unlock()
	_, _ = fmt.Fprintf(p.handshakeEnd, "%s\n", line)
	p.handshakeEnd.Close()
}

// Start starts the process. After Kill it refuses to.
func (p *proc) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return errors.New("stopped before it was started")
	}
	var child, parent [3]*os.File // stdin, stdout, stderr
	defer func() { closeAll(child[:]) }()
	for i := range child {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(parent[:])
			return err
		}
		child[i], parent[i] = w, r
	}
	child[0], parent[0] = parent[0], child[0]
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = child[0], child[1], child[2]
	if err := process.Start(p.cmd); err != nil {
		closeAll(parent[:])
		return err
	}
	p.started, p.pid = true, p.cmd.Process.Pid
	go p.follow(parent[0], parent[1], parent[2])
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// follow reads the process's output and waits for its end.
func (p *proc) follow(lifeline, stdout, stderr *os.File) {
	defer close(p.done)
	var readers sync.WaitGroup
	readers.Go(func() { _, _ = io.Copy(&p.out.stdout, stdout); p.handshakeEnd.Close() })
	readers.Go(func() { _, _ = io.Copy(&p.out.stderr, stderr) })
	err := process.Wait(p.cmd, p.reap)
	p.mu.Lock()
	p.err = exitError(err, p.killed)
	err = p.err
	p.mu.Unlock()
	close(p.exited)
	p.onExit(err)
	lifeline.Close()
	cut := time.AfterFunc(drainLimit, func() { stdout.Close(); stderr.Close() })
	readers.Wait()
	cut.Stop()
	closeAll([]*os.File{stdout, stderr})
	p.out.flush()
	process.AwaitGroup(p.pid, reapLimit, nil)
}

// reap ends what the process started. It is called while the process's number cannot be given to another.
func (p *proc) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	_ = process.KillGroup(p.pid, syscall.SIGKILL) // the group may be empty
}

// errKilled is the end of a process that the kernel killed.
var errKilled = errors.New("killed by the kernel")

// exitError says how a process ended. killed: SIGKILL was sent to it from here.
func exitError(err error, killed bool) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err != nil {
			return fmt.Errorf("wait for its end: %w", err)
		}
		return errors.New("exited with status 0")
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && status.Signal() == syscall.SIGKILL && killed:
		return errKilled
	case ok && status.Signaled():
		return fmt.Errorf("ended by a signal (%v)", status.Signal())
	}
	return fmt.Errorf("exited with status %d", exit.ExitCode())
}

// signal sends sig to the process and all that it started, if it still runs.
func (p *proc) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sig == syscall.SIGKILL {
		p.killed = true
	}
	if p.started && !p.reaped {
		_ = process.KillGroup(p.pid, sig) // it is our child: nothing but "already gone" can be wrong
	}
}

func (p *proc) kill() { p.signal(syscall.SIGKILL) }

// awaitExit waits for the end of the process, at most that long, and tells why it ended; nil: it still runs, or was
// never started.
func (p *proc) awaitExit(limit time.Duration) error {
	if p.ID() == "" {
		return nil
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// cleanUp waits until a killed process is gone and removes what it left.
func (p *proc) cleanUp() {
	if p.ID() != "" {
		<-p.done
	}
	if p.socketDir != "" {
		_ = os.RemoveAll(p.socketDir) // Sweep takes what cannot be removed now
	}
}

func (p *proc) firstLine() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first
}

// Wait is go-plugin's: it blocks until the process has exited.
func (p *proc) Wait(context.Context) error { <-p.exited; return nil }

// Kill is go-plugin's.
func (p *proc) Kill(context.Context) error { p.kill(); return nil }

// ID is the process id, "" before the start.
func (p *proc) ID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.started {
		return ""
	}
	return strconv.Itoa(p.pid)
}

func (p *proc) Name() string                    { return p.spec.Name }
func (p *proc) Stdout() io.ReadCloser           { return p.handshake }
func (p *proc) Stderr() io.ReadCloser           { return io.NopCloser(strings.NewReader("")) }
func (p *proc) Diagnose(context.Context) string { return "" }

func (p *proc) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }
func (p *proc) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }
