package checker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

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

const bodyLimit = 64 << 10 // bytes that are read of an answer

// HTTP probes workers with GET requests. It is safe for concurrent use.
type HTTP struct {
	*checker
	get func(ctx context.Context, target sdk.Target, path string) error
}

var _ sdk.Checker = (*HTTP)(nil)

// NewHTTP makes a checker with the default configuration.
func NewHTTP() *HTTP {
	h := &HTTP{checker: newChecker(), get: newGet()}
	h.apply(h.rule(HTTPConfig{Path: "/health", IntervalMS: 30000, TimeoutMS: 5000, Failures: 3, Successes: 1}))
	return h
}

// ServeHTTP runs an HTTP as a plugin.
func ServeHTTP() {
	h := NewHTTP()
	sdk.Serve("http", sdk.Version, h, sdk.Config(h.Configure))
}

// Configure applies from each target's next probe on.
func (h *HTTP) Configure(_ context.Context, c HTTPConfig) error {
	h.apply(h.rule(c))
	return nil
}

func (h *HTTP) rule(c HTTPConfig) rule {
	r := newRule(c.IntervalMS, c.TimeoutMS, c.Failures, c.Successes)
	r.what = "GET " + c.Path
	r.probe = func(ctx context.Context, t sdk.Target) error { return h.get(ctx, t, c.Path) }
	return r
}

// newGet makes the real probe. Each has a connection of its own that ends with it: a worker that drains never waits
// for the checker's.
func newGet() func(ctx context.Context, t sdk.Target, path string) error {
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
