package stage

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/sdk"
)

// Attached are plugins that somebody started in a debugger, by "STAGE/NAME". They are connected to instead of being
// started: without the checks of a file and without TLS, so only for a developer. They are never ended.
type Attached map[string]sdk.Attach

// ParseAttached reads what plugins print with --debug, the value of sdk.AttachEnv. Every plugin in it must be one that
// the configuration names: NAME is that of a built-in plugin, the last part of a path, or the whole path.
func ParseAttached(text string, plugins config.Plugins) (Attached, error) {
	in := json.NewDecoder(strings.NewReader(text))
	in.DisallowUnknownFields()
	var a Attached
	if err := in.Decode(&a); err != nil || in.More() {
		return nil, fmt.Errorf("read %s: %w: set it to what the plugin prints with --debug", sdk.AttachEnv, orMore(err))
	}
	configured := uses(plugins)
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if err := checkAttach(a[key]); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", sdk.AttachEnv, key, err)
		}
		if n := len(slices.DeleteFunc(slices.Clone(configured), func(u use) bool { return !slices.Contains(u.keys(), key) })); n != 1 {
			return nil, fmt.Errorf("%s: %s fits %d of the configured plugins, want one; configured are %s: correct the name, or name the plugin in the configuration", sdk.AttachEnv, key, n, list(configured))
		}
	}
	return a, nil
}

func orMore(err error) error {
	if err == nil {
		return fmt.Errorf("something follows the JSON object")
	}
	return err
}

// checkAttach refuses what cannot be, or should not be, connected to.
func checkAttach(a sdk.Attach) error {
	if want := int(sdk.Handshake.ProtocolVersion); a.ProtocolVersion != want {
		return protocolError(a.ProtocolVersion)
	}
	if a.Protocol != "grpc" {
		return fmt.Errorf("protocol is %q, want \"grpc\"", a.Protocol)
	}
	if a.PID <= 1 {
		return fmt.Errorf("pid is %d, want that of the plugin", a.PID)
	}
	switch a.Addr.Network {
	case "unix":
		if filepath.IsAbs(a.Addr.Address) {
			return nil
		}
	case "tcp":
		if at, err := netip.ParseAddrPort(a.Addr.Address); err == nil && at.Addr().IsLoopback() {
			return nil
		}
	}
	return fmt.Errorf("address is %s %q, want unix and an absolute path, or tcp and a port of 127.0.0.1", a.Addr.Network, a.Addr.Address)
}

// use is one entry of the configuration.
type use struct{ stage, use string }

func uses(p config.Plugins) []use {
	all := []use{{"resolver", p.Resolver.Use}}
	for _, b := range p.Builder {
		all = append(all, use{"builder", b.Use})
	}
	return append(all, use{"watcher", p.Watcher.Use}, use{"checker", p.Checker.Use}, use{"rotator", p.Rotator.Use})
}

// keys are the names under which an entry may be attached to, the usual one first.
func (u use) keys() []string {
	if name, ok := strings.CutPrefix(u.use, "builtin:"); ok {
		return []string{u.stage + "/" + name}
	}
	base := filepath.Base(u.use)
	return []string{u.stage + "/" + base, u.stage + "/" + strings.TrimSuffix(base, filepath.Ext(base)), u.stage + "/" + u.use}
}

func list(all []use) string {
	var names []string
	for _, u := range all {
		names = append(names, fmt.Sprintf("%s (use: %s)", u.keys()[0], u.use))
	}
	return strings.Join(names, ", ")
}

// find tells how to reach the plugin of an entry; nil: it is to be started.
func (a Attached) find(stage, entry string) *sdk.Attach {
	for _, key := range (use{stage, entry}).keys() {
		if at, ok := a[key]; ok {
			return &at
		}
	}
	return nil
}

// attach connects to a plugin that runs in a debugger, in place of its launch.
func (i *instance) attach(ctx context.Context) error {
	a := i.spec.attach
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, a.Addr.Network, a.Addr.Address)
	}
	conn, err := grpc.NewClient("passthrough:plugin", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(sdk.MaxMessageSize), grpc.MaxCallSendMsgSize(sdk.MaxMessageSize)))
	if err != nil {
		return err
	}
	context.AfterFunc(i.alive, func() { conn.Close() })
	i.conn, i.life = conn, sdk.NewLifecycle(conn)
	i.nonce++
	if err := i.life.Check(ctx, i.nonce); err != nil {
		return fmt.Errorf("attach to pid %d at %s: %w: start the plugin with --debug again, and set %s to what it prints", a.PID, a.Addr.Address, err, sdk.AttachEnv)
	}
	i.proc.pid = a.PID // for the status: the process is not ours
	i.log.Info(fmt.Sprintf("attached to pid %d for debugging", a.PID), "addr", a.Addr.Address)
	return nil
}

// detach leaves an attached plugin as it is, once its jobs have ended.
func (i *instance) detach() {
	ctx, cancel := context.WithTimeout(i.alive, i.options.Limits.StopTimeout)
	defer cancel()
	i.awaitCalls(ctx)
	i.kill(errStopped)
}

// forgive takes no answer for well where a debugger may hold the plugin: its connection tells when it is gone.
func (i *instance) forgive(err error) error {
	if i.spec.attach != nil && status.Code(err) == codes.DeadlineExceeded {
		return nil
	}
	return err
}
