package stagetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	probeLimit  = 30 * time.Second // from a change of a target to its report: several probes
	manyTargets = 2000
)

func checkerChecks() []check {
	c := func(name, doc, hint string, run func(context.Context, *trial) error) check {
		return check{suite: "checker", name: name, doc: doc, hint: see(hint, "checker"), run: run}
	}
	return []check{
		c("first", "the first state of each target is reported, with the version of the set", "report each target of a set once its state is known, healthy or not", checkFirstState),
		c("reason", "an unhealthy target has a reason and a count of failures", "say what failed: it is shown to the user", checkReason),
		c("change", "a target that goes and comes back is reported as unhealthy and healthy", "report each change of state; test with a short interval in the configuration", checkStateChange),
		c("once", "a target that stays as it is is reported once", "report changes, not probes", checkReportedOnce),
		c("removed", "a target that is in the newest set no more is not reported", "the newest set counts alone", checkRemovedTarget),
		c("added", "a target that a new set adds is reported, with the version of that set", "the newest set counts alone; a target that is in both keeps its state", checkAddedTarget),
		c("flapping", "one failed probe is not reported, if the plugin has the setting failures and it is above 1", "a target is unhealthy after so many failures in a row", checkFlapping),
		c("hung", "a target that never answers is reported, and delays no other", "give each probe a deadline, and run them beside each other", checkHungTarget),
		c("socket", "a target at a unix socket is probed", "an address that begins with unix: has the path of a socket after it", checkSocketTarget),
		c("large", "a set of 2,000 targets is taken, and replaced", "probes of an old set hold up no new one", checkManyTargets),
	}
}

// checking is an open stream with a checker.
type checking struct {
	*stream[sdk.TargetSet, sdk.Health]
	set     sdk.TargetSet
	reports map[string][]sdk.Health // of each target, in order
	healthy *target
}

func (t *trial) probing(ctx context.Context, s *subject) *checking {
	c := &checking{reports: map[string][]sdk.Health{}}
	c.stream = openStream(ctx, t, sdk.NewChecker(s.conn).Check)
	return c
}

// replace sends the next set.
func (c *checking) replace(ctx context.Context, targets ...sdk.Target) error {
	c.set.Version++
	c.set.Targets = targets
	return c.send(ctx, c.set)
}

// until takes reports until one says this about a target.
func (c *checking) until(ctx context.Context, id string, healthy bool) (got sdk.Health, err error) {
	want := fmt.Sprintf("the report that %s is %s", id, stateName(healthy))
	return got, c.await(ctx, probeLimit, want, func(h sdk.Health) (bool, error) {
		c.reports[h.Target] = append(c.reports[h.Target], h)
		got = h
		return h.Target == id && h.Healthy == healthy, nil
	})
}

// first takes reports until there is one about a target.
func (c *checking) first(ctx context.Context, id string) error {
	if len(c.reports[id]) > 0 {
		return nil
	}
	return c.await(ctx, probeLimit, "the first state of "+id, func(h sdk.Health) (bool, error) {
		c.reports[h.Target] = append(c.reports[h.Target], h)
		return h.Target == id, nil
	})
}

func stateName(healthy bool) string {
	if healthy {
		return "healthy"
	}
	return "unhealthy"
}

func openChecker(ctx context.Context, t *trial, s *subject) (session, error) {
	worker, err := t.worker()
	if err != nil {
		return nil, err
	}
	c := t.probing(ctx, s)
	c.healthy = worker
	return c, nil
}

// exchange adds a target and waits for its first state.
func (c *checking) exchange(ctx context.Context) error {
	id := fmt.Sprintf("worker%d", c.set.Version+1)
	if err := c.replace(ctx, sdk.Target{ID: id, Page: "page", Addr: c.healthy.addr}); err != nil {
		return err
	}
	_, err := c.until(ctx, id, true)
	return err
}

// checker starts a plugin and opens a stream.
func (t *trial) checker(ctx context.Context) (*checking, error) {
	s, err := t.ready(ctx)
	if err != nil {
		return nil, err
	}
	c := t.probing(ctx, s)
	t.closers = append(t.closers, c.close)
	return c, nil
}

// target is a worker to probe: it answers every request with 200 unless it fails, and can be gone.
type target struct {
	addr    string
	failing atomic.Bool  // the next request, and no other, is answered with a fault
	probes  atomic.Int64 // connections so far
	mu      sync.Mutex
	server  *http.Server
	done    chan struct{}
}

