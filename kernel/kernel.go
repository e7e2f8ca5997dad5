// Package kernel proxies requests, leases ports and owns worker processes. Everything that can be done another way is
// done by five stages, which run as plugins: see design in ARCHITECTURE.md.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/dev"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/kernel/spool"
	"github.com/tqserver/tqserver/kernel/stage"
)

// Options is what a kernel is made of.
type Options struct {
	Root    string                         // of the site
	Config  *config.Config                 // as loaded at the start
	Load    func() (*config.Config, error) // reads the configuration again; nil: there is no file to read
	Version string
	Console io.Writer // log and progress for people; nil: quiet
	Color   bool      // Console is a terminal
	// Builtins names the plugins in the binary, for a stage: `tqserver plugin run <stage>/<name>` runs them.
	Builtins func(stage string) []string
	Environ  []string // what workers and plugins may inherit from
	Dev      bool     // for a developer: browsers reload and show errors, and plugins that run in a debugger may be attached to
}

// Kernel is one server. It is made by New and runs once.
type Kernel struct {
	opts     Options
	cfg      atomic.Pointer[config.Config]
	site     *site
	console  *console
	log      hclog.InterceptLogger
	spool    *spool.Spool
	ports    *ports
	proxy    *proxy.Proxy
	stages   *stages
	attached stage.Attached // plugins that are not to be started
	good     *goodReleases
	routes   *routes
	files    *files
	front    *front
	measured atomic.Pointer[front] // the same, once it is there, for who asks while it is made
	dev      *dev.Hub              // nil unless Options.Dev

	targets    notifier      // the set of workers changed
	targetSets atomic.Uint64 // sent so far
	progress   notifier      // the state of a page changed

	started  time.Time
	url      string
	state    atomic.Pointer[string] // starting, serving, stopping
	reloads  sync.Mutex             // one at a time; held until Run has begun
	refused  string                 // stage that kept the last reload from being applied, and can be forced; reloads guards it
	up       context.Context        // of Run: ends when stopping begins
	reloaded atomic.Pointer[control.Outcome]
	stop     context.CancelFunc
	cut      context.Context // ends when requests in flight are to be cut
	cutNow   context.CancelFunc
	listener net.Listener
}

// New opens the site and the server's port. Nothing runs yet. Run closes all of it.
func New(o Options) (*Kernel, error) {
	k := &Kernel{opts: o, started: time.Now()}
	k.cut, k.cutNow = context.WithCancel(context.Background())
	k.cfg.Store(o.Config)
	k.state.Store(ptr("starting"))
	var err error
	if k.site, err = openSite(o.Root, o.Config, true); err != nil {
		return nil, err
	}
	if err := k.open(); err != nil {
		return nil, errors.Join(err, k.site.close())
	}
	k.reloads.Lock()
	return k, nil
}

// open is the part of New that needs the site.
func (k *Kernel) open() (err error) {
	c := k.config()
	if err := k.checkPages(c); err != nil {
		return err
	}
	if k.attached, err = k.readAttached(c); err != nil {
		return err
	}
	if k.listener, err = listen(c.Server); err != nil {
		return err
	}
	k.url = "http://" + shownAddr(c.Server)
	if k.spool, err = newSpool(k); err != nil {
		return errors.Join(err, k.listener.Close())
	}
	k.console = newConsole(k.opts.Console, k.opts.Color)
	k.log = newLogger(k)
	k.ports = newPorts(c.Workers.PortRangeStart, c.Workers.PortRangeEnd)
	k.good = loadGoodReleases(k.site.path("releases.json"))
	k.routes, k.files = newRoutes(), newFiles(k)
	k.proxy = proxy.New(proxy.Options{
		TrustedProxies: func() []netip.Prefix { return k.config().Server.TrustedProxies },
		Timeouts: func() proxy.Timeouts {
			s := k.config().Server
			return proxy.Timeouts{Read: s.ReadTimeout, Write: s.WriteTimeout}
		},
		Log:      newAccessLog(k).write,
		ErrorLog: k.clientTrouble,
	})
	k.warnAttached()
	k.dev = newDev(k)
	if k.stages, err = newStages(k, c); err != nil {
		return errors.Join(err, k.listener.Close(), k.spool.Close())
	}
	return nil
}

