package stage

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/sdk"
)

// Replacement says how a plugin is replaced.
type Replacement struct {
	// Trial is called with a new instance that is configured and stands by, within Limits.RPCTimeout. Its error refuses
	// the instance, whose stage has not been touched by it then. It must leave no call open. May be nil.
	Trial func(ctx context.Context, conn *grpc.ClientConn) error
	// Fresh wants a new instance also when the running one could take the configuration, or nothing differs.
	Fresh bool
	// Force tries a spec that has failed on its last probation.
	Force bool
}

// Reconfigure is Replace without a trial.
func (s *Supervisor) Reconfigure(ctx context.Context, spec Spec) error {
	return s.Replace(ctx, spec, Replacement{})
}

// Replace puts spec in the place of the one before; when it returns nil, new calls have it. A running plugin of which
// only the configuration changes gets that configuration, unless how says otherwise. Else a new instance is launched
// beside the old one, tried, takes over, and the old one is stopped in order. One that declares itself exclusive, or
// whose predecessor did, is configured after the old one has been stopped.
//
// The error, mostly an [*Error], means that all stays as it was; an exclusive plugin that was stopped is started again.
// A new instance that fails within Limits.Probation makes room for the spec before, if that had served: [Status] tells.
// Replace can be called by several goroutines, which it serves in turn. Before Run it only stores spec.
func (s *Supervisor) Replace(ctx context.Context, spec Spec, how Replacement) error {
	s.replacing.Lock()
	defer s.replacing.Unlock()
	if s.preset(&spec) {
		return nil
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.refusal(&spec); err != nil && !how.Force {
		return err
	}
	if inst := s.running(); inst != nil && !how.Fresh && inst.spec.sameProcess(&spec) {
		return s.reconfigureInPlace(ctx, inst, &spec)
	}
	return s.exchange(ctx, &spec, how)
}

// preset stores a spec that Run is to begin with. It tells whether Run has not begun.
func (s *Supervisor) preset(spec *Spec) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == nil {
		s.spec, s.status.Name = spec, spec.Name
	}
	return s.life == nil
}

// enter keeps Run from returning before leave is called. The context that it gives ends with Run's.
func (s *Supervisor) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	life := s.life
	if s.stopped || life.Err() != nil {
		return nil, nil, ErrStopped
	}
	s.launches.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(life, func() { cancel(ErrStopped) })
	return ctx, func() { stop(); cancel(nil); s.launches.Done() }, nil
}

// running gives the current instance, nil when there is none that works.
func (s *Supervisor) running() *instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.dead() {
		return nil
	}
	return s.current
}

// handover brings a new instance into service. Run takes part in it with take.
type handover struct {
	vacated chan struct{}  // closed when the old instance is gone; nil: that is to serve until the new one does
	next    chan *instance // gets the new instance, or is closed: nothing takes over
}

// exchange launches a new instance and hands it over.
func (s *Supervisor) exchange(ctx context.Context, spec *Spec, how Replacement) (err error) {
	h := handover{next: make(chan *instance, 1)}
	defer close(h.next)
	if s.isExclusive() {
		if err := s.vacate(ctx, &h); err != nil {
			return err
		}
	}
	next, err := launch(ctx, spec, s.options, checkSteps)
	if err != nil {
		return err
	}
	if h.vacated == nil && next.exclusive() {
		if err := s.vacate(ctx, &h); err != nil {
			next.end()
			return err
		}
	}
	if err := next.advance(ctx, readySteps); err != nil {
		return err
	}
	if err := next.undergo(ctx, how); err != nil {
		return err
	}
	h.next <- next
	if h.vacated == nil {
		select {
		case s.handovers <- h:
		case <-ctx.Done():
			next.end()
			return context.Cause(ctx)
		}
	}
	_ = s.await(ctx, func() bool { return s.current == next || next.dead() }) // it follows at once
	return nil
}

// isExclusive tells whether the instance that ran last cannot have another beside it.
func (s *Supervisor) isExclusive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exclusive
}

func (i *instance) exclusive() bool { return i.can(sdk.CapabilityExclusive) }

func (i *instance) can(capability string) bool {
	return slices.Contains(i.info.Capabilities, capability)
}

// vacate has the old instance stopped, and no other started until the handover ends.
func (s *Supervisor) vacate(ctx context.Context, h *handover) error {
	h.vacated = make(chan struct{})
	select {
	case s.handovers <- *h:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	<-h.vacated // Run's goroutine is at it, and bounded
	return nil
}

// take is Run's part in a handover: old, which may be nil, is gone after it. It gives the instance that took over, nil
// when none did.
func (s *Supervisor) take(h handover, old *instance) *instance {
	if h.vacated != nil {
		if old != nil {
			s.stop(old)
			old = nil
		}
		s.report(func(st *Status) { st.State = Starting })
		close(h.vacated)
	}
	next := <-h.next // it comes, or the channel is closed: exchange is bounded, and ends with Run's context
	if next == nil {
		return nil
	}
	s.adopt(next)
	s.publish(next)
	if old != nil {
		old.stop()
	}
	return next
}

// undergo puts an instance that stands by to its trial, which it must survive: the end of a stream may be what it does
// not. After an error nothing is left of it.
func (i *instance) undergo(ctx context.Context, how Replacement) error {
	if how.Trial == nil {
		return nil
	}
	trial := step{"trial", func(i *instance, ctx context.Context) error {
		if err := how.Trial(ctx, i.conn); err != nil {
			return err
		}
		return i.check(ctx)
	}}
	err := i.perform(ctx, trial, i.options.Limits.RPCTimeout)
	switch {
	case err == nil:
		return nil
	case i.dead() || status.Code(err) == codes.Unavailable:
		return i.bury(trial.name, err)
	}
	i.end()
	return &Error{Stage: i.spec.Stage, Name: i.spec.Name, Step: trial.name, Err: err}
}
