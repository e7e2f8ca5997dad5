package stagetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tqserver/tqserver/sdk"
)

const (
	protocolPage = "docs/plugins/protocol.md#"

	describeLimit  = 10 * time.Second
	heartbeatLimit = time.Second
	cancelLimit    = time.Second
	lifelineLimit  = 5 * time.Second
	heartbeats     = 20
	cycles         = 4 // of a stream that is opened, used and cancelled
	bigValue       = 8 << 20
	strangeKey     = "stagetest_no_such_key"
)

// see gives a hint with its place in the protocol page.
func see(demand, section string) string { return demand + " (" + protocolPage + section + ")" }

func commonChecks() []check {
	c := func(name, doc, hint, section string, run func(context.Context, *trial) error) check {
		return check{suite: "common", name: name, doc: doc, hint: see(hint, section), run: run}
	}
	cold := func(c check) check { c.cold = true; return c }
	alone := func(c check) check { c.alone = true; return c }
	return []check{
		c("handshake", "the handshake line comes within 5 s, as the first line of stdout",
			"print `1|1|unix|PATH|grpc|CERTIFICATE` before anything else, at once", "handshake", checkHandshake),
		cold(c("cookie", "without the cookie it ends with a text and a status that is not 0",
			"without TQSERVER_PLUGIN in the environment, say on stderr that this is a plugin, and exit with 1", "process", checkCookie)),
		c("mtls", "a client without the kernel's certificate is refused",
			"accept only the client certificate that PLUGIN_CLIENT_CERT holds, and send your own in the handshake line", "transport", checkMTLS),
		c("describe", "--describe prints what Init and Schema answer, also without the cookie",
			"with --describe as the last argument, print one JSON object and exit with 0", "describe", checkDescribe),
		c("init", "Init answers with name and version",
			"Init is the first call; name and version are not empty", "lifecycle", checkInit),
		c("service", "the stage's service is among those that Init lists",
			"list the full names of the gRPC services in InitResponse.services", "lifecycle", checkService),
		c("unknown-call", "an unknown call is answered with Unimplemented",
			"answer calls that you do not have with code 12, Unimplemented: that is how optional calls are found out", "lifecycle", checkUnknownCall),
		c("stdout", "nothing is on stdout besides the handshake line",
			"standard output belongs to the handshake: log to stderr", "handshake", checkStdout),
		c("stderr", "each line on stderr is JSON in hclog's form",
			`write {"@level":"info","@message":"…","@timestamp":"…"}, or the line has no level in the server's log`, "log", checkStderr),
		c("unknown-key", "an unknown key of the configuration is refused, with its path",
			"list all keys in Schema, or answer Validate with a diagnostic whose path is config.KEY", "configuration", checkUnknownKey),
		c("validate-pure", "Validate changes no file and opens no port, and Configure works after it",
			"Validate is pure: it is called while another instance serves", "configuration", checkValidatePure),
		c("standby", "after Configure it waits for its stage's first call without touching anything",
			"another instance may be at work until then: change no file and open no port in Configure", "standby", checkStandby),
		c("configure-twice", "Configure can be called again",
			"Configure comes again whenever the configuration changes", "configuration", checkConfigureTwice),
		c("configure-open", "Configure leaves an open stream open",
			"Configure may come at any time, also while streams are open: they go on", "configuration", checkConfigureOpen),
		c("configure-bad", "a Configure that cannot be read is refused and changes nothing",
			"answer a bad configuration with an error, and keep the one before", "configuration", checkConfigureBad),
		c("big-config", "a configuration of 8 MiB is answered",
			"take messages of up to 16 MiB in both directions", "transport", checkBigConfig),
		alone(c("heartbeat", "Check answers within 1 s, with the nonce, under load",
			"Check waits for nothing that the stage's work holds", "lifecycle", checkHeartbeat)),
		c("log-level", "SetLogLevel works, if the plugin has the capability log-level",
			"a plugin with the capability log-level has the call SetLogLevel", "lifecycle", checkLogLevel),
		c("signals", "SIGTERM and SIGINT change nothing",
			"ignore SIGTERM and SIGINT: a terminal or a service manager sends them to all, and the kernel still needs you", "process", checkSignals),
		c("shutdown", "Drain and Shutdown are answered and the process ends",
			"answer Drain and Shutdown, and exit when go-plugin's controller asks for it or standard input ends", "lifecycle", checkShutdown),
		alone(c("cancel", "a cancelled stream ends within 1 s and leaves nothing open",
			"end a stream's work when its context ends; another stream may follow at once", "streams", checkCancel)),
		c("lifeline", "it ends within 5 s after its standard input did",
			"the end of standard input means that the kernel is gone: exit", "process", checkLifeline),
		c("children", "nothing that it started outlives it",
			"end what you have started before Shutdown is answered", "process", checkChildren),
	}
}

