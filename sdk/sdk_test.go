package sdk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// TestMain lets the test binary be a plugin.
func TestMain(m *testing.M) {
	if os.Getenv("SDK_TEST_BE_PLUGIN") != "" {
		Serve("demo", "1.2.3", CheckerFunc(func(context.Context, suffix, Target) error { return nil }))
		return
	}
	goleak.VerifyTestMain(m)
}

// dial serves a stage as Serve does, but within the test's process, and connects to it.
func dial(t *testing.T, stage any, options ...Option) *grpc.ClientConn {
	t.Helper()
	p := newPlugin("test", "1.2.3", stage, options...)
	server := p.server(nil)
	p.register(server)
	lis := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- server.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageSize)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); <-done })
	return conn
}

func TestResolverPushesVersionedTablesAndHearsOfRefusal(t *testing.T) {
	refusals := make(chan error, 1)
	conn := dial(t, resolverStage(func(ctx context.Context, trees <-chan Tree, push func(Table) error) error {
		for tree := range trees {
			err := push(Table{Revision: tree.Revision, Routes: []Route{{Path: "/", Page: "index", Dir: tree.Root, Source: tree.Root}}})
			if tree.Revision == 2 {
				refusals <- err
			}
		}
		return nil
	}))
	trees, tables := make(chan Tree), make(chan Table)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- NewResolver(conn).Resolve(ctx, trees, func(table Table) error {
			tables <- table
			if table.Revision == 2 {
				return errors.New("no such page")
			}
			return nil
		})
	}()
	trees <- Tree{Root: "/site/pages", Revision: 1}
	first := <-tables
	trees <- Tree{Root: "/site/pages", Revision: 2}
	second := <-tables
	if first.Epoch == "" || first.Epoch != second.Epoch || second.Version <= first.Version {
		t.Errorf("epochs %q, %q, versions %d, %d: want one epoch and a rising version", first.Epoch, second.Epoch, first.Version, second.Version)
	}
	if want := (Route{Path: "/", Page: "index", Dir: "/site/pages", Source: "/site/pages"}); len(first.Routes) != 1 || first.Routes[0] != want {
		t.Errorf("routes %v, want %v", first.Routes, want)
	}
	var refused *RefusedError
	if err := <-refusals; !errors.As(err, &refused) || refused.Reason != "no such page" {
		t.Errorf("push of a refused table: %v", err)
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled && !errors.Is(err, context.Canceled) {
		t.Errorf("end of Resolve: %v", err)
	}
}

type resolverStage func(ctx context.Context, trees <-chan Tree, push func(Table) error) error

func (f resolverStage) Resolve(ctx context.Context, trees <-chan Tree, push func(Table) error) error {
	done := make(chan error, 1)
	in := make(chan Tree)
	go func() { done <- f(ctx, in, push) }()
	err := forward(ctx, trees, func(t Tree) error { in <- t; return nil })
	close(in)
	<-done
	return err
}

func TestResolverFuncKeepsItsLastRoutesWhenItFails(t *testing.T) {
	calls := 0
	conn := dial(t, ResolverFunc(func(context.Context, struct{}, Tree) (Table, error) {
		if calls++; calls == 2 {
			return Table{}, errors.New("read pages: permission denied")
		}
		return Table{Routes: []Route{{Path: "/a", Page: "a"}}}, nil
	}))
	trees, tables := make(chan Tree), make(chan Table)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- NewResolver(conn).Resolve(ctx, trees, func(table Table) error { tables <- table; return nil })
	}()
	trees <- Tree{Root: "/p", Revision: 1}
	<-tables
	trees <- Tree{Root: "/p", Revision: 2}
	got := <-tables
	if len(got.Routes) != 1 || got.Revision != 2 || len(got.Diagnostics) != 1 || !strings.Contains(got.Diagnostics[0].Message, "permission denied") {
		t.Errorf("table after a failure: %+v", got)
	}
	cancel()
	<-done
}

func TestWatcherSendsLongListsInParts(t *testing.T) {
	const files = 2*partSize + 1
	conn := dial(t, watcherStage(func(s WatchSet) ChangeSet {
		c := ChangeSet{Version: s.Version, Rescan: true}
		for path, digest := range s.Known {
			c.Changes = append(c.Changes, Change{Path: path, Op: Modified, Digest: digest + "'"})
		}
		return c
	}))
	set := WatchSet{Version: 7, Roots: []string{"/site"}, Debounce: 50 * time.Millisecond, Known: map[string]string{}}
	for i := range files {
		set.Known[fmt.Sprintf("/site/%d", i)] = "d"
	}
	sets, got := make(chan WatchSet, 1), make(chan ChangeSet)
	sets <- set
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- NewWatcher(conn).Watch(ctx, sets, func(c ChangeSet) error { got <- c; return nil })
	}()
	c := <-got
	if c.Version != 7 || !c.Rescan || len(c.Changes) != files || c.Changes[0].Op != Modified || c.Changes[0].Digest != "d'" {
		t.Errorf("got version %d, rescan %v, %d changes, first %+v", c.Version, c.Rescan, len(c.Changes), c.Changes[0])
	}
	cancel()
	<-done
}

