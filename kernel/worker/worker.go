// Package worker runs one worker: a process of one release of a page, from start over ready to stop.
package worker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/kernel/process"
)

const (
	// outputGrace is how long after the exit something that left the process group may keep the output open.
	outputGrace = 250 * time.Millisecond
	// killLimit bounds the wait for the end after SIGKILL, which only a process stuck in the kernel of the OS outlasts.
	killLimit = 5 * time.Second
	// groupLimit is the same for the processes that the worker has left behind.
	groupLimit = time.Second
)

// ErrKilled is what Stop returns, wrapped, when the grace period was not enough.
var ErrKilled = errors.New("worker: killed after its grace period")

// Stream tells standard output and standard error apart.
type Stream int

const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// String returns "stdout" or "stderr".
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// Spec says what to run and how.
type Spec struct {
	ID      string // for logs and errors, "api#3" for instance
	Page    string // the page's name
	Route   string // the path it is served at
	PageDir string // the directory of its source
	Release string // the release that is started

	Argv []string // program and arguments
	Dir  string   // working directory: the root of the site
	Port int      // what the program has to listen on, at 127.0.0.1; of no meaning with a Socket

	// Socket, unless empty, is the path of the unix socket to listen on: TQ_SOCKET in place of TQ_PORT. Nothing may be
	// there yet, nobody else may be able to write to its directory, and it is removed by whoever gave the path.
	Socket string

	GoMaxProcs   int           // GOMAXPROCS; 0: not set
	GoMemLimit   string        // GOMEMLIMIT; "": not set
	MaxRequests  int           // for the worker's information; 0: no limit
	ReadTimeout  time.Duration // these three reach the worker in whole seconds, rounded up
	WriteTimeout time.Duration
	IdleTimeout  time.Duration
	Grace        time.Duration // time to finish after SIGTERM, in whole milliseconds
	LogFile      string        // for the worker's information; "": none

	// Env holds further variables as NAME=value. They win over what the worker inherits. The names that
	// begin with TQ_ are reserved: entries with such a name are left out.
	Env []string

	// Output, unless nil, gets every line that the worker prints, in order, without its newline, and may
	// keep it. It is called by one goroutine for each stream, so never concurrently for one. Lines of more
	// than 64 KiB come in pieces. While it blocks, a worker that prints is held up; it must return in the end.
	Output func(stream Stream, t time.Time, line []byte)

	// Updated, unless nil, gets what the program has answered to Tell. It is called for one answer at a time, must not
	// block, and must not call Tell.
	Updated func(Update)
}

// Worker is a started worker. Its methods are safe for concurrent use.
type Worker struct {
	spec    Spec
	cmd     *exec.Cmd
	pid     int
	started time.Time
	tail    tail

	ready     *os.File // the kernel's end: Retire and Tell write to it
	news      news
	said      chan struct{} // closed by the byte that says ready
	done      chan struct{} // closed when the process has ended
	delivered chan struct{} // closed when no goroutine of the worker is left
	how       string        // the process ended, in words; valid after done

	mu     sync.Mutex
	reaped bool          // its group's id may belong to a stranger: no more signals
	term   bool          // SIGTERM was sent
	grace  time.Duration // that came with it
	killed chan struct{} // closed when SIGKILL was sent
	late   bool          // because the grace period was over
}

