// Package checker holds the checkers of the default bundle.
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

// HTTPConfig is the configuration of checker/http, besides sdk.Probing.
type HTTPConfig struct {
	Path string `tq:"path,default=/health" doc:"what is asked for, with GET"`
}

// Validate says what the schema cannot.
func (c HTTPConfig) Validate() error {
	if !strings.HasPrefix(c.Path, "/") || strings.ContainsAny(c.Path, " \t\r\n#") {
		return fmt.Errorf("path: want a path like /health, got %q", c.Path)
	}
	return nil
}

const bodyLimit = 64 << 10 // bytes that are read of an answer

// ServeHTTP runs, as a plugin, a checker that probes workers with GET requests.
func ServeHTTP() { sdk.Serve("http", sdk.Version, sdk.CheckerFunc(get)) }

// get is the probe. Each request has a connection of its own that ends with it: a worker that drains never waits for the
// checker's.
func get(ctx context.Context, c HTTPConfig, t sdk.Target) error {
	host := t.Addr
	if strings.HasPrefix(host, "unix:") {
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+c.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "tqserver-checker/"+sdk.Version)
	resp, err := client(t).Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = fmt.Errorf("GET %s: %w", c.Path, failed.Err)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("GET %s answered %s", c.Path, cleanStatus(resp.StatusCode))
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, bodyLimit)) // the status has said it all
	return nil
}

// client makes requests to a target, whatever their host.
func client(t sdk.Target) *http.Client {
	return &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: bodyLimit,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return t.Dial(ctx) }},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func cleanStatus(code int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
}
