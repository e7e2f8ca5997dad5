package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"

	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/proxy"
)

// The types of metrics.
const (
	counting = "counter"
	gauge    = "gauge"
	spread   = "histogram"
)

// catalog has every metric. docs/metrics.md lists them in this order.
var catalog = []control.Metric{
	{Name: "tqserver_info", Type: gauge, Help: "Always 1; the labels say what runs."},
	{Name: "tqserver_start_time_seconds", Type: gauge, Help: "When the server started, in seconds since 1970."},
	{Name: "tqserver_goroutines", Type: gauge, Help: "Goroutines of the kernel."},
	{Name: "tqserver_memory_bytes", Type: gauge, Help: "Memory that the kernel's Go runtime has from the system."},
	{Name: "tqserver_config_reload_failed", Type: gauge, Help: "1 if the last reload of the configuration was refused."},

	{Name: "tqserver_connections", Type: gauge, Help: "Open connections of clients, by the lane that serves them."},
	{Name: "tqserver_connections_total", Type: counting, Help: "Connections of clients, by the lane that was given them; one that was handed over counts in both."},
	{Name: "tqserver_connection_handovers_total", Type: counting, Help: "Connections that the fast lane has handed over, by reason."},
	{Name: "tqserver_connections_closed_idle_total", Type: counting, Help: "Connections that were closed since no request came over them in time, by lane."},

	{Name: "tqserver_requests_total", Type: counting, Help: "Requests that have ended, by the class of their status; page is empty where none was found."},
	{Name: "tqserver_request_faults_total", Type: counting, Help: "Requests that did not get a worker's whole answer, by kind, as in X-TQ-Error and the log."},
	{Name: "tqserver_response_bytes_total", Type: counting, Help: "Bytes of the bodies of answers."},
	{Name: "tqserver_request_duration_seconds", Type: spread, Help: "From the head of a request to the end of its answer, without upgraded connections."},
	{Name: "tqserver_requests_in_flight", Type: gauge, Help: "Requests, streams and upgraded connections that workers of a page serve."},
	{Name: "tqserver_requests_held", Type: gauge, Help: "Requests that wait for a ready worker."},
	{Name: "tqserver_requests_queued", Type: gauge, Help: "Requests that wait since every worker has as many as it may have."},
	{Name: "tqserver_request_retries_total", Type: counting, Help: "Requests given to a worker once more after a failure."},
	{Name: "tqserver_request_retries_denied_total", Type: counting, Help: "Requests that were not, since there were too many retries."},

	{Name: "tqserver_page_state", Type: gauge, Help: "Always 1; the label says the state of a page."},
	{Name: "tqserver_page_build_failed", Type: gauge, Help: "1 if the last build of a page failed."},
	{Name: "tqserver_workers", Type: gauge, Help: "Workers of a page, by state."},
	{Name: "tqserver_workers_ejected", Type: gauge, Help: "Workers that are passed over for a while, since they failed."},
	{Name: "tqserver_worker_ejections_total", Type: counting, Help: "How often a worker of a page was ejected."},
	{Name: "tqserver_worker_crashes_total", Type: counting, Help: "Workers of a page that ended by themselves."},
	{Name: "tqserver_worker_requests_total", Type: counting, Help: "Requests that a worker was given."},
	{Name: "tqserver_worker_failures_total", Type: counting, Help: "Requests that a worker answered with 5xx, broke off, or did not answer in time."},
	{Name: "tqserver_worker_requests_in_flight", Type: gauge, Help: "Requests, streams and upgraded connections that a worker serves."},
	{Name: "tqserver_worker_start_time_seconds", Type: gauge, Help: "When a worker started, in seconds since 1970."},

	{Name: "tqserver_stage_running", Type: gauge, Help: "1 if the plugin of a stage is there."},
	{Name: "tqserver_stage_restarts_total", Type: counting, Help: "Restarts of a plugin."},
	{Name: "tqserver_log_lines_waiting", Type: gauge, Help: "Log lines that the rotator has not taken yet."},
	{Name: "tqserver_log_spilled_bytes", Type: gauge, Help: "Size of the spill files, where log lines wait when memory is full."},
	{Name: "tqserver_log_lines_dropped_total", Type: counting, Help: "Log lines that were lost."},
}

