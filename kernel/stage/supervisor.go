package stage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/config"
)

// Options are common to all plugins of a kernel.
type Options struct {
	// RuntimeDir is where the plugins' sockets are: short (less than about 60 bytes), of this kernel alone. It is made,
	// and made private, when needed.
	RuntimeDir string
	// Log gets what the plugin logs, under the stage's name. Its level is also the plugin's.
	Log           hclog.Logger
	KernelVersion string
	// Limits are StartTimeout, RPCTimeout, StopTimeout and Restart, which must be set, and Probation, where 0 is none.
	// The rest is not looked at.
	Limits config.Plugins
	// OnState is told of each change, one at a time, in order; it must not block nor call the Supervisor. May be nil.
	OnState func(Status)
}

// Supervisor keeps one plugin running. Its methods are safe for concurrent use.
type Supervisor struct {
	options   Options
	pulse     pulse
	wake      chan struct{}  // Retry
	handovers chan handover  // what is to replace whatever there is
	replacing sync.Mutex     // one Replace at a time
	launches  sync.WaitGroup // those of Replace
	patience  int            // how often the next start's time is doubled; only Run's goroutine looks at it

	mu        sync.Mutex
	spec      *Spec // what runs, or is started next
	proven    *Spec // the last that served outside of a probation; nil: none did, or it is degraded
	bad       *Spec // the last that failed on probation
	exclusive bool  // of the instance that ran last
	current   *instance
	changed   chan struct{}   // closed at the next change of current or life
	life      context.Context // of Run; nil before
	stopped   bool
	status    Status
}

// ErrStopped is returned once Run has ended, or is about to.
var ErrStopped = errors.New("stage: the plugin was stopped")

// New makes a Supervisor. It starts nothing.
func New(spec Spec, o Options) *Supervisor {
	return &Supervisor{options: o, pulse: heartbeats, spec: &spec, wake: make(chan struct{}, 1), handovers: make(chan handover),
		changed: make(chan struct{}),
		status:  Status{Stage: spec.Stage, Name: spec.Name, State: Stopped, Since: time.Now()}}
}

// Run launches the plugin, replaces it whenever it fails, and stops it when ctx ends: within Limits.StopTimeout and a
// second, after which no process of it is left. It returns nil then, and is to be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	retries := &backoff{limits: s.options.Limits.Restart, random: rand.Float64}
	var inst *instance
	for ctx.Err() == nil {
		var err error
		if inst == nil {
			inst, err = s.start(ctx)
		}
		var ran time.Duration
		if err == nil && inst != nil {
			old := inst
			inst, err = s.serve(ctx, old)
			ran = time.Since(old.started)
		}
		switch {
		case err == nil || ctx.Err() != nil:
		case s.goBack(err):
			retries.reset()
		default:
			inst = s.pause(ctx, retries, err, ran)
		}
	}
	s.end(inst)
	return nil
}

func (s *Supervisor) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life != nil {
		return fmt.Errorf("stage: Run of %s was called twice", s.spec.label())
	}
	s.life = ctx
	s.announce()
	return nil
}

// end is the last of Run. inst was handed over when Run's context had ended already.
func (s *Supervisor) end(inst *instance) {
	if inst != nil {
		s.stop(inst)
	}
	s.mu.Lock()
	s.stopped = true // no launch is begun from here on
	s.mu.Unlock()
	s.launches.Wait() // their context has ended with Run's
	s.mu.Lock()
	s.announce()
	s.mu.Unlock()
	s.report(func(st *Status) { st.State = Stopped })
}

// stop ends an instance in order, without another to follow.
func (s *Supervisor) stop(inst *instance) {
	s.report(func(st *Status) { st.State, st.PID = Stopping, inst.proc.pid })
	s.withdraw(inst)
	inst.stop()
}

