package kernel

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/spool"
)

// view is a snapshot of a page for others than its own goroutine.
type view struct {
	page      control.Page
	current   *instance   // the lead
	serving   []*instance // all, the lead first
	warm      *resting
	warmSet   []*instance
	leaving   []*instance
	settings  config.Worker
	wanted    int      // workers that are to serve
	unsettled bool     // see page.unsettled
	artifacts []string // of what runs or is being started
}

func (v *view) instances() []*instance {
	return slices.Concat(v.serving, v.warmSet, v.leaving)
}

// publish makes the page's state visible. It is called after each event, on the page's goroutine.
func (p *page) publish() {
	v := &view{current: p.current, serving: p.set(), warm: p.warm, settings: p.settings, wanted: p.wanted(), unsettled: p.unsettled(), page: control.Page{Name: p.name, Host: p.route.Host, Route: p.route.Path, Dir: p.route.Dir,
		Instances: p.settings.Instances.String(), Wanted: p.wanted(), State: p.state(), Error: p.trouble(), Crashes: p.crashes, Pinned: p.k.good.pinned(p.name)}}
	if p.warm != nil {
		v.warmSet = p.warm.set
	}
	for inst := range p.leaving {
		v.leaving = append(v.leaving, inst)
	}
	if p.current != nil {
		v.page.Release, v.page.Update = p.current.release.ID, p.current.update
	}
	if p.probation != nil {
		v.page.Probation = p.probation.until
	}
	for _, inst := range v.instances() {
		v.artifacts = append(v.artifacts, inst.release.Artifact)
	}
	for _, c := range p.starts() {
		v.artifacts = append(v.artifacts, c.release.Artifact)
	}
	if b := p.built; b != nil {
		v.page.Build = &control.Build{At: b.at, OK: b.result.OK, Release: b.result.Release, Cached: b.result.Cached,
			DurationMS: b.result.Duration.Milliseconds(), LiveMS: b.live.Milliseconds(), Diagnostics: b.diagnostics}
		b.times.fill(v.page.Build)
	}
	if old := p.view.Swap(v); old != nil && !slices.Equal(old.serving, v.serving) {
		p.k.targets.notify()
	}
	p.k.progress.notify()
	p.devPublish()
}

func (p *page) state() string {
	switch {
	case p.ctx.Err() != nil:
		return "stopping"
	case p.current != nil:
		return serving
	case p.building != nil:
		return "building"
	case p.hopeful():
		return "starting"
	case p.built != nil && p.built.skipped() && p.problem == "":
		return "skipped"
	case p.trouble() != "":
		return "failed"
	}
	return "waiting"
}

// hopeful tells whether something is being started that is likely to serve.
func (p *page) hopeful() bool {
	return slices.ContainsFunc(p.starts(), func(c *candidate) bool {
		return p.trouble() == "" || c.why == restart && p.failures < 3 || c.why == deploy && c.tries == 0
	})
}

// trouble is all that is wrong with the page.
func (p *page) trouble() string {
	return strings.Join(slices.DeleteFunc([]string{p.stale, p.problem, p.misread()}, func(s string) bool { return s == "" }), "\n")
}

// Status is a snapshot of everything.
func (k *Kernel) Status() control.Status {
	s := control.Status{Version: k.opts.Version, PID: os.Getpid(), Root: k.site.root, Config: k.config().File, URL: k.url,
		Started: k.started, State: *k.state.Load(), Routines: runtime.NumGoroutine(), Reload: k.reloaded.Load(), Stages: k.stages.status()}
	for _, p := range k.routes.list() {
		s.Pages = append(s.Pages, p.status())
	}
	k.routes.mu.Lock()
	for _, d := range k.routes.table.Diagnostics {
		s.Problems = append(s.Problems, d.String())
	}
	k.routes.mu.Unlock()
	s.Logs = logsStatus(k.spool.Stats())
	return s
}

func logsStatus(st spool.Stats) control.Logs {
	l := control.Logs{Waiting: st.Lines, Spilled: st.SpilledBytes}
	for _, n := range st.Dropped {
		l.Dropped += n
	}
	if st.LastError != nil {
		l.Error = st.LastError.Error()
	}
	return l
}

func (p *page) status() control.Page {
	v := p.view.Load()
	out := v.page
	out.Held, out.Queued = p.backend.Held(), p.backend.Queued()
	for _, inst := range v.instances() {
		out.Workers = append(out.Workers, inst.status())
	}
	return out
}

func (i *instance) status() control.Worker {
	w := control.Worker{ID: i.id, PID: i.worker.PID(), Port: i.port(), Socket: i.socket, Release: i.release.ID, State: serving,
		InFlight: i.endpoint.InFlight(), Requests: i.endpoint.Requests(), Failures: i.endpoint.Failures(), Started: i.worker.Started(), Healthy: i.healthy.Load()}
	if s := i.state.Load(); s != nil {
		w.State = *s
	}
	return w
}

// Recent gives the last lines of a stream, or of the plugins: see [PluginStream].
func (k *Kernel) Recent(stream string, n int) []control.LogLine {
	var out []control.LogLine
	for _, r := range k.recent(stream, n) {
		out = append(out, logLine(r))
	}
	return out
}

// Follow gives the lines of a stream from now on.
func (k *Kernel) Follow(ctx context.Context, stream string) <-chan control.LogLine {
	in, out := k.spool.Follow(ctx, spooled(stream)), make(chan control.LogLine)
	go func() {
		defer close(out)
		for r := range in {
			if !shown(stream, r.Stream) {
				continue
			}
			select {
			case out <- logLine(r):
			case <-ctx.Done():
			}
		}
	}()
	return out
}

func logLine(r spool.Record) control.LogLine {
	return control.LogLine{Time: r.Time, Stream: r.Stream, Source: r.Source.String(), Worker: r.Worker, Release: r.Release, Text: string(r.Text)}
}

// showProgress tells a person what the start waits for, from the second second on, until each page serves or failed.
func (k *Kernel) showProgress(ctx context.Context) error {
	defer k.console.status("")
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		changed := k.progress.changed()
		done, total, text := k.startProgress()
		if done {
			if s := k.state.Load(); *s == "starting" {
				k.state.CompareAndSwap(s, ptr(serving)) // not when stopping has begun
			}
			k.log.Info("ready", "pages", total, "after", time.Since(k.started).Round(time.Millisecond))
			return nil
		}
		k.console.status(text)
		select {
		case <-changed:
		case <-tick.C:
			k.console.progress(text)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
