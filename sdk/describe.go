package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// Description is what a plugin tells about itself without being started: `FILE --describe` prints it as one JSON
// object and exits with 0. Name to Capabilities are what Init answers.
type Description struct {
	Name         string   `json:"name"`
	Version      string   `json:"version"`
	SDKVersion   string   `json:"sdk_version,omitempty"`
	Language     string   `json:"language,omitempty"`
	Services     []string `json:"services"` // full names, e.g. tqserver.plugin.resolver.v1.Resolver
	Capabilities []string `json:"capabilities"`
	Protocol     int      `json:"protocol"` // version of the handshake
	Schema       Schema   `json:"schema"`   // of the `config:` block
}

const (
	describeFlag = "--describe"

	// describeLimit is generous: an interpreter may have to load its libraries.
	describeLimit = 10 * time.Second
)

// Stages gives the stages that the plugin implements, in the version that this SDK speaks, by their short names.
func (d Description) Stages() []string {
	var stages []string
	for _, name := range d.Services {
		for _, stage := range []string{"resolver", "builder", "watcher", "checker", "rotator"} {
			if name == ServiceName(stage) {
				stages = append(stages, stage)
			}
		}
	}
	return stages
}

// ServiceName gives the full name of the gRPC service of a stage, in the version that this SDK speaks.
func ServiceName(stage string) string {
	if stage == "" {
		return ""
	}
	return "tqserver.plugin." + stage + ".v1." + strings.ToUpper(stage[:1]) + stage[1:]
}

// Describe runs `path args… --describe` and reads what it prints. It takes at most ten seconds. A program that is no
// plugin is executed as well: name only what you trust.
func Describe(ctx context.Context, path string, args ...string) (Description, error) {
	limit := fmt.Errorf("no answer within %s", describeLimit)
	ctx, cancel := context.WithTimeoutCause(ctx, describeLimit, limit)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path, append(args, describeFlag)...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return Description{}, fmt.Errorf("describe %s: %w%s", path, err, lastLine(errs.String()))
	}
	d, err := ReadDescription(&out)
	if err != nil {
		return Description{}, fmt.Errorf("describe %s: %w", path, err)
	}
	return d, nil
}

// ReadDescription reads what a plugin printed for --describe.
func ReadDescription(r io.Reader) (Description, error) {
	var d Description
	in := json.NewDecoder(r)
	if err := in.Decode(&d); err != nil {
		return Description{}, fmt.Errorf("read what it printed: %w: a plugin prints one JSON object for %s", err, describeFlag)
	}
	if in.More() {
		return Description{}, errors.New("it printed more than one JSON object")
	}
	return d, errors.Join(missing("name", d.Name), missing("services", strings.Join(d.Services, "")))
}

func missing(key, value string) error {
	if value != "" {
		return nil
	}
	return fmt.Errorf("what it printed has no %q", key)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return ": " + last
	}
	return ""
}

func (p *plugin) describe() Description {
	return Description{Name: p.name, Version: p.version, SDKVersion: Version, Language: "go", Services: p.services(),
		Capabilities: p.capabilities, Protocol: int(Handshake.ProtocolVersion), Schema: append(Schema{}, p.schema...)}
}

func (p *plugin) printDescription(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(p.describe())
}
