package sdk

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	lifecyclepb "github.com/tqserver/tqserver/sdk/proto/tqserver/lifecycle/v1"
)

// Lifecycle is what every plugin answers besides its stage. The kernel uses it; Serve implements it.
type Lifecycle interface {
	Init(ctx context.Context, kernelVersion, instance, logLevel string) (Info, error)
	Schema(ctx context.Context) (Schema, error)
	Validate(ctx context.Context, config []byte) ([]Diagnostic, error)
	Configure(ctx context.Context, config []byte) error
	Check(ctx context.Context, nonce uint64) error
	SetLogLevel(ctx context.Context, level string) error // for a plugin with CapabilityLogLevel
	Drain(ctx context.Context) error
	Shutdown(ctx context.Context) error
}

// Info is what a plugin says about itself.
type Info struct {
	Name, Version, SDKVersion, Language string
	Services                            []string // full names, e.g. tqserver.plugin.resolver.v1.Resolver
	Capabilities                        []string
}

// Capabilities of a plugin.
const (
	CapabilityLogLevel  = "log-level" // it has SetLogLevel
	CapabilityExclusive = "exclusive" // two instances cannot run beside each other: see Exclusive
)

// Drainer is a stage that has something to end in order. Drain takes no new work and returns when what is under way
// has ended, or with ctx.
type Drainer interface {
	Drain(ctx context.Context) error
}

// Logs is a stage that logs. SetLogger is called before anything else; what is logged appears in the kernel's log.
type Logs interface{ SetLogger(hclog.Logger) }

// NewLifecycle speaks to a plugin.
func NewLifecycle(conn grpc.ClientConnInterface) Lifecycle {
	return lifecycleClient{lifecyclepb.NewLifecycleClient(conn)}
}

type lifecycleClient struct{ rpc lifecyclepb.LifecycleClient }

func (c lifecycleClient) Init(ctx context.Context, kernelVersion, instance, logLevel string) (Info, error) {
	r, err := c.rpc.Init(ctx, &lifecyclepb.InitRequest{KernelVersion: kernelVersion, InstanceId: instance, LogLevel: logLevel})
	return Info{Name: r.GetName(), Version: r.GetVersion(), SDKVersion: r.GetSdkVersion(), Language: r.GetLanguage(),
		Services: r.GetServices(), Capabilities: r.GetCapabilities()}, err
}

func (c lifecycleClient) Schema(ctx context.Context) (Schema, error) {
	r, err := c.rpc.Schema(ctx, &lifecyclepb.SchemaRequest{})
	return schemaFromProto(r.GetFields()), err
}

func (c lifecycleClient) Validate(ctx context.Context, config []byte) ([]Diagnostic, error) {
	r, err := c.rpc.Validate(ctx, &lifecyclepb.ValidateRequest{ConfigJson: config})
	return each(r.GetDiagnostics(), diagnosticFromProto), err
}

func (c lifecycleClient) Configure(ctx context.Context, config []byte) error {
	_, err := c.rpc.Configure(ctx, &lifecyclepb.ConfigureRequest{ConfigJson: config})
	return err
}

func (c lifecycleClient) Check(ctx context.Context, nonce uint64) error {
	r, err := c.rpc.Check(ctx, &lifecyclepb.CheckRequest{Nonce: nonce})
	if err == nil && r.GetNonce() != nonce {
		return fmt.Errorf("sdk: heartbeat answered with %d, sent was %d", r.GetNonce(), nonce)
	}
	return err
}

func (c lifecycleClient) SetLogLevel(ctx context.Context, level string) error {
	_, err := c.rpc.SetLogLevel(ctx, &lifecyclepb.SetLogLevelRequest{Level: level})
	return err
}

func (c lifecycleClient) Drain(ctx context.Context) error {
	_, err := c.rpc.Drain(ctx, &lifecyclepb.DrainRequest{})
	return err
}

func (c lifecycleClient) Shutdown(ctx context.Context) error {
	_, err := c.rpc.Shutdown(ctx, &lifecyclepb.ShutdownRequest{})
	return err
}

type lifecycleServer struct {
	lifecyclepb.UnimplementedLifecycleServer
	plugin *plugin
}

func (s *lifecycleServer) Init(_ context.Context, r *lifecyclepb.InitRequest) (*lifecyclepb.InitResponse, error) {
	s.plugin.log.SetLevel(hclog.LevelFromString(r.GetLogLevel()))
	d := s.plugin.describe()
	return &lifecyclepb.InitResponse{Name: d.Name, Version: d.Version, SdkVersion: d.SDKVersion, Language: d.Language,
		Services: d.Services, Capabilities: d.Capabilities}, nil
}

func (s *lifecycleServer) Schema(context.Context, *lifecyclepb.SchemaRequest) (*lifecyclepb.SchemaResponse, error) {
	return &lifecyclepb.SchemaResponse{Fields: schemaToProto(s.plugin.schema)}, nil
}

func (s *lifecycleServer) Validate(_ context.Context, r *lifecyclepb.ValidateRequest) (*lifecyclepb.ValidateResponse, error) {
	return &lifecyclepb.ValidateResponse{Diagnostics: each(s.plugin.validate(r.GetConfigJson()), diagnosticToProto)}, nil
}

func (s *lifecycleServer) Configure(ctx context.Context, r *lifecyclepb.ConfigureRequest) (*lifecyclepb.ConfigureResponse, error) {
	if err := s.plugin.configure(ctx, r.GetConfigJson()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &lifecyclepb.ConfigureResponse{}, nil
}

func (s *lifecycleServer) Check(_ context.Context, r *lifecyclepb.CheckRequest) (*lifecyclepb.CheckResponse, error) {
	return &lifecyclepb.CheckResponse{Nonce: r.GetNonce()}, nil
}

func (s *lifecycleServer) SetLogLevel(_ context.Context, r *lifecyclepb.SetLogLevelRequest) (*lifecyclepb.SetLogLevelResponse, error) {
	s.plugin.log.SetLevel(hclog.LevelFromString(r.GetLevel()))
	return &lifecyclepb.SetLogLevelResponse{}, nil
}

func (s *lifecycleServer) Drain(ctx context.Context, _ *lifecyclepb.DrainRequest) (*lifecyclepb.DrainResponse, error) {
	return &lifecyclepb.DrainResponse{}, fault(s.plugin.drain(ctx))
}

func (s *lifecycleServer) Shutdown(ctx context.Context, _ *lifecyclepb.ShutdownRequest) (*lifecyclepb.ShutdownResponse, error) {
	return &lifecyclepb.ShutdownResponse{}, fault(s.plugin.close())
}

func (p *plugin) drain(ctx context.Context) error {
	if d, ok := p.stage.(Drainer); ok {
		return d.Drain(ctx)
	}
	return nil
}

func (p *plugin) close() error {
	if c, ok := p.stage.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// recoverUnary and recoverStream turn a panic into an error of that one call: the plugin lives on.
func (p *plugin) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer p.recovered(info.FullMethod, &err)
	return handle(ctx, req)
}

func (p *plugin) recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer p.recovered(info.FullMethod, &err)
	return handle(srv, stream)
}

func (p *plugin) recovered(method string, err *error) {
	if r := recover(); r != nil {
		p.log.Error("panic in a call", "method", method, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "plugin %s panicked in %s: %v", p.name, method, r)
	}
}
