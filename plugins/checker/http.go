// Package checker holds the checkers of the default bundle.
package checker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// HTTPConfig is the configuration of HTTP.
type HTTPConfig struct {
	Path       string `tq:"path,default=/health" doc:"what is asked for, with GET"`
	IntervalMS int    `tq:"interval_ms,default=30000,min=10" doc:"time between two probes of a worker"`
	TimeoutMS  int    `tq:"timeout_ms,default=5000,min=1" doc:"a worker that has not answered by then fails the probe"`
	Failures   int    `tq:"failures,default=3,min=1" doc:"failed probes in a row that make a worker unhealthy"`
	Successes  int    `tq:"successes,default=1,min=1" doc:"good probes in a row that make it healthy again"`
}

// Validate says what the schema cannot.
func (c HTTPConfig) Validate() error {
	if !strings.HasPrefix(c.Path, "/") || strings.ContainsAny(c.Path, " \t\r\n#") {
		return fmt.Errorf("path: want a path like /health, got %q", c.Path)
	}
	return nil
}

const (
	firstWithin = 2 * time.Second // of a target's appearance comes its first probe, or within the interval
	atOnce      = 64              // probes
	bodyLimit   = 64 << 10        // bytes that are read of an answer
)

// HTTP probes workers with GET requests. It is safe for concurrent use.
type HTTP struct {
	log   hclog.Logger
	probe func(ctx context.Context, target sdk.Target, path string) error
	slots chan struct{}

	mu     sync.Mutex
	config HTTPConfig
}

var (
	_ sdk.Checker = (*HTTP)(nil)
	_ sdk.Logs    = (*HTTP)(nil)
)

// NewHTTP makes a checker with the default configuration.
func NewHTTP() *HTTP {
	return &HTTP{log: hclog.NewNullLogger(), probe: newProbe(), slots: make(chan struct{}, atOnce),
		config: HTTPConfig{Path: "/health", IntervalMS: 30000, TimeoutMS: 5000, Failures: 3, Successes: 1}}
}

// ServeHTTP runs an HTTP as a plugin.
func ServeHTTP() {
	h := NewHTTP()
	sdk.Serve("http", sdk.Version, h, sdk.Config(h.Configure))
}

// SetLogger is to be called before anything else.
func (h *HTTP) SetLogger(l hclog.Logger) { h.log = l }

// Configure applies from each target's next probe on.
func (h *HTTP) Configure(_ context.Context, c HTTPConfig) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.config = c
	return nil
}

func (h *HTTP) settings() HTTPConfig {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.config
}

// Check probes each target of the newest set on its own, the first time soon after it appears, so that a hung one
// delays no other. It reports the first state of a target that is certain, and every change: after one good probe,
// or as many bad ones in a row as configured. A target that is no longer in the set is forgotten at once, and its
// probe is cancelled. Check returns when ctx ends, sets is closed, or a report is refused.
func (h *HTTP) Check(ctx context.Context, sets <-chan sdk.TargetSet, report func(sdk.Health) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &check{http: h, report: report, fail: cancel, targets: map[string]*target{}}
	defer c.work.Wait()
	defer cancel(nil)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case set, ok := <-sets:
			if !ok {
				return nil
			}
			c.take(ctx, set)
		}
	}
}

// check is one run of Check.
type check struct {
	http   *HTTP
	report func(sdk.Health) error
	fail   context.CancelCauseFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	version uint64
	targets map[string]*target
}

// target is one worker that is probed.
type target struct {
	sdk.Target
	cancel    context.CancelFunc
	known     bool // its state was reported
	healthy   bool
	failures  int // in a row
	successes int // in a row
}

// take starts to probe what is new in a set and ends what is not in it. A target whose address changed is new.
func (c *check) take(ctx context.Context, set sdk.TargetSet) {
	stays := map[string]bool{}
	for _, t := range set.Targets {
		stays[t.ID] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = set.Version
	for id, t := range c.targets {
		if !stays[id] {
			t.cancel()
			delete(c.targets, id)
		}
	}
	for _, t := range set.Targets {
		old := c.targets[t.ID]
		if old != nil && old.Target == t {
			continue
		}
		if old != nil {
			old.cancel()
		}
		probing, cancel := context.WithCancel(ctx)
		fresh := &target{Target: t, cancel: cancel}
		c.targets[t.ID] = fresh
		c.work.Go(func() { c.watch(probing, fresh) })
	}
}

// watch probes one target until ctx ends.
func (c *check) watch(ctx context.Context, t *target) {
	wait := rand.N(min(interval(c.http.settings()), firstWithin))
	for sleep(ctx, wait) {
		config := c.http.settings()
		began := time.Now()
		err := c.once(ctx, t, config)
		if ctx.Err() != nil {
			return
		}
		if health, news := c.book(t, config, err); news {
			if err := c.report(health); err != nil {
				c.fail(err)
				return
			}
		}
		wait = interval(config) - time.Since(began)
	}
}

func interval(c HTTPConfig) time.Duration { return time.Duration(c.IntervalMS) * time.Millisecond }

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// once runs one probe when there is a slot for it. Its time starts then.
func (c *check) once(ctx context.Context, t *target, config HTTPConfig) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case c.http.slots <- struct{}{}:
	}
	defer func() { <-c.http.slots }()
	timeout := time.Duration(config.TimeoutMS) * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := c.http.probe(ctx, t.Target, config.Path)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer to GET %s within %s", config.Path, timeout)
	}
	return err
}

// book counts a result, and tells whether the state that it leads to is news.
func (c *check) book(t *target, config HTTPConfig, failure error) (health sdk.Health, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	health = sdk.Health{Target: t.ID, Version: c.version}
	if failure != nil {
		t.failures, t.successes = t.failures+1, 0
		health.Failures, health.Reason = t.failures, failure.Error()
		c.http.log.Debug("probe failed", "page", t.Page, "target", t.ID, "addr", t.Addr, "failures", t.failures, "error", failure)
		if t.failures < config.Failures || t.known && !t.healthy {
			return health, false
		}
	} else {
		t.failures, t.successes = 0, t.successes+1
		health.Healthy = true
		if t.known && (t.healthy || t.successes < config.Successes) {
			return health, false
		}
	}
	t.known, t.healthy = true, health.Healthy
	return health, true
}

// newProbe makes the real probe. Each has a connection of its own that ends with it: a worker that drains never waits
// for the checker's.
func newProbe() func(ctx context.Context, t sdk.Target, path string) error {
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: bodyLimit,
			DialContext: (&net.Dialer{}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context, t sdk.Target, path string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.Addr+path, nil)
		if err != nil {
			return err
		}
		req.Header.Set("User-Agent", "tqserver-checker/"+sdk.Version)
		resp, err := client.Do(req)
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = fmt.Errorf("GET %s: %w", path, failed.Err)
		}
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode < 200 || resp.StatusCode > 299 {
			return fmt.Errorf("GET %s answered %s", path, cleanStatus(resp.StatusCode))
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, bodyLimit)) // the status has said it all
		return nil
	}
}

func cleanStatus(code int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
}
