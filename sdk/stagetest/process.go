package stagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin/runner"
)

const (
	maxLines     = 4096        // that are kept of an output; the last ones
	maxHandshake = 8 << 10     // bytes of the first line of stdout that go-plugin gets
	maxSocket    = 100         // bytes of the path of a unix socket
	pipeGrace    = time.Second // for the last output of a process that has exited
)

// process is the process of a plugin, started as the kernel does: leader of a process group, standard input a pipe
// whose end means that the kernel is gone, output read to the end.
type process struct {
	cmd       *exec.Cmd
	socketDir string
	lifeline  *os.File
	server    *os.File // standard output of the server, for a rotator

	handshake    *io.PipeReader
	handshakeEnd *io.PipeWriter
	stdout       lines
	stderr       lines

	id     atomic.Int64  // 0: not started
	exited chan struct{} // closed when the process has been reaped
	done   chan struct{} // closed when its output was read as well
	err    error         // of the exit; read it after exited
}

var _ runner.Runner = (*process)(nil)

func newProcess(p Plugin, dir string, env []string) *process {
	r := &process{exited: make(chan struct{}), done: make(chan struct{})}
	r.handshake, r.handshakeEnd = io.Pipe()
	r.stdout.first = r.shake
	r.cmd = &exec.Cmd{Path: p.Path, Args: append([]string{p.Path}, p.Args...), Dir: dir, Env: env}
	return r
}

// prepare is go-plugin's RunnerFunc.
func (p *process) prepare(_ hclog.Logger, cmd *exec.Cmd, socketDir string) (runner.Runner, error) {
	p.socketDir = socketDir
	if len(socketDir)+len("/plugin4294967295") >= maxSocket {
		return nil, fmt.Errorf("the path of a socket in %s would be too long: set TMPDIR to a shorter directory", socketDir)
	}
	p.cmd.Env = append(slices.Clone(p.cmd.Env), cmd.Env...)
	return p, nil
}

func (p *process) shake(line []byte) {
	line = line[:min(len(line), maxHandshake)]
	_, _ = fmt.Fprintf(p.handshakeEnd, "%s\n", line)
	p.handshakeEnd.Close()
}

// Start starts the process. The goroutine that does keeps its thread until the process has ended: the parent-death
// signal is bound to the thread.
func (p *process) Start(context.Context) error {
	var files [6]*os.File // read and write ends of stdin, stdout and stderr
	for i := 0; i < len(files); i += 2 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(files[:])
			return err
		}
		files[i], files[i+1] = r, w
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = files[0], files[3], files[5]
	if p.server != nil {
		p.cmd.ExtraFiles = []*os.File{p.server} // descriptor 3
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(p.cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		closeAll([]*os.File{files[0], files[3], files[5]})
		if err != nil {
			closeAll([]*os.File{files[1], files[2], files[4]})
			p.handshakeEnd.Close()
			close(p.exited)
			close(p.done)
			started <- err
			return
		}
		p.lifeline = files[1]
		p.id.Store(int64(p.cmd.Process.Pid))
		started <- nil
		p.follow(files[2], files[4])
	}()
	return <-started
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (p *process) follow(stdout, stderr *os.File) {
	defer close(p.done)
	var readers sync.WaitGroup
	readers.Go(func() { _, _ = io.Copy(&p.stdout, stdout); p.handshakeEnd.Close() })
	readers.Go(func() { _, _ = io.Copy(&p.stderr, stderr) })
	p.err = p.cmd.Wait()
	close(p.exited)
	cut := time.AfterFunc(pipeGrace, func() { stdout.Close(); stderr.Close() }) // somebody else may hold them open
	readers.Wait()
	cut.Stop()
	closeAll([]*os.File{stdout, stderr})
	p.lifeline.Close()
}

// pid is the number of the process, 0 before the start.
func (p *process) pid() int { return int(p.id.Load()) }

// signal sends sig to the process alone.
func (p *process) signal(sig syscall.Signal) error {
	if p.pid() == 0 || p.gone() {
		return errors.New("the process has ended")
	}
	return syscall.Kill(p.pid(), sig)
}

// killAll ends the process, its group and whatever else it started, and waits.
func (p *process) killAll() {
	if p.pid() == 0 {
		return
	}
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL) // the group may be empty
	<-p.done
	for _, pid := range p.left() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (p *process) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// left gives the processes that the plugin started and that still run. They are known by their group, and by a
// directory in their environment that is the plugin's alone.
func (p *process) left() []int {
	if p.pid() == 0 {
		return nil
	}
	return slices.DeleteFunc(relatives(p.pid(), p.socketDir), func(pid int) bool { return pid == p.pid() })
}

// ending says how the process ended.
func (p *process) ending() string {
	if p.err == nil {
		return "exited with status 0"
	}
	return p.err.Error()
}

func (p *process) Wait(context.Context) error { <-p.exited; return nil }

func (p *process) Kill(context.Context) error {
	if p.pid() != 0 && !p.gone() {
		_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	}
	return nil
}

func (p *process) ID() string                                                 { return strconv.Itoa(p.pid()) }
func (p *process) Name() string                                               { return p.cmd.Path }
func (p *process) Stdout() io.ReadCloser                                      { return p.handshake }
func (p *process) Stderr() io.ReadCloser                                      { return io.NopCloser(strings.NewReader("")) }
func (p *process) Diagnose(context.Context) string                            { return "" }
func (p *process) PluginToHost(n, a string) (network, addr string, err error) { return n, a, nil }
func (p *process) HostToPlugin(n, a string) (network, addr string, err error) { return n, a, nil }

// lines keeps what is written to it, line by line.
type lines struct {
	first func(line []byte) // gets the first line
	mu    sync.Mutex
	rest  []byte
	all   []string
	n     int // lines so far
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		line, after, found := bytes.Cut(l.rest, []byte{'\n'})
		if !found {
			return len(b), nil
		}
		if l.n == 0 && l.first != nil {
			l.first(line)
		}
		l.n++
		l.all = append(l.all, string(line))
		if len(l.all) > maxLines {
			l.all = l.all[1:]
		}
		l.rest = after
	}
}

// get gives the lines so far; what has no newline at its end yet is the last one.
func (l *lines) get() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		return append(slices.Clone(l.all), string(l.rest))
	}
	return slices.Clone(l.all)
}

func (l *lines) last(n int) []string {
	all := l.get()
	return all[max(0, len(all)-n):]
}

// describeAll names processes by number and program.
func describeAll(pids []int) string {
	names := make([]string, len(pids))
	for i, pid := range pids {
		names[i] = strconv.Itoa(pid)
		if comm, err := os.ReadFile("/proc/" + names[i] + "/comm"); err == nil {
			names[i] += " (" + strings.TrimSpace(string(comm)) + ")"
		}
	}
	return "process " + strings.Join(names, ", ")
}