// worker starts a target that is healthy.
func (t *trial) worker() (*target, error) {
	w := &target{addr: "127.0.0.1:0"}
	t.closers = append(t.closers, w.down)
	return w, w.up()
}

func (w *target) ServeHTTP(rw http.ResponseWriter, _ *http.Request) {
	if w.failing.CompareAndSwap(true, false) {
		rw.WriteHeader(http.StatusInternalServerError)
	}
}

// up listens, at the address of before if there was one.
func (w *target) up() error {
	listener, err := w.listen()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = make(chan struct{})
	w.server = &http.Server{Handler: w, ReadHeaderTimeout: time.Minute, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			w.probes.Add(1)
		}
	}}
	go func(server *http.Server, done chan struct{}) { defer close(done); _ = server.Serve(listener) }(w.server, w.done)
	return nil
}

// down refuses connections from now on.
func (w *target) down() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.server != nil {
		w.server.Close()
		<-w.done
		w.server = nil
	}
}

func (w *target) as(id string) sdk.Target { return sdk.Target{ID: id, Page: "page", Addr: w.addr} }

// absent gives a target where nothing listens.
func (t *trial) absent(id string) (sdk.Target, error) {
	w, err := t.worker()
	if err != nil {
		return sdk.Target{}, err
	}
	w.down()
	return w.as(id), nil
}

func checkFirstState(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	up, err := t.worker()
	if err != nil {
		return err
	}
	down, err := t.absent("down")
	if err != nil {
		return err
	}
	if err := c.replace(ctx, up.as("up"), down); err != nil {
		return err
	}
	for id, healthy := range map[string]bool{"up": true, "down": false} {
		if err := c.first(ctx, id); err != nil {
			return err
		}
		if first := c.reports[id][0]; first.Healthy != healthy || first.Version != c.set.Version {
			return fmt.Errorf("%s was reported first as %s, of set %d; want %s, of set %d", id, stateName(first.Healthy), first.Version, stateName(healthy), c.set.Version)
		}
	}
	return nil
}

func checkReason(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	down, err := t.absent("down")
	if err != nil {
		return err
	}
	if err := c.replace(ctx, down); err != nil {
		return err
	}
	got, err := c.until(ctx, "down", false)
	if err != nil {
		return err
	}
	if got.Reason == "" || got.Failures < 1 {
		return fmt.Errorf("a target that refuses connections was reported with the reason %q and %d failures", got.Reason, got.Failures)
	}
	return nil
}

func checkStateChange(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	w, err := t.worker()
	if err != nil {
		return err
	}
	return c.follows(ctx, w)
}

// follows reports a worker as healthy, then as not while it is down, then as healthy again.
func (c *checking) follows(ctx context.Context, w *target) error {
	if err := c.replace(ctx, w.as("worker")); err != nil {
		return err
	}
	if _, err := c.until(ctx, "worker", true); err != nil {
		return err
	}
	w.down()
	if _, err := c.until(ctx, "worker", false); err != nil {
		return err
	}
	if err := w.up(); err != nil {
		return err
	}
	_, err := c.until(ctx, "worker", true)
	return err
}

func checkReportedOnce(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	w, err := t.worker()
	if err != nil {
		return err
	}
	if err := c.replace(ctx, w.as("worker")); err != nil {
		return err
	}
	if err := c.probed(ctx, w, 4); err != nil {
		return err
	}
	other, err := t.worker()
	if err != nil {
		return err
	}
	if err := c.replace(ctx, w.as("worker"), other.as("other")); err != nil {
		return err
	}
	if _, err := c.until(ctx, "other", true); err != nil {
		return err
	}
	if n := len(c.reports["worker"]); n != 1 {
		return fmt.Errorf("a target that stayed healthy was reported %d times", n)
	}
	return nil
}

