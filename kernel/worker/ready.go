package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	firstPause   = 500 * time.Microsecond // between two looks at /health, growing to
	longestPause = 50 * time.Millisecond
	healthLimit  = 2 * time.Second // for one answer of /health
)

// ErrExited is what Ready returns, wrapped, when the process has ended before it was ready.
var ErrExited = errors.New("worker: exited before it was ready")

// errStranger says that what listens on the port is not the worker.
var errStranger = errors.New("worker: another process listens on the port")

// NotReadyError is the error of Ready.
type NotReadyError struct {
	ID     string   // of the worker
	Reason string   // what was seen, in words
	Tail   []string // what Worker.Tail returned
	Err    error    // ErrExited, the cause of the context's end, or what is wrong with the socket
}

func (e *NotReadyError) Error() string {
	text := fmt.Sprintf("start worker %s: %s", e.ID, e.Reason)
	if len(e.Tail) > 0 {
		text += "; last on stderr:\n\t" + strings.Join(e.Tail, "\n\t")
	}
	return text
}

// Unwrap returns Err.
func (e *NotReadyError) Unwrap() error { return e.Err }

// Ready blocks until the worker is ready to serve and returns nil, or a [*NotReadyError] when its process has ended
// (wraps [ErrExited]) or ctx has (wraps its cause). Give ctx a deadline: there is none here.
//
// A worker is ready when it writes a byte to the descriptor named by TQ_READY_FD, or when GET /health on its port or
// socket is answered with 200. On Linux that answer counts only if what listens on the port belongs to a process of the
// worker's group; nothing is ever sent to another one. Elsewhere, and of a socket, that is taken for granted: nobody
// else knows its path. A worker that says that it is ready and has not made its socket never will: that is an error at
// once. From then on only this user can connect to the socket.
func (w *Worker) Ready(ctx context.Context) error {
	polling, stop := context.WithCancel(ctx)
	h := newHealth(w)
	healthy := make(chan struct{})
	var poller sync.WaitGroup
	poller.Go(func() {
		if h.poll(polling) {
			close(healthy)
		}
	})
	defer poller.Wait() // the last of the three
	defer h.client.CloseIdleConnections()
	defer stop()
	select {
	case <-w.done:
	case <-w.said:
	case <-healthy:
	case <-ctx.Done():
	}
	return w.verdict(ctx, healthy, h)
}

// verdict tells what has happened; of several things the one that matters most.
func (w *Worker) verdict(ctx context.Context, healthy <-chan struct{}, h *health) error {
	switch {
	case isClosed(w.done):
		return &NotReadyError{w.spec.ID, "it " + w.how + " before it was ready" + w.missedPort(), w.Tail(), ErrExited}
	case isClosed(w.said), isClosed(healthy):
		return w.guardSocket()
	}
	cause := context.Cause(ctx)
	reason := fmt.Sprintf("not ready in time (%v): %s; %s", cause, h.last(), w.duty())
	return &NotReadyError{w.spec.ID, reason, w.Tail(), cause}
}

// health asks a worker for its health.
type health struct {
	pid    int
	port   int
	socket string // "": it is at the port
	addr   string // for people, too
	client *http.Client

	answered atomic.Bool
	mu       sync.Mutex
	seen     string // most recently, in words
}

func (h *health) unanswered() string { return "GET /health on " + h.addr + " is not answered" }

func newHealth(w *Worker) *health {
	h := &health{pid: w.pid, port: w.spec.Port, socket: w.spec.Socket, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(w.spec.Port))}
	if h.socket != "" {
		h.addr = h.socket
	}
	h.seen = "nothing listens on " + h.addr
	h.client = &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: h.dial}, // and no proxy from the environment
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       healthLimit,
	}
	return h
}

// dial connects to the worker and to nobody else.
func (h *health) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	if h.socket != "" {
		network = "unix"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, h.addr)
	if err != nil {
		return nil, err
	}
	if h.socket == "" && !listens(h.pid, h.port) {
		conn.Close()
		return nil, errStranger
	}
	if !h.answered.Load() { // or what it said counts more than that ctx ended in the midst of the next answer
		h.saw(h.unanswered())
	}
	return conn, nil
}

// poll asks until the answer is 200 or ctx ends.
func (h *health) poll(ctx context.Context) bool {
	for pause := firstPause; ; pause = min(pause*5/4, longestPause) {
		if h.ask(ctx) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (h *health) ask(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url(), nil)
	if err != nil {
		h.saw(err.Error())
		return false
	}
	resp, err := h.client.Do(req)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		h.saw("nothing listens on " + h.addr)
	case errors.Is(err, errStranger):
		h.saw(fmt.Sprintf("%s belongs to another process, which `ss -ltnp` shows", h.addr))
	case err != nil && ctx.Err() != nil: // says nothing about the worker
	case err != nil && isTimeout(err):
		h.saw(h.unanswered())
	case err != nil:
		h.saw(err.Error())
	}
	if err != nil {
		return false
	}
	resp.Body.Close()
	h.answered.Store(true)
	h.saw(fmt.Sprintf("GET /health on %s answered %s", h.addr, resp.Status))
	return resp.StatusCode == http.StatusOK
}

func (h *health) url() string {
	if h.socket != "" {
		return "http://localhost/health"
	}
	return "http://" + h.addr + "/health"
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

func (h *health) saw(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = what
}

func (h *health) last() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen
}