// Start starts the program and returns as soon as it runs; see [Worker.Ready]. The process leads a process group
// and dies with this process. Who starts a worker has to call Stop or Kill, or to wait for Done.
func Start(spec Spec) (*Worker, error) {
	if len(spec.Argv) == 0 {
		return nil, fmt.Errorf("start worker %s: no command given", spec.ID)
	}
	p, err := openPipes()
	if err != nil {
		return nil, fmt.Errorf("start worker %s: %w", spec.ID, err)
	}
	cmd := exec.Command(spec.Argv[0], spec.Argv[1:]...)
	cmd.Dir, cmd.Env = spec.Dir, environ(os.Environ(), spec)
	cmd.Stdout, cmd.Stderr = p.stdout.w, p.stderr.w // and no Stdin: the null device
	cmd.ExtraFiles = []*os.File{p.ready.w}          // the first of them is readyFD in the child
	err = process.Start(cmd)
	p.closeWriters()
	if err != nil {
		p.closeReaders()
		return nil, fmt.Errorf("start worker %s: %w", spec.ID, err)
	}
	w := &Worker{
		spec: spec, cmd: cmd, pid: cmd.Process.Pid, started: time.Now(),
		ready: p.ready.r, said: make(chan struct{}), done: make(chan struct{}), delivered: make(chan struct{}), killed: make(chan struct{}),
	}
	go w.run(p)
	return w, nil
}

// Retire tells a worker that uses the SDK that it gets no further requests, so that handlers that would stay open for
// ever (server-sent events, WebSockets) can end. Requests in flight go on; other programs do not notice. It does not
// block.
func (w *Worker) Retire() {
	w.say("0") // a worker that has closed its end does not listen
}

// ID returns the ID of the Spec.
func (w *Worker) ID() string { return w.spec.ID }

// Port returns the port of the Spec.
func (w *Worker) Port() int { return w.spec.Port }

// PID returns the id of the process, which is the id of its process group as well.
func (w *Worker) PID() int { return w.pid }

// Started returns when the process began to run.
func (w *Worker) Started() time.Time { return w.started }

// Tail returns the last 20 lines of standard error, at most, cut to 1 KiB each. If a line that begins a panic or
// a fatal error has scrolled out, it comes first.
func (w *Worker) Tail() []string { return w.tail.lines() }

// Done returns a channel that is closed when the process and its group have ended and its last lines were
// delivered. Something that left the group and keeps the output open, or a slow Output, delays it by
// 250 ms at most.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Err returns nil until Done is closed, then an error that says how the process ended, even if it ended well.
func (w *Worker) Err() error {
	select {
	case <-w.done:
		return fmt.Errorf("worker %s (pid %d) %s", w.spec.ID, w.pid, w.how)
	default:
		return nil
	}
}

// Stop ends the worker: SIGTERM to its process group, SIGKILL after grace, at once if grace is not positive. It
// blocks until Done is closed and all output was delivered, for at most grace plus 10 s. The error is nil if the
// worker is gone; it wraps [ErrKilled] if grace was not enough; otherwise the process is still there. The call can be
// repeated: SIGTERM is sent once, and the shortest grace counts.
func (w *Worker) Stop(grace time.Duration) error {
	if grace > 0 {
		w.terminate(grace)
		if !within(w.done, grace) {
			w.kill(true)
		}
	} else {
		w.kill(false)
	}
	return w.finish(grace)
}

// Kill sends SIGKILL to the worker's process group and blocks until Done is closed and all output was delivered,
// for at most 10 s.
func (w *Worker) Kill() {
	w.kill(false)
	w.finish(0)
}

// finish waits for the end, which is due.
func (w *Worker) finish(grace time.Duration) error {
	if !within(w.done, killLimit) {
		return fmt.Errorf("stop worker %s: pid %d is still there %v after SIGKILL, probably stuck on a disk or network file system",
			w.spec.ID, w.pid, killLimit)
	}
	within(w.delivered, killLimit)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.late {
		return fmt.Errorf("stop worker %s (pid %d): %w of %v", w.spec.ID, w.pid, ErrKilled, grace)
	}
	return nil
}

func (w *Worker) terminate(grace time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reaped || w.term {
		return
	}
	w.term, w.grace = true, grace
	process.KillGroup(w.pid, syscall.SIGTERM) // an error leaves it to SIGKILL
}

func (w *Worker) kill(late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reaped {
		return
	}
	select {
	case <-w.killed:
	default:
		w.late = late
		close(w.killed)
	}
	process.KillGroup(w.pid, syscall.SIGKILL)
}

// within tells whether c is closed before limit has passed.
func within(c <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}
