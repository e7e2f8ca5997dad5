package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/tqserver/tqserver/kernel/process"
	"github.com/tqserver/tqserver/sdk"
)

const (
	describeLimit = 10 * time.Second // generous: an interpreter may have to load its libraries
	describeSize  = 1 << 20          // bytes of each of stdout and stderr
	describeName  = 100              // bytes of a name or a version
)

// Describe asks what a plugin is, by `FILE --describe`, without putting it to work. It runs in the same place and with
// the same environment as the plugin would, and takes at most ten seconds; no process is left of it.
func Describe(ctx context.Context, spec Spec) (sdk.Description, error) {
	limit := fmt.Errorf("no answer within %s", describeLimit)
	ctx, cancel := context.WithTimeoutCause(ctx, describeLimit, limit)
	defer cancel()
	cmd := &exec.Cmd{Path: spec.Path, Args: append(append([]string{spec.Name}, spec.Args...), "--describe"), Dir: spec.Dir, Env: spec.Env}
	out, errs, err := capture(ctx, cmd)
	var d sdk.Description
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case len(out) > describeSize:
		err = fmt.Errorf("it printed more than %d bytes", describeSize)
	case err != nil:
		if words := strings.TrimSpace(string(errs)); words != "" {
			err = fmt.Errorf("%w: %s", err, shorten(words[strings.LastIndex(words, "\n")+1:]))
		}
	default:
		d, err = sdk.ReadDescription(bytes.NewReader(out))
	}
	if err == nil && !(shortLine(d.Name) && shortLine(d.Version)) {
		err = fmt.Errorf("its name and its version must be one line each, of at most %d bytes", describeName)
	}
	if err != nil {
		return sdk.Description{}, fmt.Errorf("%s: describe: %w", spec.label(), err)
	}
	return d, nil
}

func shortLine(s string) bool {
	return len(s) <= describeName && !strings.ContainsFunc(s, unicode.IsControl)
}

// Unfit tells why a plugin of this description cannot be what the spec names it for, in a line for each reason.
func (s *Spec) Unfit(d sdk.Description) []string {
	var reasons []string
	if want := int(sdk.Handshake.ProtocolVersion); d.Protocol != want {
		reasons = append(reasons, fmt.Sprintf("it speaks version %d of the handshake, this tqserver speaks %d: use a version of the plugin that was built for this tqserver", d.Protocol, want))
	}
	if want := sdk.ServiceName(s.Stage); !slices.Contains(d.Services, want) {
		reasons = append(reasons, fmt.Sprintf("it offers %s; wanted is %s: name the plugin under its own stage, or use a version of it that speaks this one", strings.Join(d.Services, ", "), want))
	}
	return reasons
}

// capture runs a command until it exits or ctx ends, and gives what it wrote: of each stream describeSize and a byte
// at most. Whatever the command started is killed with it.
func capture(ctx context.Context, cmd *exec.Cmd) (stdout, stderr []byte, err error) {
	var readers [2]*os.File
	var texts [2][]byte
	var reading sync.WaitGroup
	defer reading.Wait()
	for i, stream := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		defer w.Close() // again, if the command was started
		readers[i], *stream = r, w
		reading.Go(func() {
			defer r.Close() // what comes after the limit has no reader
			texts[i], _ = io.ReadAll(io.LimitReader(r, describeSize+1))
		})
	}
	if err := process.Start(cmd); err != nil {
		return nil, nil, errors.Join(err, cmd.Stdout.(*os.File).Close(), cmd.Stderr.(*os.File).Close())
	}
	_, _ = cmd.Stdout.(*os.File).Close(), cmd.Stderr.(*os.File).Close()
	err = waitGroup(ctx, cmd)
	for _, r := range readers {
		_ = r.SetReadDeadline(time.Now().Add(drainLimit)) // a process that left the group may hold the other end
	}
	reading.Wait()
	return texts[0], texts[1], err
}

// waitGroup waits for a command, which it kills when ctx ends, and kills what the command leaves.
func waitGroup(ctx context.Context, cmd *exec.Cmd) error {
	killed := make(chan struct{})
	kill := func() { _ = process.KillGroup(cmd.Process.Pid, syscall.SIGKILL) }
	stop := context.AfterFunc(ctx, func() { defer close(killed); kill() })
	return process.Wait(cmd, func() {
		if !stop() {
			<-killed
		}
		kill()
	})
}
