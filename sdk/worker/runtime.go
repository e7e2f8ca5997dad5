// Package worker is what a page imports to run under tqserver: it reads the
// environment that the kernel sets, listens where the kernel expects it, says
// when it is ready, and finishes its requests when it is told to stop.
//
//	func main() {
//		runtime, err := worker.NewRuntime()
//		if err != nil {
//			log.Fatal(err)
//		}
//		http.HandleFunc("/", hello)
//		if err := runtime.StartServer(http.DefaultServeMux); err != nil {
//			log.Fatal(err)
//		}
//	}
//
// The kernel forwards the full path: a page at /api sees /api/echo as it is.
//
// The package imports the standard library only, and of that nothing but
// net/http and what net/http imports anyway, plus os/signal: every import here
// is link time between saving a page and seeing it.
package worker

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Runtime is one page's worker: its settings, and the server that StartServer
// runs. Make it with NewRuntime; the fields may be changed until StartServer is
// called. All methods are safe for concurrent use.
type Runtime struct {
	Socket          string // path of the unix socket to listen on (TQ_SOCKET); "" = listen on Port
	Port            int    // loopback port to listen on (TQ_PORT; 9000 when unset)
	MaxRequests     int    // requests until the kernel replaces this worker (TQ_MAX_REQUESTS); 0 = no limit
	ReadTimeout     int    // seconds for request headers, or IdleTimeout if longer (TQ_READ_TIMEOUT_SECONDS; 30); 0 = none
	WriteTimeout    int    // seconds, enforced by the kernel, not here (TQ_WRITE_TIMEOUT_SECONDS; 30); 0 = none
	IdleTimeout     int    // seconds an unused connection is kept (TQ_IDLE_TIMEOUT_SECONDS; 120); 0 = for ever
	ShutdownTimeout int    // milliseconds for requests in flight after SIGTERM (TQ_SHUTDOWN_GRACE_PERIOD_MS; 500)
	LogFile         string // where the kernel writes this worker's stdout and stderr (TQ_LOG_FILE); "" = nowhere

	Route   string // the page's route, such as /api (TQ_ROUTE; / when unset)
	Page    string // the page's name (TQ_PAGE)
	PageDir string // the directory that holds the page's source (TQ_PAGE_DIR)
	Release string // the name of the running build (TQ_RELEASE)

	ready    *os.File // the kernel's readiness pipe; nil without one
	requests atomic.Int64
	flight   flight
	changes  changes

	doneOnce, stopOnce sync.Once
	done               chan struct{}
}

// NewRuntime reads the TQ_* variables. An unset or empty one gets its default;
// a malformed one is an error that names the variable, its value and what is
// expected instead. Without TQ_SOCKET and TQ_PORT the program was started by
// hand: it gets port 9000, and a line on stderr says so.
//
// Call it once and early, before starting other processes: it takes over the
// readiness pipe (TQ_READY_FD) and removes the variable, so that no child
// inherits either.
func NewRuntime() (*Runtime, error) {
	ready, readyErr := takeReadyPipe()
	var env environment
	r := &Runtime{
		Socket:          os.Getenv("TQ_SOCKET"),
		Port:            env.number("TQ_PORT", defaultPort, 1, 65535, "a port number from 1 to 65535"),
		MaxRequests:     env.count("TQ_MAX_REQUESTS", 0, "a number of requests, 0 for no limit"),
		ReadTimeout:     env.count("TQ_READ_TIMEOUT_SECONDS", 30, "whole seconds, 0 for none"),
		WriteTimeout:    env.count("TQ_WRITE_TIMEOUT_SECONDS", 30, "whole seconds, 0 for none"),
		IdleTimeout:     env.count("TQ_IDLE_TIMEOUT_SECONDS", 120, "whole seconds, 0 for none"),
		ShutdownTimeout: env.count("TQ_SHUTDOWN_GRACE_PERIOD_MS", 500, "whole milliseconds"),
		LogFile:         os.Getenv("TQ_LOG_FILE"),
		Route:           env.text("TQ_ROUTE", "/"),
		Page:            os.Getenv("TQ_PAGE"),
		PageDir:         os.Getenv("TQ_PAGE_DIR"),
		Release:         os.Getenv("TQ_RELEASE"),
		ready:           ready,
	}
	if err := env.err(readyErr); err != nil {
		if ready != nil {
			ready.Close()
		}
		return nil, err
	}
	if os.Getenv("TQ_PORT") == "" && r.Socket == "" {
		fmt.Fprintf(os.Stderr, "worker: TQ_PORT is not set, so not started by tqserver: serving on http://127.0.0.1:%d\n", r.Port)
	}
	return r, nil
}