func checkHandshake(ctx context.Context, t *trial) error {
	s, err := t.start(ctx)
	if err != nil {
		return err
	}
	parts := strings.Split(s.proc.stdout.get()[0], "|")
	if len(parts) < 6 || parts[5] == "" {
		return fmt.Errorf("the handshake line %q has no certificate", shorten(strings.Join(parts, "|")))
	}
	return nil
}

// command runs the plugin without a kernel.
func (t *trial) command(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, t.plugin.Path, append(slices.Clone(t.plugin.Args), args...)...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = t.work, t.environ(), &out, &errs, time.Second
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func checkCookie(ctx context.Context, t *trial) error {
	return t.limit(ctx, callLimit, "start without the cookie", func(ctx context.Context) error {
		stdout, stderr, err := t.command(ctx)
		var exit *exec.ExitError
		switch {
		case err == nil:
			return errors.New("it exited with status 0")
		case !errors.As(err, &exit) || exit.ExitCode() <= 0:
			return err
		case strings.TrimSpace(stdout+stderr) == "":
			return errors.New("it said nothing")
		}
		return nil
	})
}

func checkDescribe(ctx context.Context, t *trial) error {
	var printed sdk.Description
	err := t.limit(ctx, describeLimit, "--describe", func(ctx context.Context) error {
		stdout, stderr, err := t.command(ctx, "--describe")
		if err != nil {
			return fmt.Errorf("%w: %s", err, shorten(strings.TrimSpace(stderr)))
		}
		in := json.NewDecoder(strings.NewReader(stdout))
		if err := in.Decode(&printed); err != nil {
			return fmt.Errorf("read %q: %w", shorten(stdout), err)
		}
		if in.More() {
			return errors.New("it printed more than one JSON object")
		}
		return nil
	})
	if err != nil {
		return err
	}
	s, err := t.initialized(ctx)
	if err != nil {
		return err
	}
	return sameDescription(printed, s)
}

func sameDescription(d sdk.Description, s *subject) error {
	for _, p := range []struct {
		key          string
		printed, rpc any
	}{
		{"name", d.Name, s.info.Name}, {"version", d.Version, s.info.Version},
		{"services", sorted(d.Services), sorted(s.info.Services)},
		{"capabilities", sorted(d.Capabilities), sorted(s.info.Capabilities)},
		{"protocol", d.Protocol, int(sdk.Handshake.ProtocolVersion)},
		{"schema", asJSON(append(sdk.Schema{}, d.Schema...)), asJSON(append(sdk.Schema{}, s.schema...))},
	} {
		if !reflect.DeepEqual(p.printed, p.rpc) {
			return fmt.Errorf("--describe prints the %s %v, Init and Schema say %v", p.key, p.printed, p.rpc)
		}
	}
	return nil
}

func sorted(in []string) []string {
	out := append([]string{}, in...)
	slices.Sort(out)
	return out
}

func asJSON(v any) string { b, _ := json.Marshal(v); return string(b) } // plain data

func checkInit(ctx context.Context, t *trial) error {
	s, err := t.initialized(ctx)
	if err != nil {
		return err
	}
	if s.info.Name == "" || s.info.Version == "" {
		return fmt.Errorf("Init answered the name %q and the version %q", s.info.Name, s.info.Version)
	}
	return nil
}

func checkService(ctx context.Context, t *trial) error {
	s, err := t.initialized(ctx)
	if err != nil {
		return err
	}
	if want := sdk.ServiceName(t.stage); !slices.Contains(s.info.Services, want) {
		return fmt.Errorf("it offers %v, and not %s", s.info.Services, want)
	}
	return nil
}

func checkUnknownCall(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	for _, method := range []string{"/tqserver.plugin.lifecycle.v1.Lifecycle/NoSuchCall", "/tqserver.plugin.none.v1.None/Call"} {
		err := t.limit(ctx, callLimit, method, func(ctx context.Context) error {
			return s.conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
		})
		if status.Code(err) != codes.Unimplemented {
			return fmt.Errorf("%s was answered with %v, want Unimplemented", method, status.Code(err))
		}
	}
	return s.check(ctx, callLimit, 1)
}

// live takes a plugin through a whole life.
func (t *trial) live(ctx context.Context) (*subject, error) {
	s, err := t.ready(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	if err := s.stop(ctx); err != nil {
		return nil, err
	}
	<-s.proc.done
	return s, nil
}

func checkStdout(ctx context.Context, t *trial) error {
	s, err := t.live(ctx)
	if err != nil {
		return err
	}
	if printed := s.proc.stdout.get(); len(printed) != 1 {
		return fmt.Errorf("after the handshake it printed %q", shorten(printed[1]))
	}
	return nil
}

func checkStderr(ctx context.Context, t *trial) error {
	s, err := t.live(ctx)
	if err != nil {
		return err
	}
	for _, line := range append(s.proc.stderr.get(), s.syncErr.get()...) {
		var entry map[string]any
		err := json.Unmarshal([]byte(line), &entry)
		_, isText := entry["@message"].(string)
		level, _ := entry["@level"].(string)
		if err != nil || !isText || hclog.LevelFromString(level) == hclog.NoLevel {
			return fmt.Errorf("it wrote the line %q", shorten(line))
		}
	}
	return nil
}

func checkHeartbeat(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	ended, started := make(chan error, 1), make(chan struct{})
	go func() { ended <- s.work(work, started) }()
	select {
	case <-started:
	case err := <-ended:
		return err
	}
	for i := range uint64(heartbeats) {
		if err = s.check(ctx, heartbeatLimit, i+1); err != nil {
			break
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the work ended: %w", err)
		case <-time.After(20 * time.Millisecond): // the load is spread over 20 heartbeats
		}
	}
	stop()
	<-ended
	return err
}

// work gives the plugin one piece of work after the other until ctx ends. started is closed after the first.
func (s *subject) work(ctx context.Context, started chan<- struct{}) error {
	using, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer using.close()
	for i := 0; ctx.Err() == nil; i++ {
		if err := using.exchange(ctx); err != nil {
			return err
		}
		if i == 0 {
			close(started)
		}
	}
	return context.Cause(ctx)
}

func checkLogLevel(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(s.info.Capabilities, sdk.CapabilityLogLevel) {
		return skipError("the plugin has not the capability " + sdk.CapabilityLogLevel)
	}
	for _, level := range []string{"error", "trace"} {
		err := t.limit(ctx, callLimit, "SetLogLevel", func(ctx context.Context) error { return s.life.SetLogLevel(ctx, level) })
		if err != nil {
			return err
		}
	}
	return s.check(ctx, callLimit, 1)
}

func checkSignals(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	using, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer using.close()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		if err := s.proc.signal(sig); err != nil {
			return err
		}
		err := using.exchange(ctx)
		if err == nil {
			err = s.check(ctx, callLimit, 1)
		}
		if err != nil {
			return fmt.Errorf("after %v: %w", sig, s.died(ctx, err))
		}
	}
	return nil
}

func checkShutdown(ctx context.Context, t *trial) error {
	_, err := t.live(ctx)
	return err
}

func checkCancel(ctx context.Context, t *trial) error {
	switch t.stage {
	case "builder":
		return skipError("a builder has no stream that stays open: see builder/cancel")
	case "rotator":
		return skipError("a rotator has no stream")
	}
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	var before int
	for i := range cycles {
		if err := s.use(ctx); err != nil {
			return fmt.Errorf("stream %d, after those before were cancelled: %w", i+1, err)
		}
		if i == 0 {
			before, _ = descriptors(s.proc.pid())
		}
	}
	if err := t.limit(ctx, cancelLimit, "Drain after all streams were cancelled", s.life.Drain); err != nil && status.Code(err) != codes.Unimplemented {
		return err
	}
	var now int
	return t.until(ctx, cancelLimit,
		func() string {
			return fmt.Sprintf("%d more streams were opened and cancelled, and %d more files are open", cycles-1, now-before)
		},
		func() bool {
			count, ok := descriptors(s.proc.pid())
			now = count
			return !ok || now < before+cycles-1
		})
}

func checkLifeline(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	using, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer using.close()
	if err := using.exchange(ctx); err != nil {
		return err
	}
	if err := s.proc.lifeline.Close(); err != nil {
		return err
	}
	if err := s.exits(ctx, lifelineLimit, "the end of its standard input"); err != nil {
		return err
	}
	return s.childless(ctx)
}

func checkChildren(ctx context.Context, t *trial) error {
	s, err := t.live(ctx)
	if err != nil {
		return err
	}
	return s.childless(ctx)
}

// childless waits for the end of everything that an ended plugin started.
func (s *subject) childless(ctx context.Context) error {
	var left []int
	return s.t.until(ctx, time.Second,
		func() string { return fmt.Sprintf("of what it started %s still runs", describeAll(left)) },
		func() bool { left = s.proc.left(); return len(left) == 0 })
}
