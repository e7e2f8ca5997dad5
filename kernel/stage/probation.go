package stage

import (
	"fmt"
	"time"
)

// A replacement is on probation while status.Probation is set: spec is on trial then, and proven is what comes back when
// it fails.

// adopt makes the spec of an instance that takes over the one to be started from now on. It is on probation when there
// is another to return to.
func (s *Supervisor) adopt(inst *instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spec = inst.spec
	if s.bad != nil && s.bad.same(s.spec) {
		s.bad = nil // tried once more
	}
	s.status.Note, s.status.Probation, s.status.Fallback = "", time.Time{}, ""
	if limit := s.options.Limits.Probation; limit > 0 && s.proven != nil && !s.proven.same(s.spec) {
		s.status.Probation, s.status.Fallback = time.Now().Add(limit), s.proven.identity()
	}
}

// probationTimer fires when the probation of the present spec is over. Without one it does not fire.
func (s *Supervisor) probationTimer() *time.Timer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Probation.IsZero() {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTimer(time.Until(s.status.Probation))
}

// pass is the end of a probation without a failure.
func (s *Supervisor) pass() {
	s.mu.Lock()
	on := !s.status.Probation.IsZero()
	if on {
		s.proven = s.spec
		s.status.Probation, s.status.Fallback = time.Time{}, ""
	}
	status := s.status
	s.mu.Unlock()
	if on {
		s.options.Log.Named(status.Stage).Info("the replacement has passed its probation", "plugin", status.Name)
		s.tell(status)
	}
}

// goBack makes the proven spec the one to be started when a replacement failed on probation, and remembers the other as
// bad. It tells whether it did.
func (s *Supervisor) goBack(cause error) bool {
	s.mu.Lock()
	if s.status.Probation.IsZero() {
		s.mu.Unlock()
		return false
	}
	failed, old := s.spec, s.proven
	s.bad, s.spec = failed, old
	s.status.Probation, s.status.Fallback = time.Time{}, ""
	s.status.Name, s.status.LastError = old.Name, cause.Error()
	s.status.State, s.status.PID, s.status.Since = Starting, 0, time.Now()
	s.status.Note = fmt.Sprintf("went back to %s because %s failed on probation: %v", old.identity(), failed.identity(), cause)
	s.status.Restarts++
	s.mu.Unlock()
	s.options.Log.Named(failed.Stage).Error("the replacement failed on probation, the plugin before it comes back", "plugin", failed.identity(), "back_to", old.identity(),
		"error", cause, "hint", "mend it: another file or configuration is tried at once, this one again by: "+forceCommand(failed.Stage))
	return true
}

// refusal is why a spec is not tried, nil when it may be.
func (s *Supervisor) refusal(spec *Spec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bad == nil || !s.bad.same(spec) {
		return nil
	}
	return &Error{Stage: spec.Stage, Name: spec.identity(), Step: "probation",
		Err: fmt.Errorf("it failed on its last probation and is not tried again as it is: change its file or configuration, or run `%s`", forceCommand(spec.Stage))}
}

func forceCommand(stage string) string { return "tqserver plugin reload " + stage + " --force" }

// Specs lists what the Supervisor may start without being told again: the private copies of these files are needed.
func (s *Supervisor) Specs() []Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	specs := []Spec{*s.spec}
	if s.proven != nil && s.proven != s.spec {
		specs = append(specs, *s.proven)
	}
	return specs
}

// same tells whether a plugin started from the one would be the same as one started from the other.
func (s *Spec) same(o *Spec) bool { return s.sameProcess(o) && s.sameConfig(o) }

// identity is the name, and for a custom plugin the first digits of the file's hash: two files can have one name.
func (s *Spec) identity() string {
	if s.SHA256 == "" {
		return s.Name
	}
	return fmt.Sprintf("%s (%.12s)", s.Name, s.SHA256)
}
