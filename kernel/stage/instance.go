package stage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
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
	exitGrace = 250 * time.Millisecond // for a process to end whose connection broke, so that its status can be told
	termGrace = 300 * time.Millisecond // from the request to exit to SIGTERM
	killGrace = time.Second            // from the request to exit to SIGKILL
)

// Error is a failure of one plugin: what was being done, why it failed, and the last that it wrote to stderr.
type Error struct {
	Stage, Name string
	Step        string // of the launch: start, init, schema, config, configure, check; "" once it ran
	Err         error
	Stderr      []string // at most 20 lines
}

// Error gives everything: the lines of stderr below the cause, and what to do on the last line.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s plugin %s: ", e.Stage, e.Name)
	if e.Step != "" {
		b.WriteString(e.Step + ": ")
	}
	b.WriteString(e.Err.Error())
	if len(e.Stderr) > 0 {
		b.WriteString("\nits last lines on stderr:\n  " + strings.Join(e.Stderr, "\n  "))
	}
	if hint := e.hint(); hint != "" {
		b.WriteString("\nhint: " + hint)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// instance is one start of a plugin, from the launch to the end of its last process.
type instance struct {
	spec    *Spec
	options Options
	log     hclog.Logger
	proc    *proc
	client  *goplugin.Client
	conn    *grpc.ClientConn
	life    sdk.Lifecycle
	info    sdk.Info
	schema  sdk.Schema
	started time.Time // when the launch had succeeded
	nonce   uint64
	level   hclog.Level // that the plugin was told

	alive context.Context // ends when the instance is of no more use, with the cause
	fail  context.CancelCauseFunc

	sessions context.Context // ends earlier: when sessions must leave an instance that is to stop
	retire   context.CancelFunc
	calls    sync.WaitGroup // jobs under way; nothing is added once the supervisor has another current instance

	configured *Spec // whose Config is in force; guarded by the supervisor's mutex
}

func newInstance(spec *Spec, o Options) *instance {
	i := &instance{spec: spec, configured: spec, options: o, log: o.Log.Named(spec.Stage).With("plugin", spec.Name)}
	i.alive, i.fail = context.WithCancelCause(context.Background())
	i.sessions, i.retire = context.WithCancel(i.alive)
	i.proc = newProc(spec, i.log, i.fail)
	i.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  sdk.Handshake,
		Plugins:          goplugin.PluginSet{sdk.Dispense: sdk.Transport{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		RunnerFunc:       i.proc.prepare,
		SkipHostEnv:      true,
		AutoMTLS:         true,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: o.RuntimeDir},
		StartTimeout:     o.Limits.StartTimeout + time.Minute, // the context of the launch is what counts
		Logger:           hclog.NewNullLogger(),               // everything worth telling is told here
		SyncStdout:       &i.proc.out.syncOut,
		SyncStderr:       &i.proc.out.syncErr,
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(sdk.MaxMessageSize), grpc.MaxCallSendMsgSize(sdk.MaxMessageSize))},
	})
	return i
}

// during gives a context that ends with ctx, and with the instance.
func (i *instance) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(i.alive, func() { cancel(context.Cause(i.alive)) })
	return ctx, func() { stop(); cancel(nil) }
}

func (i *instance) dead() bool { return i.alive.Err() != nil }

func (i *instance) check(ctx context.Context) error {
	i.nonce++
	return i.forgive(i.life.Check(ctx, i.nonce))
}

// beat is one heartbeat. It also passes on that the log level has changed.
func (i *instance) beat(ctx context.Context) error {
	if err := i.check(ctx); err != nil {
		return err
	}
	level := i.log.GetLevel()
	if level == i.level || !i.can(sdk.CapabilityLogLevel) {
		return nil
	}
	err := i.life.SetLogLevel(ctx, level.String())
	if ctx.Err() != nil {
		return nil // tried again with the next one
	}
	i.level = level
	if err != nil {
		i.log.Warn("the plugin did not take the log level", "level", level, "error", err)
	}
	return nil
}

// stop ends a working instance in order: its sessions, its jobs, what it holds, its process. It takes at most
// Limits.StopTimeout and a second, whatever the plugin does.
func (i *instance) stop() {
	i.retire()
	if i.spec.attach != nil {
		i.detach()
		return
	}
	all, cancel := context.WithTimeout(i.alive, i.options.Limits.StopTimeout)
	defer cancel()
	drain, cancelDrain := context.WithTimeout(all, i.options.Limits.StopTimeout*3/4) // the rest is for Shutdown
	defer cancelDrain()
	i.complain("drain", i.life.Drain(drain))
	i.awaitCalls(drain)
	i.complain("shutdown", i.life.Shutdown(all))
	i.end()
}

func (i *instance) complain(step string, err error) {
	if err != nil && status.Code(err) != codes.Unimplemented && !i.dead() {
		i.log.Warn("the plugin did not stop in order", "step", step, "error", err)
	}
}

// awaitCalls waits until no job is under way, or ctx ends. A job that goes on then fails when the process ends.
func (i *instance) awaitCalls(ctx context.Context) {
	idle := make(chan struct{})
	go func() { i.calls.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// end asks the process to exit, then tells it to (SIGTERM), then kills it. Nothing of it is left.
func (i *instance) end() {
	term := time.AfterFunc(termGrace, func() { i.proc.signal(syscall.SIGTERM) })
	kill := time.AfterFunc(killGrace, i.proc.kill) // also what bounds the next call
	i.client.Kill()
	term.Stop()
	kill.Stop()
	i.kill(errStopped)
}

var errStopped = errors.New("stopped")

// kill ends the instance at once, for the given reason. Nothing of it is left. It may be called again.
func (i *instance) kill(reason error) {
	i.fail(reason)
	i.proc.kill()
	i.client.Kill()
	i.proc.cleanUp()
}

// bury kills an instance that failed, and tells why it did: by the state of its process, if that ended by itself.
func (i *instance) bury(step string, err error) *Error {
	if status.Code(err) == codes.Unavailable {
		i.proc.awaitExit(exitGrace)
	}
	i.kill(err)
	if exit := i.proc.awaitExit(0); exit != nil && exit != errKilled && !errors.Is(err, exit) {
		err = exit
	}
	if step == "start" {
		err = startError(err, i.proc.firstLine())
	}
	return &Error{Stage: i.spec.Stage, Name: i.spec.Name, Step: step, Err: err, Stderr: i.proc.out.lastWords()}
}