// probed takes reports until a target was probed so many times more.
func (c *checking) probed(ctx context.Context, w *target, times int64) error {
	want := w.probes.Load() + times
	deadline := time.NewTimer(c.t.within(probeLimit))
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for w.probes.Load() < want {
		select {
		case h := <-c.out:
			c.reports[h.Target] = append(c.reports[h.Target], h)
		case <-tick.C:
		case <-c.ended:
			return c.end()
		case <-deadline.C:
			return fmt.Errorf("a target was not probed %d times within %s", times, c.t.within(probeLimit))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func checkRemovedTarget(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	removed, err := t.worker()
	if err != nil {
		return err
	}
	kept, err := t.worker()
	if err != nil {
		return err
	}
	if err := c.replace(ctx, removed.as("removed")); err != nil {
		return err
	}
	if _, err := c.until(ctx, "removed", true); err != nil {
		return err
	}
	if err := c.replace(ctx, kept.as("kept")); err != nil {
		return err
	}
	if _, err := c.until(ctx, "kept", true); err != nil { // the set is in force
		return err
	}
	removed.down()
	kept.down()
	if _, err := c.until(ctx, "kept", false); err != nil {
		return err
	}
	if err := kept.up(); err != nil {
		return err
	}
	if _, err := c.until(ctx, "kept", true); err != nil {
		return err
	}
	if n := len(c.reports["removed"]); n > 1 {
		return errors.New("a target was reported that the newest set has not")
	}
	return nil
}

func checkAddedTarget(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	first, err := t.worker()
	if err != nil {
		return err
	}
	second, err := t.worker()
	if err != nil {
		return err
	}
	for _, targets := range [][]sdk.Target{nil, {first.as("first")}, {first.as("first"), second.as("second")}} {
		if err := c.replace(ctx, targets...); err != nil {
			return err
		}
		if len(targets) == 0 {
			continue
		}
		id := targets[len(targets)-1].ID
		got, err := c.until(ctx, id, true)
		if err != nil {
			return err
		}
		if got.Version != c.set.Version {
			return fmt.Errorf("%s was reported with version %d of the set, want %d", id, got.Version, c.set.Version)
		}
	}
	return nil
}

func checkFlapping(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	failures, err := t.setting("failures")
	if err != nil {
		return err
	}
	if failures < 2 {
		return skipError("the plugin has no setting failures, or it is not above 1")
	}
	w, err := t.worker()
	if err != nil {
		return err
	}
	if err := c.replace(ctx, w.as("worker")); err != nil {
		return err
	}
	if _, err := c.until(ctx, "worker", true); err != nil {
		return err
	}
	w.failing.Store(true)
	if err := c.probed(ctx, w, 4); err != nil {
		return err
	}
	if err := c.replace(ctx, w.as("worker"), w.as("other")); err != nil {
		return err
	}
	if _, err := c.until(ctx, "other", true); err != nil { // what was reported before is here
		return err
	}
	for _, h := range c.reports["worker"] {
		if !h.Healthy {
			return fmt.Errorf("one failed probe made the target unhealthy: %s", h.Reason)
		}
	}
	return nil
}

// setting gives a number of the plugin's configuration: as given, or its default; 0 where there is no such setting.
func (t *trial) setting(name string) (n float64, err error) {
	values := map[string]json.RawMessage{}
	if len(t.config) > 0 {
		if err := json.Unmarshal(t.config, &values); err != nil {
			return 0, err
		}
	}
	for _, f := range t.subjects[0].schema {
		raw, given := values[name]
		if !given {
			raw = json.RawMessage(f.Default)
		}
		if f.Name == name && len(raw) > 0 {
			return n, json.Unmarshal(raw, &n)
		}
	}
	return 0, nil
}

func checkHungTarget(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	hung, err := net.Listen("tcp", "127.0.0.1:0") // the system takes connections, nobody answers
	if err != nil {
		return err
	}
	t.closers = append(t.closers, func() { hung.Close() })
	w, err := t.worker()
	if err != nil {
		return err
	}
	if err := c.replace(ctx, sdk.Target{ID: "hung", Page: "page", Addr: hung.Addr().String()}, w.as("worker")); err != nil {
		return err
	}
	if _, err := c.until(ctx, "worker", true); err != nil {
		return err
	}
	w.down()
	if _, err := c.until(ctx, "worker", false); err != nil {
		return err
	}
	return c.first(ctx, "hung") // as unhealthy, or as healthy where connecting is enough
}

func checkManyTargets(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	w, err := t.worker()
	if err != nil {
		return err
	}
	targets := make([]sdk.Target, manyTargets)
	for i := range targets {
		targets[i] = w.as(fmt.Sprintf("worker%d", i))
	}
	if err := c.replace(ctx, targets...); err != nil {
		return err
	}
	if err := c.await(ctx, probeLimit, "the first report", func(sdk.Health) (bool, error) { return true, nil }); err != nil {
		return err
	}
	if err := c.replace(ctx, w.as("last")); err != nil {
		return err
	}
	_, err = c.until(ctx, "last", true)
	return err
}
