package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// ErrNotRunning means that no kernel serves the site.
var ErrNotRunning = errors.New("control: no server runs for this site")

// Note is the file in a site's state directory that tells where its kernel is.
const Note = "kernel.json"

// Address is the content of the note.
type Address struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"`
	URL    string `json:"url"`
}

// Client speaks to a running kernel. It is safe for concurrent use.
type Client struct {
	Address
	StateDir string // of the site
	http     *http.Client
}

// Find reads the note in a site's state directory. ErrNotRunning is the error when there is none.
func Find(stateDir string) (*Client, error) {
	data, err := os.ReadFile(filepath.Join(stateDir, Note))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("find the running server: %w", err)
	}
	var a Address
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("find the running server: %s: %w", filepath.Join(stateDir, Note), err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", a.Socket)
	}
	return &Client{a, stateDir, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}, nil
}

// Status asks for a snapshot.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", &s)
}

// Reload asks to apply the configuration as it is on disk and to look for changed pages.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", &struct{}{})
}

// ReloadPlugins asks to put a new instance in the place of each plugin of the named stages, all when none is named, and
// waits for that. The error is that the server could not be asked.
func (c *Client) ReloadPlugins(ctx context.Context, stages []string, force bool) (out []PluginOutcome, err error) {
	q := url.Values{"stage": stages, "force": {strconv.FormatBool(force)}}
	return out, c.call(ctx, http.MethodPost, "/v1/plugins/reload?"+q.Encode(), &out)
}

// Releases asks for the releases of a page that one can go back to.
func (c *Client) Releases(ctx context.Context, page string) (out PageReleases, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/releases?"+url.Values{"page": {page}}.Encode(), &out)
}

// Rollback asks to make a kept release of a page live, "" for the one before the live one, and waits for that.
func (c *Client) Rollback(ctx context.Context, page, release string) (out RolledBack, err error) {
	q := url.Values{"page": {page}, "release": {release}}
	return out, c.call(ctx, http.MethodPost, "/v1/rollback?"+q.Encode(), &out)
}

// Stop asks for a graceful shutdown and returns at once.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/stop", &struct{}{})
}

// Logs calls each for the last n lines of a stream ("" for all) and, when follow is set, for new ones until ctx ends.
func (c *Client) Logs(ctx context.Context, stream string, n int, follow bool, each func(LogLine)) error {
	q := url.Values{"stream": {stream}, "lines": {strconv.Itoa(n)}, "follow": {strconv.FormatBool(follow)}}
	body, err := c.do(ctx, http.MethodGet, "/v1/logs?"+q.Encode())
	if err != nil {
		return err
	}
	defer body.Close()
	for in := json.NewDecoder(body); ; {
		var l LogLine
		switch err := in.Decode(&l); {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read logs: %w", err)
		}
		each(l)
	}
}

func (c *Client) call(ctx context.Context, method, path string, v any) error {
	body, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(v); err != nil {
		return fmt.Errorf("read answer of the server: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://tqserver"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning // it was killed: its note and socket are left
	}
	if err != nil {
		return nil, fmt.Errorf("ask the server (pid %d): %w", c.PID, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var p problem
	if json.NewDecoder(resp.Body).Decode(&p) != nil || p.Error == "" {
		return nil, fmt.Errorf("ask the server (pid %d): it answered %s", c.PID, resp.Status)
	}
	return nil, errors.New(p.Error)
}
