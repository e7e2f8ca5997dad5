// Package control is the admin API of a running kernel: JSON over HTTP on a unix socket that only its user can open.
// The command line and dashboards speak it.
package control

import (
	"context"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// Kernel is what the API shows and commands.
type Kernel interface {
	// Status is a snapshot; it does not block.
	Status() Status
	// Metrics are the numbers of the moment, in an order that does not change; it does not block.
	Metrics() []Metric
	// Reload reads the configuration again, applies it, looks for changed pages, and starts stages that have given up.
	// It returns when the configuration is applied; builds go on.
	Reload(ctx context.Context) error
	// ReloadPlugins starts the plugins of the named stages anew, all when none is named, and puts them in the place of
	// those that run, without a gap. It waits for that. One that fails does not stop the others. force takes what is
	// otherwise refused: a table that has lost most routes, a plugin that has failed on its last probation.
	ReloadPlugins(ctx context.Context, stages []string, force bool) []PluginOutcome
	// Releases lists the releases of a page that one can go back to, the newest build first. The page is named by its
	// name or its route.
	Releases(page string) (PageReleases, error)
	// Rollback makes a kept release of a page live, named by the beginning of its ID; "" is the one that served before
	// the live one. It returns when that is done. An error has changed nothing.
	Rollback(ctx context.Context, page, release string) (RolledBack, error)
	// Stop begins a graceful shutdown and returns at once.
	Stop()
	// Recent gives the last n lines of a stream ("" for all), oldest first.
	Recent(stream string, n int) []LogLine
	// Follow gives the lines from now on until ctx ends.
	Follow(ctx context.Context, stream string) <-chan LogLine
}

// Status is everything that `tqserver status` shows.
type Status struct {
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Root     string    `json:"root"`
	Config   string    `json:"config"` // file, "" for the embedded default
	URL      string    `json:"url"`
	Started  time.Time `json:"started"`
	State    string    `json:"state"`            // starting, serving, stopping
	Routines int       `json:"goroutines"`       // of the kernel: what leaks shows here first
	Reload   *Outcome  `json:"reload,omitempty"` // the last reload of the configuration
	Pages    []Page    `json:"pages"`
	Stages   []Stage   `json:"stages"`
	Problems []string  `json:"problems,omitempty"` // of the page tree
	Logs     Logs      `json:"logs"`
}

// Outcome is how something ended.
type Outcome struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"`
}

// PluginOutcome is how the replacement of one plugin ended. Of several builders each has one.
type PluginOutcome struct {
	Stage  string `json:"stage"`
	Plugin string `json:"plugin,omitempty"`
	Error  string `json:"error,omitempty"` // why the one before stays; "": it was replaced
}

// Page is one page.
type Page struct {
	Name    string   `json:"name"`
	Host    string   `json:"host,omitempty"`
	Route   string   `json:"route"`
	Dir     string   `json:"dir"`
	State   string   `json:"state"`             // waiting, building, starting, serving, failed, stopping
	Release string   `json:"release,omitempty"` // that serves
	Workers []Worker `json:"workers,omitempty"` // those that serve come first
	Held    int      `json:"held,omitempty"`    // requests that wait for a worker
	Queued  int      `json:"queued,omitempty"`  // requests that wait because all workers have as many as they may
	Build   *Build   `json:"build,omitempty"`   // the last one that ended
	Error   string   `json:"error,omitempty"`   // why the newest source is not live, or no worker runs
	Crashes int      `json:"crashes,omitempty"` // of workers, since the start of the kernel
	Update  *Update  `json:"update,omitempty"`  // the last time that the page took changed files without a build

	Instances string `json:"instances"` // workers that the configuration asks for, such as 2 or 1-4
	Wanted    int    `json:"wanted"`    // workers that are to serve now

	Probation time.Time `json:"probation,omitzero"` // until when; the release has replaced another
	Pinned    *Pin      `json:"pinned,omitempty"`   // the page went back to a release and stays there
}

// Update is how a worker took changed files, such as templates.
type Update struct {
	At          time.Time        `json:"at"`
	Worker      string           `json:"worker"`
	OK          bool             `json:"ok"`
	Files       int              `json:"files"` // 0: all, because it was not known which have changed
	DurationUS  int64            `json:"duration_us"`
	Diagnostics []sdk.Diagnostic `json:"diagnostics,omitempty"` // the page serves on with what it had before
}

// Worker is one process.
type Worker struct {
	ID       string    `json:"id"`
	PID      int       `json:"pid"`
	Port     int       `json:"port,omitempty"`   // absent with a socket
	Socket   string    `json:"socket,omitempty"` // the path of the unix socket that it listens on instead
	Release  string    `json:"release"`
	State    string    `json:"state"` // serving, draining, stopping, warm
	InFlight int64     `json:"in_flight"`
	Requests uint64    `json:"requests"`
	Failures uint64    `json:"failures"` // of the requests: answered with 5xx, broken off, or too late
	Started  time.Time `json:"started"`
	Healthy  *bool     `json:"healthy,omitempty"` // as the checker saw it, absent before its first report
}

// Build is how a build ended.
type Build struct {
	At          time.Time        `json:"at"`
	OK          bool             `json:"ok"`
	Release     string           `json:"release,omitempty"`
	Cached      bool             `json:"cached,omitempty"`
	DurationMS  int64            `json:"duration_ms"`
	LiveMS      int64            `json:"live_ms,omitempty"` // from the change's arrival to the swap
	Diagnostics []sdk.Diagnostic `json:"diagnostics,omitempty"`

	// The parts of a save, one after the other. Those of a release that is not live yet are 0, as is what is unknown.
	DetectMS float64 `json:"detect_ms,omitempty"` // from the save until the kernel knew
	BuildMS  float64 `json:"build_ms,omitempty"`  // until the release was there
	StartMS  float64 `json:"start_ms,omitempty"`  // until the worker's process was
	ReadyMS  float64 `json:"ready_ms,omitempty"`  // until it could serve
	SwapMS   float64 `json:"swap_ms,omitempty"`   // until requests went there
}

// Stage is one plugin.
type Stage struct {
	Stage     string    `json:"stage"`
	Plugin    string    `json:"plugin"`
	Version   string    `json:"version,omitempty"`
	State     string    `json:"state"` // starting, running, backoff, degraded, stopping, stopped
	PID       int       `json:"pid,omitempty"`
	Attached  bool      `json:"attached,omitempty"` // it runs in a debugger, and is not the server's to end
	Restarts  int       `json:"restarts"`
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
	NextRetry time.Time `json:"next_retry,omitzero"`
	Probation time.Time `json:"probation,omitzero"` // until when; the plugin has replaced another
	Fallback  string    `json:"fallback,omitempty"` // what comes back when it fails on probation
	Note      string    `json:"note,omitempty"`     // that a replacement failed and why, until the next one succeeds
}

// Logs is the state of log shipping.
type Logs struct {
	Waiting int64  `json:"waiting_lines"`
	Spilled int64  `json:"spilled_bytes"`
	Dropped uint64 `json:"dropped_lines"`
	Error   string `json:"error,omitempty"`
}

// LogLine is one line of a log.
type LogLine struct {
	Time    time.Time `json:"time"`
	Stream  string    `json:"stream"`
	Source  string    `json:"source"` // kernel, stdout, stderr
	Worker  string    `json:"worker,omitempty"`
	Release string    `json:"release,omitempty"`
	Text    string    `json:"text"`
}
