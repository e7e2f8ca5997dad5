package sdk

import (
	"context"
	"net"
	"strings"

	"google.golang.org/grpc"

	checkerpb "github.com/tqserver/tqserver/sdk/proto/tqserver/checker/v1"
)

// TargetSet is everything there is to probe.
type TargetSet struct {
	Version uint64 // rises
	Targets []Target
}

// Target is one worker. A target that is in two sets in a row keeps its counts.
type Target struct {
	ID   string // unique in a set
	Page string // for messages
	Addr string // host:port, or unix:/path of a unix socket
}

// Dial connects to the target, wherever it is, as [net.Dialer.DialContext] does.
func (t Target) Dial(ctx context.Context) (net.Conn, error) {
	network, addr := "tcp", t.Addr
	if path, ok := strings.CutPrefix(t.Addr, "unix:"); ok {
		network, addr = "unix", path
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// Health is the state of a target.
type Health struct {
	Target   string // its ID
	Healthy  bool
	Failures int    // in a row
	Reason   string // of the last failure
	Version  uint64 // of the set
}

// NewChecker speaks to the checker of a plugin.
func NewChecker(conn grpc.ClientConnInterface) Checker {
	return checkerClient{checkerpb.NewCheckerClient(conn)}
}

type checkerClient struct{ rpc checkerpb.CheckerClient }

func (c checkerClient) Check(ctx context.Context, sets <-chan TargetSet, report func(Health) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Run(ctx)
	if err != nil {
		return err
	}
	send := func(s TargetSet) error {
		return stream.Send(&checkerpb.RunRequest{Set: &checkerpb.TargetSet{Version: s.Version,
			Targets: each(s.Targets, func(t Target) *checkerpb.Target {
				return &checkerpb.Target{Id: t.ID, Page: t.Page, Addr: t.Addr}
			})}})
	}
	take := func(m *checkerpb.RunResponse) error {
		h := m.GetHealth()
		return report(Health{Target: h.GetTarget(), Healthy: h.GetState() == checkerpb.State_STATE_HEALTHY,
			Failures: int(h.GetFailures()), Reason: h.GetReason(), Version: h.GetVersion()})
	}
	return duplex(cancel,
		func() error { return forward(ctx, sets, send) },
		func() error { return receive(stream.Recv, take) })
}

type checkerServer struct {
	checkerpb.UnimplementedCheckerServer
	impl Checker
}

func (s *checkerServer) Run(stream grpc.BidiStreamingServer[checkerpb.RunRequest, checkerpb.RunResponse]) error {
	sets := newLatest[TargetSet]()
	out := sender[*checkerpb.RunResponse]{send: stream.Send}
	take := func(m *checkerpb.RunRequest) error {
		sets.put(TargetSet{Version: m.GetSet().GetVersion(),
			Targets: each(m.GetSet().GetTargets(), func(t *checkerpb.Target) Target {
				return Target{ID: t.GetId(), Page: t.GetPage(), Addr: t.GetAddr()}
			})})
		return nil
	}
	return serveStream(stream.Context(),
		func() error { return receive(stream.Recv, take) },
		func(ctx context.Context) error {
			return s.impl.Check(ctx, sets, func(h Health) error {
				state := checkerpb.State_STATE_UNHEALTHY
				if h.Healthy {
					state = checkerpb.State_STATE_HEALTHY
				}
				return out.Send(&checkerpb.RunResponse{Health: &checkerpb.Health{Target: h.Target, State: state,
					Failures: uint32(h.Failures), Reason: text(h.Reason), Version: h.Version}})
			})
		})
}