// collection is a catalog that is being filled.
type collection struct {
	all []control.Metric
	at  map[string]int
}

func newCollection() *collection {
	c := &collection{all: slices.Clone(catalog), at: map[string]int{}}
	for i, m := range c.all {
		c.at[m.Name] = i
	}
	return c
}

// labels are name, value, name, value, ...
func labels(pairs ...string) map[string]string {
	out := make(map[string]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
	}
	return out
}

func (c *collection) add(name string, value float64, pairs ...string) {
	c.put(name, control.Series{Labels: labels(pairs...), Value: value})
}

func (c *collection) put(name string, s control.Series) {
	m := &c.all[c.at[name]]
	m.Series = append(m.Series, s)
}

// Metrics are the numbers of the moment. A page or a worker that is gone has none, so there are never more than what
// there is.
func (k *Kernel) Metrics() []control.Metric { return k.collect(k.Status()) }

func (k *Kernel) collect(s control.Status) []control.Metric {
	c := newCollection()
	c.server(s)
	if f := k.measured.Load(); f != nil {
		f.measure(c)
	}
	c.traffic("", k.proxy.Unrouted())
	for _, p := range s.Pages {
		c.page(p)
	}
	for _, p := range k.routes.list() {
		c.traffic(p.name, p.backend.Traffic())
		c.balance(p.name, p.backend.Stats())
	}
	c.stages(s.Stages)
	return c.all
}

func (c *collection) server(s control.Status) {
	c.add("tqserver_info", 1, "version", s.Version, "go", runtime.Version())
	c.add("tqserver_start_time_seconds", float64(s.Started.UnixMilli())/1000)
	c.add("tqserver_goroutines", float64(s.Routines))
	c.add("tqserver_memory_bytes", float64(memoryInUse()))
	c.add("tqserver_config_reload_failed", truth(s.Reload != nil && s.Reload.Error != ""))
	c.add("tqserver_log_lines_waiting", float64(s.Logs.Waiting))
	c.add("tqserver_log_spilled_bytes", float64(s.Logs.Spilled))
	c.add("tqserver_log_lines_dropped_total", float64(s.Logs.Dropped))
}

// traffic is what the proxy has counted for a page; "" is for requests without one.
func (c *collection) traffic(page string, t proxy.Traffic) {
	for class := 1; class < len(t.Statuses); class++ {
		c.add("tqserver_requests_total", float64(t.Statuses[class]), "page", page, "code", strconv.Itoa(class)+"xx")
	}
	for _, kind := range proxy.FaultKinds() {
		if n := t.Faults[kind.Name]; n > 0 {
			c.add("tqserver_request_faults_total", float64(n), "page", page, "kind", kind.Name)
		}
	}
	c.add("tqserver_response_bytes_total", float64(t.Bytes), "page", page)
	c.put("tqserver_request_duration_seconds", control.Series{Labels: labels("page", page), Histogram: histogram(t.Duration)})
}

// histogram adds up: the text format has in each bucket what is in those before it.
func histogram(h proxy.Histogram) *control.Histogram {
	out := &control.Histogram{Sum: h.Sum.Seconds()}
	total := uint64(0)
	for _, b := range h.Buckets {
		le := "+Inf"
		if b.Most > 0 {
			le = strconv.FormatFloat(b.Most.Seconds(), 'f', -1, 64)
		}
		total += b.Count
		out.Buckets = append(out.Buckets, control.Bucket{LE: le, Count: total})
	}
	return out
}

