package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

type settings struct {
	Failures int `tq:"failures,default=2,min=1" doc:"failed probes in a row that make a target unhealthy"`
}

type checker struct {
	mu       sync.Mutex
	settings settings
}

func (c *checker) configure(_ context.Context, s settings) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings = s
	return nil
}

type state struct {
	failures int
	told     *bool
}

// Check probes all targets, round after round.
func (c *checker) Check(ctx context.Context, sets <-chan sdk.TargetSet, report func(sdk.Health) error) error {
	var set sdk.TargetSet
	states := map[string]*state{}
	for ctx.Err() == nil {
		select {
		case next := <-sets:
			if bad("checker/removed") {
				next.Targets = append(next.Targets, set.Targets...)
			}
			if bad("checker/added") {
				next.Version = 1
			}
			set = next
		case <-time.After(20 * time.Millisecond): // between two rounds
		}
		for i, err := range probeAll(ctx, set.Targets) {
			s := states[set.Targets[i].ID]
			if s == nil {
				s = &state{}
				states[set.Targets[i].ID] = s
			}
			if h, tell := c.judge(s, err); tell && ctx.Err() == nil {
				h.Target, h.Version = set.Targets[i].ID, set.Version
				if err := report(h); err != nil {
					return err
				}
			}
		}
	}
	return ctx.Err()
}

func (c *checker) judge(s *state, err error) (h sdk.Health, tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := c.settings.Failures
	if bad("checker/flapping") {
		limit = 1
	}
	s.failures++
	if err == nil {
		s.failures = 0
	}
	h = sdk.Health{Healthy: err == nil, Failures: s.failures}
	if err != nil && !bad("checker/reason") {
		h.Reason = err.Error()
	}
	if err != nil && s.failures < limit || s.told != nil && *s.told == h.Healthy && !bad("checker/once") || s.told != nil && bad("checker/change") {
		return h, false
	}
	healthy := h.Healthy
	s.told = &healthy
	if bad("checker/first") {
		h.Healthy = true
	}
	return h, true
}

// probeAll gives the outcome for each target.
func probeAll(ctx context.Context, targets []sdk.Target) []error {
	errs := make([]error, len(targets))
	if bad("checker/hung") { // one after the other, without a deadline
		for i, t := range targets {
			errs[i] = probe(ctx, t)
		}
		return errs
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var probes sync.WaitGroup
	for chunk := range slices.Chunk(targets, 64) {
		for _, t := range chunk {
			i := slices.Index(targets, t)
			probes.Go(func() { errs[i] = probe(ctx, t) })
		}
		probes.Wait()
		if bad("checker/large") && len(targets) > 64 {
			<-ctx.Done() // it takes its time
			ctx = context.Background()
			time.Sleep(time.Second)
		}
	}
	return errs
}

func probe(ctx context.Context, t sdk.Target) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://page/health", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if bad("checker/socket") {
			return (&net.Dialer{}).DialContext(ctx, "tcp", t.Addr)
		}
		return t.Dial(ctx)
	}}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}
