package config

import (
	"maps"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Workers configures the worker processes of all pages.
type Workers struct {
	// TempDir holds the built binaries.
	TempDir string
	// PortRangeStart to PortRangeEnd, both included, are leased to workers.
	PortRangeStart, PortRangeEnd int

	// StartupDelay and RestartDelay are extra waits: after a worker became
	// ready, and before the old one is drained. Both default to 0.
	StartupDelay, RestartDelay time.Duration
	// ShutdownGracePeriod is the time between SIGTERM and SIGKILL.
	ShutdownGracePeriod time.Duration
	// ReadyTimeout is how long a new worker may take to become ready.
	ReadyTimeout time.Duration
	// DrainTimeout is how long a replaced worker may finish its requests.
	DrainTimeout time.Duration
	// HoldTimeout and HoldRequests bound, per page, how long and how many
	// requests wait while no worker is ready; 0 holds none.
	HoldTimeout  time.Duration
	HoldRequests int
	// BinaryMaxAge is the age at which an unused binary is removed.
	BinaryMaxAge time.Duration
	// KeepReleases is how many releases of a page one can go back to, the live
	// one included. Their binaries count as used.
	KeepReleases int
	// KeepWarm is how long the worker of the previous release stays ready; 0
	// keeps none.
	KeepWarm time.Duration
	// Probation is how long a new release is watched: if it crashes or fails
	// its requests, the previous one comes back; 0 is never.
	Probation time.Duration

	// Default applies to every page; use [Workers.For] to read it.
	Default Worker
	// Paths are the per-path overrides, sorted by path.
	Paths []PathOverride
}

// The values of [Worker].Endpoint.
const (
	TCP  = "tcp"  // a leased port of 127.0.0.1
	Unix = "unix" // a unix socket of its own
)

// Worker configures the workers of one page.
type Worker struct {
	// Instances is how many workers there are, and MaxInFlight how many
	// requests one of them is given at a time; 0 is no limit.
	Instances   Instances
	MaxInFlight int
	// QueueTimeout and QueueRequests bound, per page, how long and how many
	// requests wait while all workers have MaxInFlight; 0 lets none wait.
	QueueTimeout  time.Duration
	QueueRequests int
	// SlowStart is how long a worker that joins others takes to get its full
	// share of the requests; 0 is at once.
	SlowStart time.Duration

	// GoMaxProcs is GOMAXPROCS; 0 leaves it to the Go runtime.
	GoMaxProcs int
	// MaxRequests is after how many requests a worker is replaced; 0 is never.
	MaxRequests int
	// ReadTimeout, WriteTimeout and IdleTimeout are those of the worker's own
	// HTTP server; 0 is no limit.
	ReadTimeout, WriteTimeout, IdleTimeout time.Duration
	// StreamIdleTimeout is how long the worker may send nothing in the midst of
	// an answer; 0 is no limit.
	StreamIdleTimeout time.Duration
	// GoMemLimit is GOMEMLIMIT as the Go runtime takes it; "" leaves it unset.
	GoMemLimit string
	// Endpoint is what a worker listens on, TCP or Unix.
	Endpoint string
	// LogFile may hold {date} and {path}; "" writes no log file.
	LogFile string
	// Env is added to the worker's environment. A nil value stands for the
	// value that the kernel's own environment has for that name.
	Env map[string]*string
}

// PathOverride is one entry of workers.paths.
type PathOverride struct {
	Path string

	keys   []string // YAML keys that the entry gives, sorted
	worker Worker   // their values
}

// For returns the settings for the page at route: the default with every
// override merged over it whose path is a prefix of route on "/" boundaries.
// The shortest goes first, so the most specific wins, key by key; so do the
// entries of env. The caller owns the result.
func (w Workers) For(route string) Worker {
	merged := w.Default
	merged.Env = maps.Clone(w.Default.Env)
	for _, o := range w.Paths { // sorted: a prefix comes before what it is a prefix of
		if o.matches(route) {
			o.apply(&merged)
		}
	}
	return merged
}

func (o PathOverride) matches(route string) bool {
	return o.Path == "/" || route == o.Path || strings.HasPrefix(route, o.Path+"/")
}

func (o PathOverride) apply(w *Worker) {
	for _, key := range o.keys {
		switch key {
		case "instances":
			w.Instances = o.worker.Instances
		case "max_in_flight":
			w.MaxInFlight = o.worker.MaxInFlight
		case "queue_timeout_ms":
			w.QueueTimeout = o.worker.QueueTimeout
		case "queue_requests":
			w.QueueRequests = o.worker.QueueRequests
		case "slow_start_ms":
			w.SlowStart = o.worker.SlowStart
		case "go_max_procs":
			w.GoMaxProcs = o.worker.GoMaxProcs
		case "max_requests":
			w.MaxRequests = o.worker.MaxRequests
		case "read_timeout_seconds":
			w.ReadTimeout = o.worker.ReadTimeout
		case "write_timeout_seconds":
			w.WriteTimeout = o.worker.WriteTimeout
		case "idle_timeout_seconds":
			w.IdleTimeout = o.worker.IdleTimeout
		case "stream_idle_timeout_seconds":
			w.StreamIdleTimeout = o.worker.StreamIdleTimeout
		case "go_mem_limit":
			w.GoMemLimit = o.worker.GoMemLimit
		case "endpoint":
			w.Endpoint = o.worker.Endpoint
		case "log_file":
			w.LogFile = o.worker.LogFile
		case "env":
			if w.Env == nil && len(o.worker.Env) > 0 {
				w.Env = map[string]*string{}
			}
			maps.Copy(w.Env, o.worker.Env)
		}
	}
}

// overrides reads workers.paths.
func overrides(p *[]PathOverride) setter {
	return func(d *decoder, n *yaml.Node) {
		var out []PathOverride
		d.eachKey(n, func(key, value *yaml.Node) {
			d.check(key, checkRoute)
			o := PathOverride{Path: key.Value, keys: keysOf(value)}
			section(o.worker.fields())(d, value)
			out = append(out, o)
		})
		slices.SortFunc(out, func(a, b PathOverride) int { return strings.Compare(a.Path, b.Path) })
		*p = out
	}
}

func keysOf(n *yaml.Node) []string {
	var keys []string
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			keys = append(keys, n.Content[i].Value)
		}
	}
	slices.Sort(keys)
	return keys
}
