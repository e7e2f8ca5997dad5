package sdk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
)

// AttachEnv is the variable that tells a kernel in dev mode which plugins it is not to start because they run already:
// a JSON object from "STAGE/NAME" to an Attach, as `FILE --debug` prints it.
const AttachEnv = "TQSERVER_ATTACH"

// Attach is how to reach a plugin that was started by hand.
type Attach struct {
	Protocol        string     `json:"protocol"`         // "grpc"
	ProtocolVersion int        `json:"protocol_version"` // of the handshake
	PID             int        `json:"pid"`
	Addr            AttachAddr `json:"addr"`
}

// AttachAddr is where it listens.
type AttachAddr struct {
	Network string `json:"network"` // "unix", or "tcp" on a loopback address
	Address string `json:"address"` // absolute path, or host:port
}

// alone does what a plugin does when it was started by hand, and tells whether that was all. flag is its last argument.
func (p *plugin) alone(flag string) (done bool, err error) {
	switch flag {
	case describeFlag:
		return true, p.printDescription(os.Stdout)
	case "--version":
		_, err = fmt.Fprintf(os.Stdout, "%s %s (tqserver sdk %s, %s)\n", p.name, p.version, Version, runtime.Version())
		return true, err
	case "--help", "-h":
		_, err = io.WriteString(os.Stdout, p.help())
		return true, err
	case "--debug":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return true, p.debug(ctx, os.Stdout)
	}
	if os.Getenv(Handshake.MagicCookieKey) != Handshake.MagicCookieValue {
		return true, fmt.Errorf("%s %s is a plugin of tqserver and is started by it: name this file in the `plugins:` section of server.yaml; --help says how", p.name, p.version)
	}
	return false, nil
}

// help says what the plugin is for and how to put it to work.
func (p *plugin) help() string {
	var b strings.Builder
	stages := p.describe().Stages()
	fmt.Fprintf(&b, "%s %s is a plugin of tqserver: a %s.\n\ntqserver starts it. Name this file in config/server.yaml:\n\n", p.name, p.version, strings.Join(stages, ", "))
	for _, stage := range stages {
		fmt.Fprintf(&b, "  plugins:\n    %s:\n      use: %s\n", stage, p.usedAs())
		for i, f := range p.schema {
			if i == 0 {
				b.WriteString("      config:\n")
			}
			fmt.Fprintf(&b, "        %-24s # %s\n", f.Name+": "+cmp.Or(f.Default, "…"), f.about())
		}
	}
	b.WriteString(`
Started by hand it takes one of these:

  --describe  print what it is, as JSON
  --debug     serve for a debugger, and print what "tqserver dev" needs to attach to it
  --version   print its version
  --help      print this
`)
	return b.String()
}

// usedAs is what the plugin's entry in the configuration has.
func (p *plugin) usedAs() string {
	if len(os.Args) > 2 { // plugin run STAGE/NAME of tqserver itself
		_, name, _ := strings.Cut(os.Args[len(os.Args)-2], "/")
		return "builtin:" + name
	}
	path, err := filepath.Abs(os.Args[0])
	if err != nil {
		path = os.Args[0]
	}
	return path
}

// about describes a key in one line.
func (f Field) about() string {
	parts := []string{cmp.Or(f.Doc, f.Type)}
	if f.Required {
		parts = append(parts, "required")
	}
	if f.OneOf != nil {
		parts = append(parts, "one of "+strings.Join(f.OneOf, ", "))
	}
	return strings.Join(parts, "; ")
}

// debug serves without a kernel until ctx ends, and tells how to attach one. It can be used by one kernel after the
// other: none of them ends it.
func (p *plugin) debug(ctx context.Context, w io.Writer) error {
	p.logTo(hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr}))
	dir, err := os.MkdirTemp("", "tqserver-debug-") // mode 0700
	if err != nil {
		return fmt.Errorf("make the directory of the socket: %w", err)
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("unix", filepath.Join(dir, "plugin.sock"))
	if err != nil {
		return fmt.Errorf("open a socket (set TMPDIR to a shorter path if it is too long): %w", err)
	}
	server := p.server(nil)
	p.register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	err = p.printAttach(w, Attach{Protocol: "grpc", ProtocolVersion: int(Handshake.ProtocolVersion), PID: os.Getpid(),
		Addr: AttachAddr{Network: "unix", Address: listener.Addr().String()}})
	if err == nil {
		<-ctx.Done()
	}
	server.Stop()
	<-served // it was told to
	drain, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	return errors.Join(err, p.drain(drain), p.close())
}

// printAttach tells how a kernel attaches to this process.
func (p *plugin) printAttach(w io.Writer, a Attach) error {
	to := map[string]Attach{}
	for _, stage := range p.describe().Stages() {
		to[stage+"/"+p.name] = a
	}
	text, err := json.Marshal(to)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, `%s %s waits for a kernel, as process %d. In the directory of a site whose server.yaml names
this plugin, set this and run "tqserver dev":

%s='%s'

Put the name that the configuration has, if it is another one. SIGINT ends the plugin.
`, p.name, p.version, a.PID, AttachEnv, text)
	return err
}
