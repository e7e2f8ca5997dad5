package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Bounds. A year is far more than anybody means and far from overflow.
const (
	year    = 365 * 24 * time.Hour
	noLimit = math.MaxInt32
	maxPort = 65535
)

// logLevels are the values of server.log_level, from the most to the least.
var logLevels = []string{"trace", "debug", "info", "warn", "error"}

func (c *Config) fields() fields {
	return fields{
		{"server", section(c.Server.fields())},
		{"workers", section(c.Workers.fields())},
		{"file_watcher", section(fields{
			{"debounce_ms", span(&c.FileWatcher.Debounce, time.Millisecond, 0, time.Minute)},
			{"ignore", patterns(&c.FileWatcher.Ignore)},
		})},
		{"pages", section(fields{
			{"directory", text(&c.Pages.Directory, checkFileName)},
		})},
		{"dev", section(fields{
			{"editor", text(&c.Dev.Editor, checkEditor)},
			{"wait_ms", span(&c.Dev.Wait, time.Millisecond, 0, time.Minute)},
		})},
		{"plugins", section(c.Plugins.fields())},
	}
}

func (s *Server) fields() fields {
	return fields{
		{"host", optional(&s.Host, checkHost)},
		{"port", whole(&s.Port, 1, maxPort)},
		{"read_timeout_seconds", span(&s.ReadTimeout, time.Second, 0, year)},
		{"write_timeout_seconds", span(&s.WriteTimeout, time.Second, 0, year)},
		{"idle_timeout_seconds", span(&s.IdleTimeout, time.Second, 0, year)},
		{"shutdown_timeout_seconds", span(&s.ShutdownTimeout, time.Second, 0, year)},
		{"log_file", logFile(&s.LogFile, "{date}")},
		{"log_level", text(&s.LogLevel, checkLogLevel)},
		{"trusted_proxies", prefixes(&s.TrustedProxies)},
		{"fast_lane", flag(&s.FastLane)},
		{"metrics", optional(&s.Metrics, checkAddress)},
		{"state_dir", text(&s.StateDir, checkFileName)},
	}
}

func (w *Workers) fields() fields {
	return fields{
		{"temp_dir", text(&w.TempDir, checkFileName)},
		{"port_range_start", whole(&w.PortRangeStart, 1, maxPort)},
		{"port_range_end", whole(&w.PortRangeEnd, 1, maxPort)},
		{"startup_delay_ms", span(&w.StartupDelay, time.Millisecond, 0, time.Hour)},
		{"restart_delay_ms", span(&w.RestartDelay, time.Millisecond, 0, time.Hour)},
		{"shutdown_grace_period_ms", span(&w.ShutdownGracePeriod, time.Millisecond, 0, time.Hour)},
		{"ready_timeout_ms", span(&w.ReadyTimeout, time.Millisecond, time.Millisecond, time.Hour)},
		{"drain_timeout_ms", span(&w.DrainTimeout, time.Millisecond, 0, 24*time.Hour)},
		{"hold_timeout_ms", span(&w.HoldTimeout, time.Millisecond, 0, time.Hour)},
		{"hold_requests", whole(&w.HoldRequests, 0, noLimit)},
		{"binary_max_age_hours", span(&w.BinaryMaxAge, time.Hour, 0, year)},
		{"keep_releases", whole(&w.KeepReleases, 1, 1000)},
		{"keep_warm_ms", span(&w.KeepWarm, time.Millisecond, 0, 24*time.Hour)},
		{"probation_ms", span(&w.Probation, time.Millisecond, 0, 24*time.Hour)},
		{"default", section(w.Default.fields())},
		{"paths", overrides(&w.Paths)},
	}
}

// fields and PathOverride.apply have the same keys; a test holds them together.
func (w *Worker) fields() fields {
	return fields{
		{"instances", instances(&w.Instances)},
		{"max_in_flight", whole(&w.MaxInFlight, 0, noLimit)},
		{"queue_timeout_ms", span(&w.QueueTimeout, time.Millisecond, 0, time.Hour)},
		{"queue_requests", whole(&w.QueueRequests, 0, noLimit)},
		{"slow_start_ms", span(&w.SlowStart, time.Millisecond, 0, time.Hour)},
		{"go_max_procs", whole(&w.GoMaxProcs, 0, noLimit)},
		{"max_requests", whole(&w.MaxRequests, 0, noLimit)},
		{"read_timeout_seconds", span(&w.ReadTimeout, time.Second, 0, year)},
		{"write_timeout_seconds", span(&w.WriteTimeout, time.Second, 0, year)},
		{"idle_timeout_seconds", span(&w.IdleTimeout, time.Second, 0, year)},
		{"stream_idle_timeout_seconds", span(&w.StreamIdleTimeout, time.Second, 0, year)},
		{"go_mem_limit", memory(&w.GoMemLimit)},
		{"endpoint", text(&w.Endpoint, checkEndpoint)},
		{"log_file", logFile(&w.LogFile, "{path}", "{date}")},
		{"env", environment(&w.Env)},
	}
}

