package stage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/sdk"
)

// step is one part of a launch. Its context ends with the step's time limit, the caller's context or the instance.
type step struct {
	name string
	run  func(i *instance, ctx context.Context) error
}

var (
	checkSteps  = []step{{"start", (*instance).shakeHands}, {"init", (*instance).init}, {"schema", (*instance).readSchema}, {"config", (*instance).checkConfig}}
	readySteps  = []step{{"configure", (*instance).configure}, {"check", (*instance).check}}
	launchSteps = slices.Concat(checkSteps, readySteps)
)

// launch starts a plugin and takes it through the steps. Whatever goes wrong, no process and no file is left of it,
// and the error is an [*Error].
func launch(ctx context.Context, spec *Spec, o Options, steps []step) (*instance, error) {
	dir, err := filepath.Abs(o.RuntimeDir) // the plugin works in another directory
	if err == nil {
		o.RuntimeDir, err = dir, privateDir(dir)
	}
	if err != nil {
		return nil, &Error{Stage: spec.Stage, Name: spec.Name, Step: "start", Err: fmt.Errorf("make the directory of its socket: %w", err)}
	}
	i := newInstance(spec, o)
	if err := i.advance(ctx, steps); err != nil {
		return nil, err
	}
	return i, nil
}

// advance takes an instance through steps of its launch. After an error nothing is left of it.
func (i *instance) advance(ctx context.Context, steps []step) error {
	for _, s := range steps {
		limit := i.options.Limits.RPCTimeout
		if s.name == "start" {
			limit = i.options.Limits.StartTimeout
		}
		if err := i.perform(ctx, s, limit); err != nil {
			return i.bury(s.name, err)
		}
	}
	i.started = time.Now()
	return nil
}

// lateError is the end of a step that took too long.
type lateError struct{ limit time.Duration }

func (e *lateError) Error() string { return fmt.Sprintf("no answer within %s", e.limit) }

// perform runs one step. Its error is the reason for which the context ended, if it did.
func (i *instance) perform(ctx context.Context, s step, limit time.Duration) error {
	late := &lateError{limit}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	ctx, end := i.during(ctx)
	defer end()
	err := s.run(i, ctx)
	if at, _ := ctx.Deadline(); status.Code(err) == codes.DeadlineExceeded && time.Until(at) < 100*time.Millisecond {
		<-ctx.Done() // the plugin's clock was first
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// shakeHands starts the process and connects to it.
func (i *instance) shakeHands(ctx context.Context) error {
	if i.spec.attach != nil {
		return i.attach(ctx)
	}
	stop := context.AfterFunc(ctx, i.proc.kill) // go-plugin takes no context
	defer stop()
	protocol, err := i.client.Client()
	if err == nil {
		raw, err := protocol.Dispense(sdk.Dispense)
		if err != nil {
			return err
		}
		i.conn = raw.(*grpc.ClientConn) // that is what sdk.Transport gives
		i.life = sdk.NewLifecycle(i.conn)
		return nil
	}
	if ctx.Err() == nil && i.proc.firstLine() == "" && i.proc.ID() != "" && i.proc.awaitExit(exitGrace) == nil {
		return errors.New("standard output was closed before the handshake; is this a plugin of tqserver?")
	}
	return err
}

// startError adds to the failure of a start what the plugin printed in place of a handshake.
func startError(err error, first string) error {
	if mismatch := checkHandshake(first); mismatch != nil {
		return mismatch
	}
	if first == "" || strings.Count(first, "|") >= 3 {
		return err
	}
	return fmt.Errorf("standard output began with %q, which is no handshake (%w): a plugin prints nothing before sdk.Serve, and logs to stderr", shorten(first), err)
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

func (i *instance) init(ctx context.Context) error {
	instance := fmt.Sprintf("%s-%s-%d", i.spec.Stage, i.proc.ID(), time.Now().UnixNano())
	i.level = i.log.GetLevel()
	info, err := i.life.Init(ctx, i.options.KernelVersion, instance, i.level.String())
	if err != nil {
		return err
	}
	i.info = info
	return checkServices(i.spec.Stage, info)
}

// readSchema gets the keys of the plugin's configuration. A plugin that declares none by not having the call checks
// its configuration itself, in Validate.
func (i *instance) readSchema(ctx context.Context) error {
	schema, err := i.life.Schema(ctx)
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	if schema == nil {
		schema = sdk.Schema{}
	}
	i.schema = schema
	return err
}

func (i *instance) checkConfig(ctx context.Context) error { return i.checkSpec(ctx, i.spec) }

// checkSpec asks schema and plugin whether the configuration of spec is valid. The error is [config.Errors] then.
func (i *instance) checkSpec(ctx context.Context, spec *Spec) error {
	if i.schema != nil {
		if found := checkSchema(spec, i.schema); len(found) > 0 {
			return found
		}
	}
	found, err := i.life.Validate(ctx, spec.Config)
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	var errs config.Errors
	for _, d := range found {
		if e := locate(spec, d, i.schema); d.Warning {
			i.log.Warn(e.Error())
		} else {
			errs = append(errs, e)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return err
}

func (i *instance) configure(ctx context.Context) error { return i.life.Configure(ctx, i.spec.Config) }