type watcherStage func(WatchSet) ChangeSet

func (f watcherStage) Watch(ctx context.Context, sets <-chan WatchSet, report func(ChangeSet) error) error {
	return forward(ctx, sets, func(s WatchSet) error { return report(f(s)) })
}

type builderStage func(ctx context.Context, job Job, event func(Event)) (Result, error)

func (f builderStage) Build(ctx context.Context, job Job, event func(Event)) (Result, error) {
	return f(ctx, job, event)
}

func TestBuilderStreamsEventsAndAResult(t *testing.T) {
	want := Result{OK: true, Release: "r", Artifact: "/out/r/page", SHA256: "s", Inputs: []Input{{"/p/main.go", "d"}},
		Globs: []string{"/p/*.go"}, Env: map[string]string{"A": "b"}, Duration: time.Second}
	conn := dial(t, builderStage(func(_ context.Context, job Job, event func(Event)) (Result, error) {
		event(Event{Step: "compile"})
		event(Event{Log: "# " + job.Page})
		event(Event{Diagnostic: &Diagnostic{File: "/p/main.go", Line: 3, Column: 5, Message: "undefined: x"}})
		return want, nil
	}))
	var events []string
	got, err := NewBuilder(conn).Build(t.Context(), Job{Page: "index"}, func(e Event) {
		line := e.Step + e.Log
		if e.Diagnostic != nil {
			line = e.Diagnostic.String()
		}
		events = append(events, line)
	})
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("result %+v, %v; want %+v", got, err, want)
	}
	if want := []string{"compile", "# index", "/p/main.go:3:5: undefined: x"}; !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

// What a tool prints need not be UTF-8, which protobuf insists on.
func TestAnyBytesAreShown(t *testing.T) {
	conn := dial(t, builderStage(func(_ context.Context, _ Job, event func(Event)) (Result, error) {
		event(Event{Log: "caf\xe9"})
		event(Event{Diagnostic: &Diagnostic{File: "/p/\xff", Message: "na\xefve", Path: "\xfe"}})
		return Result{OK: true}, nil
	}))
	var got []string
	r, err := NewBuilder(conn).Build(t.Context(), Job{}, func(e Event) {
		line := e.Log
		if e.Diagnostic != nil {
			line = e.Diagnostic.String()
		}
		got = append(got, line)
	})
	if err != nil || !r.OK || !slices.Equal(got, []string{"caf\uFFFD", "/p/\uFFFD: \uFFFD: na\uFFFDve"}) {
		t.Errorf("%+v, %v, events %q", r, err, got)
	}
}