// announce wakes all that wait for a change. The mutex is held.
func (s *Supervisor) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// start launches an instance, unless one is handed over meanwhile. It gives nil when a handover came to nothing.
func (s *Supervisor) start(ctx context.Context) (*instance, error) {
	s.mu.Lock()
	spec := s.spec
	s.mu.Unlock()
	s.report(func(st *Status) { st.State = Starting })
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		inst *instance
		err  error
	}
	launched := make(chan result, 1)
	options := s.options
	options.Limits.StartTimeout <<= s.patience
	go func() {
		inst, err := launch(ctx, spec, options, launchSteps)
		launched <- result{inst, err}
	}()
	select {
	case r := <-launched:
		s.learn(r.err)
		return r.inst, r.err
	case h := <-s.handovers:
		cancel()
		if r := <-launched; r.inst != nil {
			r.inst.kill(errStopped)
		}
		return s.take(h, nil), nil
	}
}

// maxPatience doubles the time of a start twice.
const maxPatience = 2

// learn gives a plugin that was too slow to start more time with the next try: on a machine that is overloaded, perhaps
// by just these starts, none would ever come up else.
func (s *Supervisor) learn(err error) {
	var late *lateError
	switch {
	case err == nil:
		s.patience = 0
	case errors.As(err, &late) && s.patience < maxPatience:
		s.patience++
	}
}

// serve makes inst the current instance until it fails (which is the error), another is handed over (which is
// returned), or ctx ends. inst is gone then.
func (s *Supervisor) serve(ctx context.Context, inst *instance) (next *instance, err error) {
	if !s.publish(inst) { // its configuration was replaced during the launch
		inst.kill(errStopped)
		return nil, nil
	}
	beating, cancel := context.WithCancel(inst.alive)
	defer cancel()
	var beat sync.WaitGroup
	beat.Go(func() {
		if err := s.pulse.watch(beating, inst.beat); err != nil {
			inst.fail(err)
		}
	})
	probation := s.probationTimer()
	defer probation.Stop()
	for ended := false; !ended; {
		ended = true
		select {
		case <-ctx.Done():
			s.stop(inst)
		case h := <-s.handovers:
			next = s.take(h, inst)
		case <-inst.alive.Done():
			s.withdraw(inst)
			err = inst.bury("", context.Cause(inst.alive))
		case <-probation.C:
			s.pass()
			ended = false
		}
	}
	cancel()
	beat.Wait()
	return next, err
}

// publish lets sessions and jobs have inst. It refuses one whose spec is out of date.
func (s *Supervisor) publish(inst *instance) bool {
	s.mu.Lock()
	if inst.configured != s.spec {
		s.mu.Unlock()
		return false
	}
	fresh := s.current != inst
	s.current, s.exclusive = inst, inst.exclusive()
	if s.status.Probation.IsZero() {
		s.proven = s.spec
	}
	s.announce()
	s.mu.Unlock()
	if fresh {
		s.report(func(st *Status) {
			st.Name, st.Version, st.State, st.PID = inst.spec.Name, inst.info.Version, Running, inst.proc.pid
			st.Attached = inst.spec.attach != nil
		})
		inst.log.Info("plugin runs", "name", inst.info.Name, "version", inst.info.Version, "pid", inst.proc.pid)
	}
	return true
}

func (s *Supervisor) withdraw(inst *instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == inst {
		s.current = nil
		s.announce()
	}
}

// pause waits before the next start. An instance that is handed over meanwhile is returned.
func (s *Supervisor) pause(ctx context.Context, retries *backoff, cause error, ran time.Duration) *instance {
	select {
	case <-s.wake: // from before the failure
	default:
	}
	wait, degraded := retries.failed(time.Now(), ran)
	log := s.options.Log.Named(s.Status().Stage)
	s.report(func(st *Status) {
		st.State, st.LastError, st.NextRetry = Backoff, cause.Error(), time.Now().Add(wait)
		st.Restarts++
		if degraded {
			st.State, s.proven = Degraded, nil
		}
	})
	if degraded {
		log.Error("plugin fails again and again: the stage is degraded", "error", cause, "next_try", wait.Round(time.Second), "hint", "mend the cause, then run: tqserver reload")
	} else {
		log.Error("plugin failed and will be restarted", "error", cause, "in", wait.Round(time.Millisecond))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-s.wake:
		retries.reset()
	case h := <-s.handovers:
		retries.reset()
		return s.take(h, nil)
	}
	return nil
}

// Retry starts a plugin at once that waits in backoff or is degraded, with its budget renewed. Else it does nothing.
func (s *Supervisor) Retry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
