//go:build linux && bench

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

const (
	callRounds = 7
	callTime   = 200 * time.Millisecond
	callers    = 64
	pluginRuns = 15
)

// benchPlugins measures what it costs that a stage is a process: to start it, to have it, to call it.
func benchPlugins(t *testing.T, r *results) {
	use := standin(t)
	benchPluginStart(t, r, use)
	benchCalls(t, r, use)
}

// benchPluginStart takes plugins into service one at a time, a built-in and a custom one in turns.
func benchPluginStart(t *testing.T, r *results, use string) {
	binary, err := filepath.Abs(binaryUnderTest)
	if err != nil {
		t.Fatal(err)
	}
	path := "PATH=" + os.Getenv("PATH")
	specs := []stage.Spec{
		{Stage: "rotator", Name: "built in, `rotator/file`", Path: binary, Args: []string{"plugin", "run", "rotator/file"}, Env: []string{path}},
		{Stage: "rotator", Name: "custom, SDK alone", Path: use, Env: []string{path, "BAD=idle"}},
	}
	took, pss, own := map[string][]time.Duration{}, map[string][]int64{}, map[string][]int64{}
	for range pluginRuns {
		for _, spec := range specs {
			ready, p, a := startPlugin(t, spec)
			took[spec.Name], pss[spec.Name], own[spec.Name] = append(took[spec.Name], ready), append(pss[spec.Name], p), append(own[spec.Name], a)
		}
	}
	rows := [][]string{{"plugin", "start → ready, median", "slowest", "PSS", "of it anonymous"}}
	for _, spec := range specs {
		n := spec.Name
		rows = append(rows, []string{n, ms(median(took[n])), ms(quantile(took[n], 1)), mib(median(pss[n])), mib(median(own[n]))})
	}
	r.table(fmt.Sprintf("One plugin, started alone, %d starts", pluginRuns), rows...)
}