func (p *Plugins) fields() fields {
	return fields{
		{"resolver", stage(&p.Resolver)},
		{"builder", builders(&p.Builder)},
		{"watcher", stage(&p.Watcher)},
		{"checker", stage(&p.Checker)},
		{"rotator", stage(&p.Rotator)},
		{"defaults", section(fields{
			{"start_timeout_ms", wait(&p.StartTimeout)},
			{"rpc_timeout_ms", wait(&p.RPCTimeout)},
			{"build_timeout_ms", wait(&p.BuildTimeout)},
			{"stop_timeout_ms", wait(&p.StopTimeout)},
			{"probation_ms", span(&p.Probation, time.Millisecond, 0, 24*time.Hour)},
			{"restart", section(p.Restart.fields())},
		})},
	}
}

func (r *Restart) fields() fields {
	return fields{
		{"initial_ms", wait(&r.Initial)},
		{"max_ms", wait(&r.Max)},
		{"reset_after_ms", wait(&r.ResetAfter)},
		{"budget", whole(&r.Budget, 1, noLimit)},
		{"per_ms", wait(&r.Per)},
		{"degraded_retry_ms", wait(&r.DegradedRetry)},
	}
}

func (p *Plugin) fields() fields {
	return fields{
		{"use", text(&p.Use, checkUse)},
		{"sha256", lowered(&p.SHA256, checkSHA256)},
		{"env", environment(&p.Env)},
		{"config", opaque(&p.Config)},
	}
}

// wait is a span in milliseconds that cannot be 0.
func wait(p *time.Duration) setter { return span(p, time.Millisecond, time.Millisecond, 24*time.Hour) }

// checkAcross checks what takes more than one key.
func (c *Config) checkAcross(d *decoder) {
	const port, start, end = "server.port", "workers.port_range_start", "workers.port_range_end"
	w, r := c.Workers, c.Plugins.Restart
	if w.PortRangeStart > w.PortRangeEnd {
		d.conflict(fmt.Sprintf("the range of worker ports ends before it starts: %d to %d", w.PortRangeStart, w.PortRangeEnd),
			"port_range_start must not be above port_range_end", end, start)
	} else if w.PortRangeStart <= c.Server.Port && c.Server.Port <= w.PortRangeEnd {
		d.conflict(fmt.Sprintf("the server's port %d lies in the range of worker ports, %d to %d", c.Server.Port, w.PortRangeStart, w.PortRangeEnd),
			"move the one or the other", port, start, end)
	}
	c.checkMetrics(d)
	if r.Initial > r.Max {
		d.conflict(fmt.Sprintf("the first wait, %v, is longer than the longest, %v", r.Initial, r.Max),
			"initial_ms must not be above max_ms", "plugins.defaults.restart.initial_ms", "plugins.defaults.restart.max_ms")
	}
}

// checkMetrics wants the address for scrapers to be one that is left over.
func (c *Config) checkMetrics(d *decoder) {
	const metrics, start, end = "server.metrics", "workers.port_range_start", "workers.port_range_end"
	s, w := c.Server, c.Workers
	host, text, err := net.SplitHostPort(s.Metrics)
	port, portErr := strconv.Atoi(text)
	switch {
	case err != nil || portErr != nil: // "", or it was refused
	case w.PortRangeStart <= port && port <= w.PortRangeEnd:
		d.conflict(fmt.Sprintf("the port for metrics %d lies in the range of worker ports, %d to %d", port, w.PortRangeStart, w.PortRangeEnd),
			"move the one or the other", metrics, start, end)
	case port == s.Port && sameHost(host, s.Host):
		d.conflict(fmt.Sprintf("the address for metrics %s is the server's own", s.Metrics),
			"take another port for the one or the other", metrics, "server.port", "server.host")
	}
}

// sameHost reports whether nobody can listen at one host while another does at the other, as far as the names tell.
func sameHost(a, b string) bool {
	plain := func(host string) string {
		addr, err := netip.ParseAddr(host)
		switch {
		case host == "" || err == nil && addr.Unmap().IsUnspecified():
			return ""
		case err == nil:
			return addr.Unmap().String()
		case strings.EqualFold(host, "localhost"):
			return "127.0.0.1"
		}
		return strings.ToLower(host)
	}
	a, b = plain(a), plain(b)
	return a == b || a == "" || b == ""
}
