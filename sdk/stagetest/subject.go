package stagetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/sdk"
)

const (
	startLimit = 5 * time.Second // from the start to the handshake
	exitGrace  = time.Second     // from the loss of the connection to the end of the process, if that is why
)

// inherited is what a plugin gets of the environment, as from the kernel; a "*" at the end stands for anything.
var (
	inherited          = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "TMPDIR", "SSL_CERT_*"}
	inheritedByBuilder = []string{"GO*", "CGO_*", "CC", "CXX", "PKG_CONFIG*", "XDG_CACHE_HOME", "HTTP_PROXY", "HTTPS_PROXY",
		"NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)

// subject is one started plugin.
type subject struct {
	t        *trial
	proc     *process
	client   *goplugin.Client
	protocol goplugin.ClientProtocol
	syncErr  lines // what Go code in the plugin wrote to os.Stderr
	conn     *grpc.ClientConn
	life     sdk.Lifecycle
	info     sdk.Info
	schema   sdk.Schema // nil: the plugin has no such call
}

// environ gives the environment of a plugin, without what the handshake adds.
func (t *trial) environ() []string {
	allowed := inherited
	if t.stage == "builder" {
		allowed = slices.Concat(inherited, inheritedByBuilder)
	}
	var env []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if slices.ContainsFunc(allowed, func(pattern string) bool { return sdk.Match(pattern, name) }) {
			env = append(env, entry)
		}
	}
	return append(env, t.plugin.Env...)
}

// serverOutput is the file that stands for the standard output of the server.
func (t *trial) serverOutput() string { return filepath.Join(t.dir, "stdout") }

// start starts the plugin and connects to it.
func (t *trial) start(ctx context.Context) (*subject, error) {
	run := filepath.Join(t.dir, "run")
	if err := os.MkdirAll(run, 0o700); err != nil {
		return nil, err
	}
	s := &subject{t: t, proc: newProcess(t.plugin, t.work, t.environ())}
	if t.stage == "rotator" {
		out, err := os.OpenFile(t.serverOutput(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		t.closers = append(t.closers, func() { out.Close() })
		s.proc.server, s.proc.cmd.Env = out, append(s.proc.cmd.Env, "TQSERVER_STDOUT_FD=3")
	}
	s.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  sdk.Handshake,
		Plugins:          goplugin.PluginSet{sdk.Dispense: sdk.Transport{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		RunnerFunc:       s.proc.prepare,
		SkipHostEnv:      true,
		AutoMTLS:         true,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: run},
		StartTimeout:     t.within(startLimit) + time.Minute, // the process is killed before
		Logger:           hclog.NewNullLogger(),
		SyncStderr:       &s.syncErr,
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(sdk.MaxMessageSize), grpc.MaxCallSendMsgSize(sdk.MaxMessageSize))},
	})
	t.subjects = append(t.subjects, s)
	return s, t.limit(ctx, startLimit, "start and handshake", s.connect)
}