// startPlugin runs a plugin until it is ready. It gives how long that took, and its memory then.
func startPlugin(t *testing.T, spec stage.Spec) (took time.Duration, pss, anonymous int64) {
	t.Helper()
	ready := make(chan stage.Status, 1)
	s := stage.New(spec, stage.Options{RuntimeDir: runtimeDir(t), Log: hclog.NewNullLogger(), Limits: config.Default().Plugins,
		OnState: func(st stage.Status) {
			if st.State == stage.Running {
				ready <- st
			}
		}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	start := time.Now()
	go func() { ended <- s.Run(ctx) }()
	select {
	case st := <-ready:
		took = time.Since(start)
		pss, anonymous = memory(t, st.PID)
	case <-time.After(patience):
		t.Errorf("plugin %s: %+v", spec.Name, s.Status())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return took, pss, anonymous
}

func runtimeDir(t *testing.T) string { return filepath.Join(publicDir(t), "run") }

// shape is a kind of call. open makes one caller's end of it.
type shape struct {
	name string
	open func(ctx context.Context, conn *grpc.ClientConn, done *sync.WaitGroup) (call func() error)
	per  int // lines, for those that carry many
}

var shapes = []shape{
	{name: "write, batch of 1 line", open: writes(1), per: 1},
	{name: "write, batch of 1,000 lines", open: writes(1000), per: 1000},
	{name: "build, a job of nothing", open: builds},
	{name: "stream, table of 1 route and its ack", open: tables(1)},
	{name: "stream, table of 1,000 routes and its ack", open: tables(1000)},
	{name: "stream, one target and its report", open: reports},
}

func writes(lines int) func(context.Context, *grpc.ClientConn, *sync.WaitGroup) func() error {
	b := sdk.Batch{Seq: 1, Stream: "index", File: "/srv/site/logs/{date}.log", Page: "index", Release: strings.Repeat("a", 64), Worker: "index#1"}
	for range lines {
		b.Lines = append(b.Lines, sdk.Line{Time: time.Now(), Source: sdk.Stdout, Text: []byte(strings.Repeat("x", 100))})
	}
	return func(ctx context.Context, conn *grpc.ClientConn, _ *sync.WaitGroup) func() error {
		return func() error { return sdk.NewRotator(conn).Write(ctx, b) }
	}
}

func builds(ctx context.Context, conn *grpc.ClientConn, _ *sync.WaitGroup) func() error {
	return func() error {
		_, err := sdk.NewBuilder(conn).Build(ctx, sdk.Job{Page: "index", Dir: "/srv/site/pages/index"}, func(sdk.Event) {})
		return err
	}
}

func tables(routes uint64) func(context.Context, *grpc.ClientConn, *sync.WaitGroup) func() error {
	return func(ctx context.Context, conn *grpc.ClientConn, done *sync.WaitGroup) func() error {
		return answers(done, sdk.Tree{Root: "/srv/site/pages", Revision: routes}, func(in <-chan sdk.Tree, out func(sdk.Table) error) error {
			return sdk.NewResolver(conn).Resolve(ctx, in, out)
		})
	}
}

func reports(ctx context.Context, conn *grpc.ClientConn, done *sync.WaitGroup) func() error {
	set := sdk.TargetSet{Version: 1, Targets: []sdk.Target{{ID: "index#1", Page: "index", Addr: "127.0.0.1:9000"}}}
	return answers(done, set, func(in <-chan sdk.TargetSet, out func(sdk.Health) error) error {
		return sdk.NewChecker(conn).Check(ctx, in, out)
	})
}

// answers makes calls of a stream: one value in, one out.
func answers[In, Out any](done *sync.WaitGroup, value In, run func(in <-chan In, out func(Out) error) error) func() error {
	in, out, ended := make(chan In), make(chan Out, 1), make(chan error, 1)
	done.Go(func() {
		ended <- run(in, func(o Out) error { out <- o; return nil })
	})
	return func() error {
		select {
		case in <- value:
		case err := <-ended:
			return fmt.Errorf("the stream has ended: %w", err)
		}
		select {
		case <-out:
			return nil
		case err := <-ended:
			return fmt.Errorf("the stream has ended: %w", err)
		}
	}
}

// benchCalls calls the same plugin with and without mutual TLS, one call at a time and many at once, all in turns.
func benchCalls(t *testing.T, r *results, use string) {
	secure, plain := connect(t, use, true), connect(t, use, false)
	rate := map[string][]float64{}
	key := func(s shape, conn *grpc.ClientConn, n int) string { return fmt.Sprint(s.name, conn == secure, n) }
	for range callRounds {
		for _, s := range shapes {
			for _, n := range []int{1, callers} {
				for _, conn := range []*grpc.ClientConn{secure, plain} {
					k := key(s, conn, n)
					rate[k] = append(rate[k], callFor(t, s, conn, n))
				}
			}
		}
	}
	get := func(s shape, conn *grpc.ClientConn, n int) float64 { return median(rate[key(s, conn, n)]) }
	rows := [][]string{{"call", "calls/s, one at a time", fmt.Sprintf("calls/s, %d at once", callers), "mTLS ÷ plain, one", fmt.Sprintf("mTLS ÷ plain, %d", callers)}}
	for _, s := range shapes {
		rows = append(rows, []string{s.name, fmt.Sprintf("%.0f", get(s, secure, 1)), fmt.Sprintf("%.0f", get(s, secure, callers)),
			"**" + ratio(get(s, secure, 1), get(s, plain, 1)) + "**", "**" + ratio(get(s, secure, callers), get(s, plain, callers)) + "**"})
	}
	r.table(fmt.Sprintf("Calls of a plugin that does nothing, medians of %d rounds of %v each", callRounds, callTime), rows...)
	one, many := shapes[0], shapes[1]
	fmt.Fprintf(r, "\nLines a second, one call at a time: %.0f in batches of 1, %.0f in batches of 1,000: **%s** times as many.\n",
		get(one, secure, 1), 1000*get(many, secure, 1), fmt.Sprintf("%.0f", 1000*get(many, secure, 1)/get(one, secure, 1)))
}

// callFor calls for a time, with n callers, and gives the calls a second.
func callFor(t *testing.T, s shape, conn *grpc.ClientConn, n int) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	var streams, all sync.WaitGroup
	defer func() { cancel(); streams.Wait() }()
	calls := make([]func() error, n)
	for i := range calls {
		calls[i] = s.open(ctx, conn, &streams)
		if err := calls[i](); err != nil { // opens the stream
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	var count atomic.Int64
	start := time.Now()
	for _, call := range calls {
		all.Go(func() {
			for time.Since(start) < callTime {
				if err := call(); err != nil {
					t.Errorf("%s: %v", s.name, err)
					return
				}
				count.Add(1)
			}
		})
	}
	all.Wait()
	return float64(count.Load()) / time.Since(start).Seconds()
}

// connect starts the plugin as the kernel does, but that mutual TLS can be left out.
func connect(t *testing.T, use string, mutualTLS bool) *grpc.ClientConn {
	t.Helper()
	lifeline, held, err := os.Pipe() // the plugin ends when its standard input does, which go-plugin takes from here
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdin
	os.Stdin = lifeline
	defer func() { os.Stdin = old }()
	cmd := exec.Command(use)
	cmd.Env = []string{"BAD=idle", "PATH=" + os.Getenv("PATH")}
	client := goplugin.NewClient(&goplugin.ClientConfig{HandshakeConfig: sdk.Handshake, Cmd: cmd, AutoMTLS: mutualTLS, SkipHostEnv: true,
		Plugins: goplugin.PluginSet{sdk.Dispense: sdk.Transport{}}, AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger: hclog.NewNullLogger(), UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: publicDir(t)}})
	t.Cleanup(func() { client.Kill(); held.Close(); lifeline.Close() })
	protocol, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := protocol.Dispense(sdk.Dispense)
	if err != nil {
		t.Fatal(err)
	}
	return raw.(*grpc.ClientConn)
}
