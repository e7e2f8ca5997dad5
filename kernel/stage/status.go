package stage

import "time"

// The states of a plugin.
const (
	Starting = "starting"
	Running  = "running"
	Backoff  = "backoff"  // failed, will be started again soon
	Degraded = "degraded" // failed too often, is tried seldom; the kernel does without it
	Stopping = "stopping"
	Stopped  = "stopped" // also before Run
)

// Status is what is known about a plugin at one moment.
type Status struct {
	Stage, Name, Version string
	State                string
	PID                  int       // 0 when not running
	Attached             bool      // it runs in a debugger, and is not the kernel's to end
	Restarts             int       // starts after a failure
	Since                time.Time // of State
	LastError            string    // of the last failure, with its last lines on stderr; "" when there was none
	NextRetry            time.Time // in backoff and degraded
	Probation            time.Time // until when the plugin, which replaced another, is on probation; zero: it is not
	Fallback             string    // what comes back when it fails on probation
	Note                 string    // that a replacement failed and why, until the next one succeeds
}

// Status tells the present state. It does not block.
func (s *Supervisor) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// report changes the status. Only Run's goroutine calls it.
func (s *Supervisor) report(change func(*Status)) {
	s.mu.Lock()
	s.status.PID, s.status.NextRetry, s.status.Since = 0, time.Time{}, time.Now()
	change(&s.status)
	status := s.status
	s.mu.Unlock()
	s.tell(status)
}

// tell passes a change on. Only Run's goroutine calls it.
func (s *Supervisor) tell(status Status) {
	if s.options.OnState != nil {
		s.options.OnState(status)
	}
}