func (s *subject) connect(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.proc.Kill(ctx) }) // go-plugin takes no context
	defer stop()
	var err error
	if s.protocol, err = s.client.Client(); err == nil {
		var raw any
		if raw, err = s.protocol.Dispense(sdk.Dispense); err == nil {
			s.conn = raw.(*grpc.ClientConn) // that is what sdk.Transport gives
			s.life = sdk.NewLifecycle(s.conn)
			return nil
		}
	}
	if printed := s.proc.stdout.get(); len(printed) > 0 && strings.Count(printed[0], "|") < 3 {
		return fmt.Errorf("standard output began with %q, which is no handshake", shorten(printed[0]))
	}
	return err
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// initialized starts the plugin and takes it as far as its schema.
func (t *trial) initialized(ctx context.Context) (*subject, error) {
	s, err := t.start(ctx)
	if err != nil {
		return nil, err
	}
	err = t.limit(ctx, callLimit, "Init", func(ctx context.Context) (err error) {
		s.info, err = s.life.Init(ctx, "0.0.0-conformance", fmt.Sprintf("%s-%d", t.stage, s.proc.pid()), "trace")
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, t.limit(ctx, callLimit, "Schema", func(ctx context.Context) error {
		schema, err := s.life.Schema(ctx)
		if status.Code(err) == codes.Unimplemented {
			return nil
		}
		s.schema = append(sdk.Schema{}, schema...)
		return err
	})
}

// ready starts the plugin and takes it to the point where its stage's service can be called.
func (t *trial) ready(ctx context.Context) (*subject, error) {
	s, err := t.initialized(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.validConfig(ctx); err != nil {
		return nil, err
	}
	return s, s.configure(ctx)
}

func (s *subject) validConfig(ctx context.Context) error {
	found := s.schema.Check(s.t.config)
	if s.schema == nil {
		found = nil // the plugin checks it alone
	}
	if len(found) == 0 {
		var err error
		if found, err = s.validate(ctx, s.t.config); err != nil {
			return err
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("the plugin refuses the configuration that it is tested with: %s", found[0])
	}
	return nil
}

// validate calls Validate, which a plugin need not have.
func (s *subject) validate(ctx context.Context, config []byte) (faults []sdk.Diagnostic, err error) {
	err = s.t.limit(ctx, callLimit, "Validate", func(ctx context.Context) error {
		found, err := s.life.Validate(ctx, config)
		if status.Code(err) == codes.Unimplemented {
			return nil
		}
		faults = slices.DeleteFunc(found, func(d sdk.Diagnostic) bool { return d.Warning })
		return err
	})
	return faults, err
}

func (s *subject) configure(ctx context.Context) error {
	return s.t.limit(ctx, callLimit, "Configure", func(ctx context.Context) error { return s.life.Configure(ctx, s.t.config) })
}

func (s *subject) check(ctx context.Context, limit time.Duration, nonce uint64) error {
	return s.t.limit(ctx, limit, "Check", func(ctx context.Context) error { return s.life.Check(ctx, nonce) })
}

// open starts a use of the plugin's service.
func (s *subject) open(ctx context.Context) (session, error) {
	return drivers[s.t.stage].open(ctx, s.t, s)
}

// use gives the plugin one piece of work.
func (s *subject) use(ctx context.Context) error {
	using, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer using.close()
	return using.exchange(ctx)
}

// stop ends the plugin in order, as the kernel does, but kills nothing: Drain, Shutdown, the request to exit, the end
// of its standard input.
func (s *subject) stop(ctx context.Context) error {
	for _, step := range []struct {
		name string
		call func(ctx context.Context) error
	}{{"Drain", s.life.Drain}, {"Shutdown", s.life.Shutdown}} {
		if err := s.t.limit(ctx, callLimit, step.name, step.call); err != nil && status.Code(err) != codes.Unimplemented {
			return err
		}
	}
	limit := s.t.within(callLimit)
	cut := time.AfterFunc(limit, func() { _ = s.proc.signal(syscall.SIGKILL) }) // also bounds the next call
	_ = s.protocol.Close()                                                      // the answer may be lost with the process
	_ = s.proc.lifeline.Close()
	select {
	case <-s.proc.exited:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !cut.Stop() {
		return fmt.Errorf("the process still runs after Shutdown: after %s", limit)
	}
	return nil
}

// exits waits for the end of the process.
func (s *subject) exits(ctx context.Context, limit time.Duration, after string) error {
	return s.t.until(ctx, limit, func() string { return "the process still runs after " + after + ":" }, s.proc.gone)
}

// died says, of a call that failed, that the process has ended if it has.
func (s *subject) died(ctx context.Context, err error) error {
	if err == nil || status.Code(err) != codes.Unavailable {
		return err
	}
	if s.t.until(ctx, exitGrace, func() string { return "" }, s.proc.gone) != nil {
		return err
	}
	return fmt.Errorf("the process has ended (%s): %w", s.proc.ending(), err)
}

// destroy ends the plugin and all that it started.
func (s *subject) destroy() {
	s.proc.killAll()
	s.client.Kill()
	s.proc.killAll()
}