// config is the configuration in force. It is never changed, only replaced.
func (k *Kernel) config() *config.Config { return k.cfg.Load() }

// checkPages finds a mistaken pages directory while the user still looks.
func (k *Kernel) checkPages(c *config.Config) error {
	dir := k.site.abs(c.Pages.Directory)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("pages directory %s does not exist: create it, set pages.directory, or make a site with `tqserver new DIR`", dir)
	case err != nil:
		return fmt.Errorf("open pages directory: %w", err)
	case !info.IsDir():
		return fmt.Errorf("pages directory %s is not a directory: set pages.directory", dir)
	}
	return nil
}

func listen(s config.Server) (net.Listener, error) {
	addr := net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	lis, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %d is taken by another process: end it, or set server.port to another one", s.Port)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("no permission to open port %d: ports below 1024 need a capability (`setcap cap_net_bind_service=+ep`), or set server.port to a higher one", s.Port)
	case err != nil:
		return nil, fmt.Errorf("open server port: %w", err)
	}
	return lis, nil
}

// shownAddr is where a person on this machine finds the server.
func shownAddr(s config.Server) string {
	host := s.Host
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "localhost"
	}
	return net.JoinHostPort(host, strconv.Itoa(s.Port))
}

// URL is where the server answers.
func (k *Kernel) URL() string { return k.url }

// Stop begins a graceful shutdown: it returns at once.
func (k *Kernel) Stop() { k.stop() }

// Run serves until ctx ends or Stop is called, then shuts down in order: take no new connections, let requests end,
// stop the workers, then the stages, the log last. hurry, when closed, skips the waiting.
func (k *Kernel) Run(ctx context.Context, hurry <-chan struct{}) error {
	ctx, k.stop = context.WithCancel(ctx)
	defer k.stop()
	defer k.cutNow()
	k.up = ctx
	base, finish := context.WithCancel(context.WithoutCancel(ctx)) // of what lives until the end
	defer finish()

	lives := newLives()
	ctl, scraped, err := k.openSockets()
	if err != nil {
		k.stop()
		k.reloads.Unlock()
		return errors.Join(err, k.listener.Close(), k.spool.Close(), k.site.close())
	}
	lives.start(base, "log", k.shipLogs)
	lives.start(base, "control", func(ctx context.Context) error { return control.Serve(ctx, ctl, k) })
	if scraped != nil {
		lives.start(base, "metrics", func(ctx context.Context) error { return control.ServeMetrics(ctx, scraped, k.Metrics) })
	}
	k.stages.start(base, lives)
	lives.start(base, "checker", k.feedChecker)
	lives.start(base, "resolver", k.feedResolver)
	lives.start(base, "watcher", k.feedWatcher)
	lives.start(base, "reloader", k.reloadChanged)
	lives.start(base, "replacer", k.replaceChanged)
	lives.start(base, "cleaner", k.cleanReleases)
	lives.start(base, "progress", k.showProgress)
	lives.start(base, "traffic", k.sampleTraffic)
	lives.start(base, "scaler", k.scalePages)
	lives.start(base, "garbage", k.tuneGarbage)

	k.front = newFront(k.listener, k.server(), k.acceptFailed)
	k.front.accelerate(k.proxy, k.laneOptions(), func() bool { return k.dev == nil && k.config().Server.FastLane })
	k.measured.Store(k.front)
	k.reloads.Unlock() // all that a reload changes is there
	served := make(chan error, 1)
	k.front.done.Go(func() { served <- k.front.run() })
	k.log.Info("serving "+k.url, "version", k.opts.Version, "pages", k.site.abs(k.config().Pages.Directory), "pid", os.Getpid())

	k.greetDev()

	select {
	case <-ctx.Done():
		err = nil
	case err = <-served:
	}
	return errors.Join(err, k.shutdown(lives, hurry))
}