func TestCancelledBuildEndsTheJob(t *testing.T) {
	ended := make(chan struct{})
	conn := dial(t, builderStage(func(ctx context.Context, _ Job, event func(Event)) (Result, error) {
		event(Event{Step: "compile"})
		<-ctx.Done()
		close(ended)
		return Result{}, ctx.Err()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := NewBuilder(conn).Build(ctx, Job{}, func(Event) { cancel() })
	if status.Code(err) != codes.Canceled {
		t.Errorf("error %v, want cancelled", err)
	}
	<-ended
}

func TestPanicFailsOneCallOnly(t *testing.T) {
	calls := 0
	conn := dial(t, builderStage(func(context.Context, Job, func(Event)) (Result, error) {
		if calls++; calls == 1 {
			panic("boom")
		}
		return Result{OK: true}, nil
	}))
	_, err := NewBuilder(conn).Build(t.Context(), Job{}, func(Event) {})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "boom") {
		t.Errorf("first call: %v", err)
	}
	if r, err := NewBuilder(conn).Build(t.Context(), Job{}, func(Event) {}); err != nil || !r.OK {
		t.Errorf("second call: %+v, %v", r, err)
	}
}

type checkerStage struct{}

func (checkerStage) Check(ctx context.Context, sets <-chan TargetSet, report func(Health) error) error {
	return forward(ctx, sets, func(s TargetSet) error {
		return report(Health{Target: s.Targets[0].ID, Failures: 3, Reason: "refused", Version: s.Version})
	})
}

func TestCheckerReportsOnItsTargets(t *testing.T) {
	sets, got := make(chan TargetSet, 1), make(chan Health)
	sets <- TargetSet{Version: 4, Targets: []Target{{ID: "api#1", Addr: "127.0.0.1:9000"}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	conn := dial(t, checkerStage{})
	go func() {
		done <- NewChecker(conn).Check(ctx, sets, func(h Health) error { got <- h; return nil })
	}()
	if h, want := <-got, (Health{Target: "api#1", Failures: 3, Reason: "refused", Version: 4}); h != want {
		t.Errorf("got %+v, want %+v", h, want)
	}
	cancel()
	<-done
}

type rotatorStage func(Batch) error

func (f rotatorStage) Write(_ context.Context, b Batch) error { return f(b) }

func TestRotatorAcknowledgesOrSaysWhyNot(t *testing.T) {
	var got Batch
	full := errors.New("write /logs/a.log: no space left on device")
	conn := dial(t, rotatorStage(func(b Batch) error {
		got = b
		if b.Seq == 2 {
			return full
		}
		return nil
	}))
	now := time.Now()
	b := Batch{Seq: 1, Stream: "index", File: "/logs/{date}.log", Lines: []Line{{now, Stderr, []byte("hello")}}, Dropped: 2}
	if err := NewRotator(conn).Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got.Stream != "index" || got.Dropped != 2 || !got.Lines[0].Time.Equal(now) || got.Lines[0].Source != Stderr || string(got.Lines[0].Text) != "hello" {
		t.Errorf("got %+v", got)
	}
	b.Seq = 2
	if err := NewRotator(conn).Write(t.Context(), b); err == nil || !strings.Contains(err.Error(), full.Error()) {
		t.Errorf("error %v, want %v", err, full)
	}
}

type testConfig struct {
	Interval int      `tq:"interval_ms,default=30000,min=1" doc:"time between two probes"`
	Path     string   `tq:"path,default=/health"`
	Mode     string   `tq:"mode,default=fast,oneof=fast|safe"`
	Names    []string `tq:"names,default=a|b"`
	Token    string   `tq:"token,required,sensitive"`
}

func TestConfigIsCheckedAndFilled(t *testing.T) {
	var got testConfig
	conn := dial(t, checkerStage{}, Config(func(_ context.Context, c testConfig) error { got = c; return nil }))
	l := NewLifecycle(conn)
	schema, err := l.Schema(t.Context())
	if err != nil || !slices.Equal(schema.Names(), []string{"interval_ms", "path", "mode", "names", "token"}) || !schema[4].Sensitive || *schema[0].Min != 1 {
		t.Fatalf("schema %+v, %v", schema, err)
	}
	if err := l.Configure(t.Context(), []byte(`{"token":"x","interval_ms":5}`)); err != nil {
		t.Fatal(err)
	}
	if want := (testConfig{5, "/health", "fast", []string{"a", "b"}, "x"}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for config, want := range map[string]string{
		`{}`:                            "config.token: is required",
		`{"token":1}`:                   "config.token: want a string, got 1",
		`{"token":"x","interval_ms":0}`: "config.interval_ms: want at least 1, got 0",
		`{"token":"x","mode":"slow"}`:   `config.mode: want one of fast, safe, got "slow"`,
		`{"token":"x","intervall":1}`:   "config.intervall: unknown key; known are: interval_ms, path, mode, names, token",
		`{"token":null}`:                "config.token: want a string, got null",
		`[]`:                            "config: want a mapping of keys to values",
	} {
		found, err := l.Validate(t.Context(), []byte(config))
		if err != nil || len(found) != 1 || !strings.HasPrefix(found[0].String(), want) {
			t.Errorf("validate %s: %v, %v; want %q", config, found, err, want)
		}
		if err := l.Configure(t.Context(), []byte(config)); err == nil {
			t.Errorf("configure %s: no error", config)
		}
	}
}

func TestInitNamesTheServices(t *testing.T) {
	info, err := NewLifecycle(dial(t, checkerStage{})).Init(t.Context(), "0.1.0", "i", "warn")
	if err != nil || info.Name != "test" || info.Version != "1.2.3" || !slices.Equal(info.Services, []string{"tqserver.plugin.checker.v1.Checker"}) {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*.log", "a/b.log", true}, {"*.log", "a/b.go", false}, {"node_modules", "a/node_modules/x.go", true},
		{"/p/*.go", "/p/main.go", true}, {"/p/*.go", "/p/q/main.go", false}, {"/p/**", "/p/q/main.go", true},
		{"/p/**/*.html", "/p/a.html", true}, {"/p/**/*.html", "/p/x/y/a.html", true}, {"**/main.go", "a/main.go", true},
		{"/p/[", "/p/[", false}, {QuoteMatch("/p[1]/*") + "/*.go", "/p[1]/*/a.go", true}, {QuoteMatch("/p[1]"), "/p1", false},
	} {
		if got := Match(c.pattern, c.name); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}
