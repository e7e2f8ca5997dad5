package sdk

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	builderpb "github.com/tqserver/tqserver/sdk/proto/tqserver/builder/v1"
	checkerpb "github.com/tqserver/tqserver/sdk/proto/tqserver/checker/v1"
	lifecyclepb "github.com/tqserver/tqserver/sdk/proto/tqserver/lifecycle/v1"
	resolverpb "github.com/tqserver/tqserver/sdk/proto/tqserver/resolver/v1"
	rotatorpb "github.com/tqserver/tqserver/sdk/proto/tqserver/rotator/v1"
	watcherpb "github.com/tqserver/tqserver/sdk/proto/tqserver/watcher/v1"
)

// window is how much a plugin takes before it has to ask for more: a batch of log lines as a whole, for which two
// processes would else wake each other several times.
const window = 1 << 20

// Version is the version of this SDK.
const Version = "0.1.0"

// Handshake is how kernel and plugin know each other. The cookie is no secret: it keeps a plugin that is started by
// hand from waiting for a kernel.
var Handshake = goplugin.HandshakeConfig{
	ProtocolVersion:  1,
	MagicCookieKey:   "TQSERVER_PLUGIN",
	MagicCookieValue: "6f1c0d4b-stage-plugin",
}

// Dispense is the name under which go-plugin serves all of a plugin's services.
const Dispense = "tqserver"

// drainLimit bounds how long a plugin whose kernel is gone may take to end what is under way.
const drainLimit = 3 * time.Second

// Serve runs stage, which implements one or more of Resolver, Builder, Watcher, Checker and Rotator, as a plugin, and
// returns when the kernel ended it. Nothing may be written to standard output before. Serve looks after the handshake,
// the transport, panics in calls, the log level, SIGTERM and SIGINT (which only the kernel may act on) and the end of
// the kernel: a plugin never outlives it.
//
// It looks at the last argument: with --describe it prints a [Description] as JSON, with --version and --help what
// these say, and ends the process; with --debug it serves without a kernel until SIGINT or SIGTERM, and prints what
// `tqserver dev` needs to attach to it.
func Serve(name, version string, stage any, options ...Option) {
	p := newPlugin(name, version, stage, options...)
	if done, err := p.alone(os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	} else if done {
		os.Exit(0)
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT) // not Ignore, which children would inherit
	go p.followKernel()
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: Handshake,
		Plugins:         goplugin.PluginSet{Dispense: Transport{register: p.register}},
		Logger:          p.log,
		GRPCServer:      p.server,
	})
}

// plugin is one implementation with what Serve knows about it.
type plugin struct {
	name, version string
	stage         any
	capabilities  []string
	log           hclog.Logger
	schema        Schema
	validate      func(config []byte) []Diagnostic
	configure     func(ctx context.Context, config []byte) error
}

func newPlugin(name, version string, stage any, options ...Option) *plugin {
	p := &plugin{name: name, version: version, stage: stage, capabilities: []string{CapabilityLogLevel}}
	p.validate = Schema(nil).Check
	p.configure = func(_ context.Context, config []byte) error {
		if found := Schema(nil).Check(config); len(found) > 0 {
			return fmt.Errorf("%s", found[0])
		}
		return nil
	}
	if adapter, ok := stage.(interface{ options() []Option }); ok {
		options = append(adapter.options(), options...)
	}
	for _, o := range options {
		o(p)
	}
	if len(p.services()) == 0 {
		panic(fmt.Sprintf("sdk: %T implements none of Resolver, Builder, Watcher, Checker and Rotator", stage))
	}
	p.logTo(hclog.New(&hclog.LoggerOptions{Level: hclog.Info, Output: os.Stderr, JSONFormat: true}))
	return p
}

func (p *plugin) logTo(log hclog.Logger) {
	p.log = log
	if l, ok := p.stage.(Logs); ok {
		l.SetLogger(log)
	}
}

func (p *plugin) services() []string {
	var names []string
	for _, s := range p.stages() {
		names = append(names, s.desc.ServiceName)
	}
	return names
}

type service struct {
	desc *grpc.ServiceDesc
	impl any
}

func (p *plugin) stages() []service {
	var s []service
	if impl, ok := p.stage.(Resolver); ok {
		s = append(s, service{&resolverpb.Resolver_ServiceDesc, &resolverServer{impl: impl, epoch: newEpoch()}})
	}
	if impl, ok := p.stage.(Builder); ok {
		s = append(s, service{&builderpb.Builder_ServiceDesc, &builderServer{impl: impl}})
	}
	if impl, ok := p.stage.(Watcher); ok {
		s = append(s, service{&watcherpb.Watcher_ServiceDesc, &watcherServer{impl: impl}})
	}
	if impl, ok := p.stage.(Checker); ok {
		s = append(s, service{&checkerpb.Checker_ServiceDesc, &checkerServer{impl: impl}})
	}
	if impl, ok := p.stage.(Rotator); ok {
		s = append(s, service{&rotatorpb.Rotator_ServiceDesc, &rotatorServer{impl: impl}})
	}
	return s
}

// newEpoch names one start of a plugin: its process and the time.
func newEpoch() string { return fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()) }

func (p *plugin) register(server *grpc.Server) {
	lifecyclepb.RegisterLifecycleServer(server, &lifecycleServer{plugin: p})
	for _, s := range p.stages() {
		server.RegisterService(s.desc, s.impl)
	}
}

func (p *plugin) server(options []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(options, grpc.MaxRecvMsgSize(MaxMessageSize), grpc.MaxSendMsgSize(MaxMessageSize),
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
		grpc.UnaryInterceptor(p.recoverUnary), grpc.StreamInterceptor(p.recoverStream))...)
}

// followKernel ends the process when the kernel is gone: standard input, which the kernel holds open, ends, or the
// parent changes.
func (p *plugin) followKernel() {
	gone := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(gone) }()
	parent := os.Getppid()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for alive := true; alive; {
		select {
		case <-gone:
			alive = false
		case <-tick.C:
			alive = os.Getppid() == parent
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	go func() { <-ctx.Done(); os.Exit(1) }() // Drain ignores its context
	_ = p.drain(ctx)
	_ = p.close()
	os.Exit(0)
}

// Transport connects go-plugin to the services of a plugin. The kernel dispenses a *grpc.ClientConn from it.
type Transport struct {
	goplugin.NetRPCUnsupportedPlugin
	register func(*grpc.Server)
}

var _ goplugin.GRPCPlugin = Transport{}

// GRPCServer registers the services.
func (t Transport) GRPCServer(_ *goplugin.GRPCBroker, server *grpc.Server) error {
	t.register(server)
	return nil
}

// GRPCClient gives the connection itself: NewLifecycle, NewResolver, … speak on it.
func (t Transport) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
