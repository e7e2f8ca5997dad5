package stage

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Validate starts the plugin of spec, asks it about its configuration, and stops it. The configuration is not
// applied. The error is an [*Error]; it wraps [config.Errors] when the configuration is what is wrong.
func Validate(ctx context.Context, spec Spec, o Options) error {
	inst, err := launch(ctx, &spec, o, checkSteps)
	if err != nil {
		return err
	}
	inst.end()
	return nil
}

// reconfigureInPlace gives a running instance another configuration. Its failure is not that of the instance.
func (s *Supervisor) reconfigureInPlace(ctx context.Context, inst *instance, spec *Spec) error {
	s.mu.Lock()
	same := inst.configured.sameConfig(spec)
	s.mu.Unlock()
	for _, step := range []step{
		{"config", func(i *instance, ctx context.Context) error { return i.checkSpec(ctx, spec) }},
		{"configure", func(i *instance, ctx context.Context) error { return i.life.Configure(ctx, spec.Config) }},
	} {
		if same {
			break
		}
		if err := inst.perform(ctx, step, s.options.Limits.RPCTimeout); err != nil {
			if step.name == "configure" && status.Code(err) != codes.InvalidArgument {
				inst.fail(fmt.Errorf("configure: %w", err)) // which configuration has it now? The old one after a restart
			}
			return &Error{Stage: spec.Stage, Name: spec.Name, Step: step.name, Err: err}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	inst.configured, s.spec = spec, spec
	s.status.Name, s.status.Note = spec.Name, "" // the same file can have another name
	if s.status.Probation.IsZero() || s.proven.same(spec) {
		s.proven, s.status.Probation, s.status.Fallback = spec, time.Time{}, ""
	}
	return nil
}