func (c *collection) balance(page string, s proxy.BackendStats) {
	for name, value := range map[string]float64{
		"tqserver_requests_held": float64(s.Held), "tqserver_requests_queued": float64(s.Queued),
		"tqserver_request_retries_total": float64(s.Retries), "tqserver_request_retries_denied_total": float64(s.RetriesDenied),
		"tqserver_workers_ejected": float64(s.Ejected), "tqserver_worker_ejections_total": float64(s.Ejections),
	} {
		c.add(name, value, "page", page)
	}
}

func (c *collection) page(p control.Page) {
	c.add("tqserver_page_state", 1, "page", p.Name, "state", p.State)
	c.add("tqserver_page_build_failed", truth(p.Build != nil && !p.Build.OK), "page", p.Name)
	c.add("tqserver_worker_crashes_total", float64(p.Crashes), "page", p.Name)
	busy, states := int64(0), map[string]int{serving: 0}
	for _, w := range p.Workers {
		busy += w.InFlight
		states[w.State]++
		who := []string{"page", p.Name, "worker", w.ID, "release", w.Release[:min(8, len(w.Release))]}
		c.add("tqserver_worker_requests_total", float64(w.Requests), who...)
		c.add("tqserver_worker_failures_total", float64(w.Failures), who...)
		c.add("tqserver_worker_requests_in_flight", float64(w.InFlight), who...)
		c.add("tqserver_worker_start_time_seconds", float64(w.Started.UnixMilli())/1000, who...)
	}
	c.add("tqserver_requests_in_flight", float64(busy), "page", p.Name)
	for _, state := range slices.Sorted(maps.Keys(states)) {
		c.add("tqserver_workers", float64(states[state]), "page", p.Name, "state", state)
	}
}

// stages numbers plugins that have the same name.
func (c *collection) stages(all []control.Stage) {
	seen := map[string]int{}
	for _, s := range all {
		name := s.Stage + " " + s.Plugin
		seen[name]++
		if n := seen[name]; n > 1 {
			s.Plugin += "#" + strconv.Itoa(n)
		}
		c.add("tqserver_stage_running", truth(slices.Contains([]string{"running", "idle"}, s.State)), "stage", s.Stage, "plugin", s.Plugin)
		c.add("tqserver_stage_restarts_total", float64(s.Restarts), "stage", s.Stage, "plugin", s.Plugin)
	}
}

// openSockets opens the control socket and, if there is to be one, the port for scrapers.
func (k *Kernel) openSockets() (ctl, scraped net.Listener, err error) {
	if addr := k.config().Server.Metrics; addr != "" {
		if scraped, err = net.Listen("tcp", addr); err != nil {
			return nil, nil, fmt.Errorf("open the port for metrics: %w: set server.metrics to another address", err)
		}
	}
	if ctl, err = k.openControl(); err != nil && scraped != nil {
		err = errors.Join(err, scraped.Close())
	}
	return ctl, scraped, err
}

// fast is what the fast lane has counted.
func (c *collection) fast(s proxy.LaneStats) {
	c.add("tqserver_connections", float64(s.Open), "lane", "fast")
	c.add("tqserver_connections_total", float64(s.Accepted), "lane", "fast")
	c.add("tqserver_connections_closed_idle_total", float64(s.Idled), "lane", "fast")
	for _, why := range slices.Sorted(maps.Keys(s.HandedOver)) {
		c.add("tqserver_connection_handovers_total", float64(s.HandedOver[why]), "reason", why)
	}
}

// measure counts connections.
func (f *front) measure(c *collection) {
	if f.lane != nil {
		c.fast(f.lane.Stats())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	open := 0
	for _, e := range f.all {
		open += len(e.open)
	}
	c.add("tqserver_connections", float64(open), "lane", "standard")
	c.add("tqserver_connections_total", float64(f.taken), "lane", "standard")
	c.add("tqserver_connections_closed_idle_total", float64(f.idled), "lane", "standard")
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// memoryInUse is what the Go runtime has from the system and has not given back.
func memoryInUse() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}
