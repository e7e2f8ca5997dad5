package stage

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// GoneError is returned by Do when the plugin went away during the call: what was asked for may be done, done in part,
// or not done. The call can be repeated on the next instance.
type GoneError struct {
	Stage, Name string
	Err         error
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%s plugin %s went away during a call: %v", e.Stage, e.Name, e.Err)
}

func (e *GoneError) Unwrap() error { return e.Err }

// Do waits for a running instance and calls f with it, once. f's context ends with ctx and with the instance; f must
// return then. An
// instance that is being replaced finishes its calls within Limits.StopTimeout. The error is that of f, a
// [*GoneError], that of ctx while waiting, or ErrStopped.
func (s *Supervisor) Do(ctx context.Context, f func(ctx context.Context, conn *grpc.ClientConn) error) error {
	inst, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer inst.calls.Done()
	calling, end := inst.during(ctx)
	defer end()
	err = f(calling, inst.conn)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case status.Code(err) == codes.Unavailable:
		inst.fail(err)
	case !inst.dead():
		return err
	}
	return &GoneError{Stage: inst.spec.Stage, Name: inst.spec.Name, Err: errors.Join(err, context.Cause(inst.alive))}
}

// Session calls f with each running instance, one after the other, until ctx ends, and is for streams that last as
// long as the instance. f's context ends when its instance does or is to stop; f must return then. When f returns while its instance
// lives on, the stream has ended: the instance counts as failed and is replaced. The error is that of ctx, or
// ErrStopped.
func (s *Supervisor) Session(ctx context.Context, f func(ctx context.Context, conn *grpc.ClientConn) error) error {
	for {
		inst, err := s.acquire(ctx)
		if err != nil {
			return err
		}
		inst.calls.Done() // a session is no job to wait for
		err = s.session(ctx, inst, f)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case inst.sessions.Err() != nil:
		case err == nil:
			inst.fail(errors.New("the plugin ended its stream"))
		default:
			inst.fail(fmt.Errorf("the plugin's stream ended: %w", err))
		}
		if err := s.awaitOther(ctx, inst); err != nil {
			return err
		}
	}
}

func (s *Supervisor) session(ctx context.Context, inst *instance, f func(ctx context.Context, conn *grpc.ClientConn) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(inst.sessions, cancel)()
	return f(ctx, inst.conn)
}

// acquire waits for a running instance and counts a call on it.
func (s *Supervisor) acquire(ctx context.Context) (*instance, error) {
	var got *instance
	err := s.await(ctx, func() bool {
		if s.current == nil || s.current.dead() {
			return false
		}
		got = s.current
		got.calls.Add(1)
		return true
	})
	return got, err
}

// awaitOther waits until inst is not the current instance any more.
func (s *Supervisor) awaitOther(ctx context.Context, inst *instance) error {
	return s.await(ctx, func() bool { return s.current != inst })
}

// await waits until ok, which is called with the mutex held, is true.
func (s *Supervisor) await(ctx context.Context, ok func() bool) error {
	for {
		s.mu.Lock()
		label, state, changed, stopped := s.spec.label(), s.status.State, s.changed, s.stopped || s.life != nil && s.life.Err() != nil
		done := ctx.Err() == nil && !stopped && ok()
		s.mu.Unlock()
		switch {
		case done:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the %s, which is %s: %w", label, state, context.Cause(ctx))
		case stopped:
			return ErrStopped
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
