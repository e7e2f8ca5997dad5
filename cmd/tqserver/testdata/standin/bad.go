package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tqserver/tqserver/sdk"
	lifecyclepb "github.com/tqserver/tqserver/sdk/proto/tqserver/lifecycle/v1"
)

// onConfigure is what happens when the plugin gets its configuration.
var onConfigure = func() {}

// misbehave does what a mode is bad at, now or in onConfigure.
func misbehave(mode string) {
	switch mode {
	case "":
	case "exit":
		say("fatal: no licence found")
		os.Exit(3)
	case "hang":
		time.Sleep(time.Hour)
	case "cookie":
		sdk.Handshake.MagicCookieValue = "of another program"
	case "protocol":
		sdk.Handshake.ProtocolVersion = 99
	case "garbage":
		fmt.Println("listening on :8080")
		time.Sleep(time.Hour)
	case "grandchild": // it holds stderr open
		c := exec.Command("sleep", "3600")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Start(); err != nil {
			panic(err)
		}
		os.Exit(4)
	case "configure":
		onConfigure = func() { say("fatal: configured to death"); os.Exit(7) }
	case "crash":
		onConfigure = func() { time.AfterFunc(time.Second, func() { say("fatal: out of luck"); os.Exit(9) }) }
	case "stop":
		onConfigure = func() {
			time.AfterFunc(500*time.Millisecond, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) })
		}
	case "flood":
		onConfigure = func() { go flood() }
	case "slow":
		sdk.Serve("standin", "3.2.1", slow{}, sdk.Config(func(context.Context, settings) error { return nil }))
		os.Exit(0)
	case "idle": // not bad, only without any work
		sdk.Serve("idle", "3.2.1", idle{})
		os.Exit(0)
	case "big":
		serveBig()
		os.Exit(0)
	default:
		panic("unknown mode " + mode)
	}
}

// say writes to stderr itself: after the handshake go-plugin sends os.Stderr another way, which an exit cuts off.
func say(text string) { _, _ = syscall.Write(2, []byte(text+"\n")) }

func flood() {
	text := []byte(strings.Repeat("there is nothing to see here, please move along, and along, and along, and along, and along\n", 500))
	for {
		_, _ = syscall.Write(2, text)
	}
}

// slow takes what it is given and never comes to an end.
type slow struct{}

func (slow) Resolve(ctx context.Context, _ <-chan sdk.Tree, _ func(sdk.Table) error) error {
	return forever(ctx)
}

func (slow) Build(ctx context.Context, _ sdk.Job, event func(sdk.Event)) (sdk.Result, error) {
	for ctx.Err() == nil {
		event(sdk.Event{Log: "."})
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return sdk.Result{}, ctx.Err()
}

func (slow) Watch(ctx context.Context, _ <-chan sdk.WatchSet, _ func(sdk.ChangeSet) error) error {
	return forever(ctx)
}

func (slow) Check(ctx context.Context, _ <-chan sdk.TargetSet, _ func(sdk.Health) error) error {
	return forever(ctx)
}

func (slow) Write(ctx context.Context, _ sdk.Batch) error { return forever(ctx) }

func forever(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// serveBig answers every call of a stage with a message of 100 MiB, for which it has to go without sdk.Serve.
func serveBig() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: sdk.Handshake,
		Plugins:         goplugin.PluginSet{sdk.Dispense: bare{}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxSendMsgSize(1<<30), grpc.UnknownServiceHandler(big))...)
		},
	})
}

func big(_ any, stream grpc.ServerStream) error {
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	return stream.SendMsg(wrapperspb.String(strings.Repeat("x", 100<<20)))
}

// bare is a plugin whose stages are left to the handler of unknown services.
type bare struct {
	goplugin.NetRPCUnsupportedPlugin
	lifecyclepb.UnimplementedLifecycleServer
}

func (b bare) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	lifecyclepb.RegisterLifecycleServer(s, b)
	return nil
}

func (bare) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

func (bare) Init(context.Context, *lifecyclepb.InitRequest) (*lifecyclepb.InitResponse, error) {
	r := &lifecyclepb.InitResponse{Name: "standin", Version: "3.2.1"}
	for _, stage := range []string{"resolver", "builder", "watcher", "checker", "rotator"} {
		r.Services = append(r.Services, sdk.ServiceName(stage))
	}
	return r, nil
}

func (bare) Validate(context.Context, *lifecyclepb.ValidateRequest) (*lifecyclepb.ValidateResponse, error) {
	return &lifecyclepb.ValidateResponse{}, nil
}

func (bare) Configure(context.Context, *lifecyclepb.ConfigureRequest) (*lifecyclepb.ConfigureResponse, error) {
	return &lifecyclepb.ConfigureResponse{}, nil
}

func (bare) Check(_ context.Context, r *lifecyclepb.CheckRequest) (*lifecyclepb.CheckResponse, error) {
	return &lifecyclepb.CheckResponse{Nonce: r.GetNonce()}, nil
}