// server is the front: a request that arrives before the first route table waits for it.
func (k *Kernel) server() *http.Server {
	srv := k.proxy.Server("", func() (time.Duration, time.Duration) {
		s := k.config().Server
		return s.ReadTimeout, s.IdleTimeout
	})
	next := k.devHandler(srv.Handler)
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !k.routes.loaded() {
			k.routes.wait(r.Context(), k.config().Workers.HoldTimeout)
		}
		next.ServeHTTP(w, r)
	})
	return srv
}

// laneOptions are those of the lane in front of the servers, which get what cannot be routed yet.
func (k *Kernel) laneOptions() proxy.LaneOptions {
	return proxy.LaneOptions{
		ReadHeader: func() time.Duration { return k.config().Server.ReadTimeout },
		Idle:       func() time.Duration { return k.config().Server.IdleTimeout },
		Ready:      k.routes.loaded,
	}
}

// clientTrouble is for what goes wrong on single connections. Broken ones are nothing special; a panic is a mistake of ours.
func (k *Kernel) clientTrouble(line string) {
	if strings.Contains(line, "panic serving") {
		k.log.Error(line)
		return
	}
	k.log.Debug(line)
}

func (k *Kernel) acceptFailed(err error) {
	k.log.Error("connections cannot be accepted, trying again", "error", err, "hint", "if there are too many open files, raise the limit (`ulimit -n`)")
}

func (k *Kernel) openControl() (net.Listener, error) {
	path := k.site.run + "/control.sock"
	lis, err := control.Listen(path)
	if err != nil {
		return nil, err
	}
	note := control.Address{PID: os.Getpid(), Socket: path, URL: k.url}
	if err := saveJSON(k.site.path(control.Note), note); err != nil {
		return nil, errors.Join(err, lis.Close())
	}
	return lis, nil
}

// shutdown ends everything in order, within server.shutdown_timeout_seconds.
func (k *Kernel) shutdown(lives *lives, hurry <-chan struct{}) error {
	k.state.Store(ptr("stopping"))
	k.stop()
	k.reloads.Lock() // the one under way has ended, and none begins
	k.reloads.Unlock()
	limit := k.config().Server.ShutdownTimeout
	k.log.Info("stopping: requests in flight may finish", "limit", limit, "hint", "a second signal hurries")
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	defer context.AfterFunc(ctx, k.cutNow)()
	go func() {
		select {
		case <-hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	k.endDev()
	for _, p := range k.routes.list() {
		p.post(p.endStreams)
	}
	if k.front.shutdown(ctx) != nil {
		k.log.Warn("requests in flight are cut")
	}
	lives.end("progress", "traffic", "scaler", "garbage", "cleaner", "reloader", "replacer", "watcher", "resolver")
	k.routes.close()
	err := k.front.close()
	lives.end("checker")
	k.log.Info("stopped", "uptime", time.Since(k.started).Round(time.Second))
	k.stages.end(lives, "watcher", "resolver", "checker", "builder")
	flush, done := context.WithTimeout(context.Background(), 2*time.Second)
	defer done()
	flushed := k.spool.Flush(flush)
	if errors.Is(flushed, context.DeadlineExceeded) {
		flushed = nil // what is left goes to the spill file, for the next start
	}
	lives.end("log")
	k.stages.end(lives, "rotator")
	lives.end("control", "metrics")
	_ = os.Remove(k.site.path(control.Note))
	return errors.Join(err, flushed, k.spool.Close(), k.site.close(), lives.errors())
}

func (k *Kernel) lookupEnv(name string) (string, bool) {
	for _, kv := range k.opts.Environ {
		if n, v, ok := strings.Cut(kv, "="); ok && n == name {
			return v, true
		}
	}
	return "", false
}

var _ control.Kernel = (*Kernel)(nil)
