package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/sdk"
	lifecyclepb "github.com/tqserver/tqserver/sdk/proto/tqserver/lifecycle/v1"
	resolverpb "github.com/tqserver/tqserver/sdk/proto/tqserver/resolver/v1"
)

// The standard streams of the process: go-plugin puts others in their place.
var stdout, stderr = os.Stdout, os.Stderr

// serveRaw is a resolver that does by hand what the SDK does.
func serveRaw() {
	describe := os.Args[len(os.Args)-1] == "--describe"
	if describe && !bad("common/describe:cookie") {
		d := sdk.Description{Name: "bad", Version: "1.0.0", Services: services(), Capabilities: []string{"log-level"}, Protocol: 1}
		if bad("common/describe") {
			d.Version = "2.0.0"
		}
		json.NewEncoder(os.Stdout).Encode(d)
		return
	}
	if os.Getenv(sdk.Handshake.MagicCookieKey) == "" {
		withoutCookie()
	}
	switch mode {
	case "common/handshake":
		fmt.Println("hello")
	case "common/handshake:late":
		select {}
	}
	if bad("common/mtls") || bad("common/mtls:any") {
		serveOpen()
	}
	if !bad("common/signals") {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT)
	}
	if !bad("common/lifeline") && !bad("common/shutdown:stays") {
		go func() { io.Copy(io.Discard, os.Stdin); os.Exit(0) }()
	}
	goplugin.Serve(&goplugin.ServeConfig{HandshakeConfig: sdk.Handshake, Plugins: goplugin.PluginSet{sdk.Dispense: &raw{}}, GRPCServer: server,
		Logger: hclog.New(&hclog.LoggerOptions{Output: stderr, JSONFormat: true, Level: hclog.Trace})})
	if bad("common/shutdown:stays") {
		select {}
	}
}

func withoutCookie() {
	switch mode {
	case "common/cookie":
		fmt.Println("this is a plugin")
		os.Exit(0)
	case "common/cookie:silent":
		os.Exit(1)
	case "common/cookie:waits":
		select {}
	}
	fmt.Fprintln(os.Stderr, "this is a plugin of tqserver")
	os.Exit(1)
}

// serveOpen serves with TLS, to everybody or to everybody with a certificate.
func serveOpen() {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, _ := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "open")
	listener, err := net.Listen("unix", path)
	if err != nil {
		panic(err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	if bad("common/mtls:any") {
		c.ClientAuth = tls.RequireAnyClientCert
	}
	s := server([]grpc.ServerOption{grpc.Creds(credentials.NewTLS(c))})
	(&raw{}).GRPCServer(nil, s)
	fmt.Printf("1|1|unix|%s|grpc|%s\n", path, base64.RawStdEncoding.EncodeToString(der))
	s.Serve(listener)
	os.Exit(0)
}

func server(o []grpc.ServerOption) *grpc.Server {
	if !bad("common/big-config") {
		o = append(o, grpc.MaxRecvMsgSize(sdk.MaxMessageSize))
	}
	if bad("common/unknown-call") {
		o = append(o, grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.Internal, "no") }))
	}
	return grpc.NewServer(o...)
}

func services() []string {
	if bad("common/service") {
		return []string{"tqserver.plugin.checker.v1.Checker"}
	}
	return []string{"tqserver.plugin.resolver.v1.Resolver"}
}

type raw struct {
	goplugin.NetRPCUnsupportedPlugin
	lifecyclepb.UnimplementedLifecycleServer
	resolverpb.UnimplementedResolverServer
	mu         sync.Mutex
	configured int
	busy       sync.Mutex
	streams    map[int]context.CancelFunc
	resolving
}

func (r *raw) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	r.streams = map[int]context.CancelFunc{}
	lifecyclepb.RegisterLifecycleServer(s, r)
	resolverpb.RegisterResolverServer(s, r)
	return nil
}

func (r *raw) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

func (r *raw) Init(context.Context, *lifecyclepb.InitRequest) (*lifecyclepb.InitResponse, error) {
	answer := &lifecyclepb.InitResponse{Name: "bad", Version: "1.0.0", Services: services(), Capabilities: []string{"log-level"}}
	switch mode {
	case "common/init":
		answer.Version = ""
	case "common/stdout":
		fmt.Fprintln(stdout, "hello")
	case "common/stderr":
		fmt.Fprintln(stderr, "hello")
	case "common/children":
		exec.Command("sleep", "600").Start()
	case "common/children:session":
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Start()
	}
	return answer, nil
}

func (r *raw) Schema(context.Context, *lifecyclepb.SchemaRequest) (*lifecyclepb.SchemaResponse, error) {
	if strings.HasPrefix(mode, "common/unknown-key") {
		return nil, status.Error(codes.Unimplemented, "none")
	}
	return &lifecyclepb.SchemaResponse{}, nil
}

func (r *raw) Validate(context.Context, *lifecyclepb.ValidateRequest) (*lifecyclepb.ValidateResponse, error) {
	switch mode {
	case "common/validate-pure":
		os.WriteFile("trace", nil, 0o600)
	case "common/validate-pure:port":
		net.Listen("tcp", "127.0.0.1:0")
	}
	return &lifecyclepb.ValidateResponse{}, nil
}

func (r *raw) Configure(_ context.Context, q *lifecyclepb.ConfigureRequest) (*lifecyclepb.ConfigureResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.configured++
	var values map[string]any
	switch {
	case bad("common/standby"):
		os.WriteFile("trace", nil, 0o600)
	case bad("common/configure-twice") && r.configured > 1:
		return nil, status.Error(codes.InvalidArgument, "configured already")
	case bad("common/configure-open"):
		for _, cancel := range r.streams {
			cancel()
		}
	case bad("common/configure-bad"):
		return &lifecyclepb.ConfigureResponse{}, nil
	}
	if err := json.Unmarshal(q.GetConfigJson(), &values); err != nil && len(q.GetConfigJson()) > 0 {
		if bad("common/configure-bad:dies") {
			os.Exit(3)
		}
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &lifecyclepb.ConfigureResponse{}, nil
}

func (r *raw) Check(ctx context.Context, q *lifecyclepb.CheckRequest) (*lifecyclepb.CheckResponse, error) {
	switch mode {
	case "common/heartbeat":
		<-ctx.Done()
	case "common/heartbeat:nonce":
		return &lifecyclepb.CheckResponse{Nonce: 1}, nil
	}
	return &lifecyclepb.CheckResponse{Nonce: q.GetNonce()}, nil
}

func (r *raw) SetLogLevel(context.Context, *lifecyclepb.SetLogLevelRequest) (*lifecyclepb.SetLogLevelResponse, error) {
	if bad("common/log-level") {
		return nil, status.Error(codes.Unimplemented, "none")
	}
	return &lifecyclepb.SetLogLevelResponse{}, nil
}

func (r *raw) Drain(context.Context, *lifecyclepb.DrainRequest) (*lifecyclepb.DrainResponse, error) {
	return &lifecyclepb.DrainResponse{}, nil
}

func (r *raw) Shutdown(context.Context, *lifecyclepb.ShutdownRequest) (*lifecyclepb.ShutdownResponse, error) {
	if bad("common/shutdown") {
		return nil, status.Error(codes.Internal, "not now")
	}
	return &lifecyclepb.ShutdownResponse{}, nil
}