// StartServer listens on Socket or, without one, on 127.0.0.1:Port, tells the
// kernel that it is ready, and serves handler (nil means http.DefaultServeMux) until SIGTERM or SIGINT. Then
// it accepts no more connections, lets requests in flight finish for at most
// ShutdownTimeout, and returns nil; a second signal ends the wait. Any other
// end is an error. Call it once.
//
// GET /health is answered with 200 and "OK" when handler is a *http.ServeMux
// that has no pattern for /health of its own; with any other handler the page
// answers it.
//
// The peer of every connection is the kernel, on this machine: Request.RemoteAddr
// has a loopback address, with the port 0 on a Socket. Who the client is says the
// header X-Forwarded-For.
//
// Live streams are never cut: there is no read timeout for bodies and no write
// timeout, because a worker cannot tell a stalled client from a slow one behind
// the kernel's proxy. The kernel, which sees the client, enforces both.
func (r *Runtime) StartServer(handler http.Handler) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)

	listener, err := r.listen()
	if err != nil {
		return fmt.Errorf("worker: listen for page %s: %w", r.Route, err)
	}
	release, err := r.announce()
	if err != nil {
		listener.Close()
		return err
	}
	defer release()
	server := r.server(handler)
	defer server.Close()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	select {
	case err := <-served:
		return fmt.Errorf("worker: serve page %s on %s: %w", r.Route, listener.Addr(), err)
	case <-signals:
	}
	r.stop()
	listener.Close()
	<-served
	r.drain(signals)
	return nil
}

// GetRequestCount is the number of requests begun so far, not counting /health.
func (r *Runtime) GetRequestCount() int32 {
	return int32(min(r.requests.Load(), 1<<31-1))
}

// ShouldShutdown reports whether MaxRequests is reached. It is information
// only: a worker never ends by itself because of it, as the kernel counts too
// and starts a replacement before it stops this one.
func (r *Runtime) ShouldShutdown() bool {
	return r.MaxRequests > 0 && r.requests.Load() >= int64(r.MaxRequests)
}

// Done is closed when the worker gets no further requests: a newer release has
// taken over, or it has been told to stop. Handlers that stay open (server-sent
// events, WebSockets) should return then, so that their clients reconnect to
// the next release at once; the others can ignore it.
func (r *Runtime) Done() <-chan struct{} {
	r.doneOnce.Do(func() { r.done = make(chan struct{}) })
	return r.done
}

func (r *Runtime) stop() {
	r.Done()
	r.stopOnce.Do(func() { close(r.done) })
}

func (r *Runtime) stopping() bool {
	select {
	case <-r.Done():
		return true
	default:
		return false
	}
}

func (r *Runtime) listen() (net.Listener, error) {
	if r.Socket != "" {
		return net.Listen("unix", r.Socket)
	}
	return net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port)))
}

// server leaves ReadTimeout and WriteTimeout unset; see StartServer.
func (r *Runtime) server(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           r.serve(withHealth(handler)),
		ReadHeaderTimeout: r.headerTimeout(),
		IdleTimeout:       seconds(r.IdleTimeout),
		ConnState:         r.flight.connState,
		ErrorLog:          log.New(os.Stderr, "", 0),
	}
}

// headerTimeout is never shorter than IdleTimeout. net/http starts this clock
// when a connection is accepted, not at the first byte of a request, and the
// kernel opens connections ahead of need; it is the kernel that ends unused
// ones, since a worker that does so loses the request that is on its way.
func (r *Runtime) headerTimeout() time.Duration {
	if r.ReadTimeout == 0 || r.IdleTimeout == 0 {
		return 0
	}
	return seconds(max(r.ReadTimeout, r.IdleTimeout))
}

// serve counts requests, and while draining asks clients to reconnect
// elsewhere for the next one.
func (r *Runtime) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != healthPath {
			r.requests.Add(1)
		}
		if r.Socket != "" {
			req.RemoteAddr = "127.0.0.1:0" // net/http says "@", which is no address
		}
		if r.stopping() {
			w.Header().Set("Connection", "close")
		}
		r.flight.enter()
		defer r.flight.leave()
		next.ServeHTTP(w, req)
	})
}

// drain waits until nothing is in flight, the grace period is over or a
// further signal comes.
func (r *Runtime) drain(signals <-chan os.Signal) {
	grace := time.NewTimer(time.Duration(r.ShutdownTimeout) * time.Millisecond)
	defer grace.Stop()
	select {
	case <-r.flight.landed():
	case <-grace.C:
	case <-signals:
	}
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }
