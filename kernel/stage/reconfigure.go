package stage

import (
	"context"
	"fmt"

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

// Reconfigure puts spec in the place of the one before; when it returns nil, new calls have it. A running plugin of which only the configuration changes gets
// that configuration. Else a new instance is launched beside the old one, takes over when it is ready, and the old one
// is stopped in order. The error, mostly an [*Error], means that all stays as it was. Before Run it only stores spec.
func (s *Supervisor) Reconfigure(ctx context.Context, spec Spec) error {
	s.reconf.Lock()
	defer s.reconf.Unlock()
	s.mu.Lock()
	life, current := s.life, s.current
	switch {
	case life == nil:
		s.spec = &spec
		s.mu.Unlock()
		return nil
	case s.stopped || life.Err() != nil:
		s.mu.Unlock()
		return ErrStopped
	}
	s.launches.Add(1) // Run does not return before
	s.mu.Unlock()
	defer s.launches.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(life, func() { cancel(ErrStopped) })()
	if current != nil && !current.dead() && current.spec.sameProcess(&spec) {
		return s.reconfigureInPlace(ctx, current, &spec)
	}
	next, err := launch(ctx, &spec, s.options, launchSteps)
	if err != nil {
		return err
	}
	select {
	case s.handover <- next:
		_ = s.await(ctx, func() bool { return s.current == next || next.dead() }) // it follows at once
		return nil
	case <-ctx.Done():
		next.end()
		return context.Cause(ctx)
	}
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
	return nil
}
