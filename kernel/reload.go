package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/stage"
)

// Reload reads the configuration again and applies it, all or nothing: an error leaves everything as it was. Only
// what changed is restarted. It also looks for changed pages and wakes stages that have given up. It waits until Run
// has begun, and ends early when stopping begins.
func (k *Kernel) Reload(ctx context.Context) error {
	k.reloads.Lock()
	defer k.reloads.Unlock()
	if k.up.Err() != nil {
		return errors.New("the server is stopping: nothing is reloaded")
	}
	ctx, cancel := k.untilStopping(ctx)
	defer cancel()
	k.stages.retry()
	return k.reloadNow(ctx, "")
}

// reloadNow is Reload once it is its turn. A stage can be forced, "" is none.
func (k *Kernel) reloadNow(ctx context.Context, forced string) error {
	err := k.reloadConfig(ctx, forced)
	k.refused = refusedStage(err)
	if err != nil {
		k.log.Error("configuration refused, the running one stays: " + err.Error())
		k.reloaded.Store(&control.Outcome{At: time.Now(), Error: err.Error()})
		return err
	}
	for _, st := range k.stages.status() {
		if st.Note != "" {
			k.log.Named(st.Stage).Warn("a plugin of the configuration is not in service", "reason", st.Note, "hint", "mend it, or run: tqserver plugin reload "+st.Stage+" --force")
		}
	}
	k.reloaded.Store(&control.Outcome{At: time.Now()})
	k.rescan(ctx)
	return nil
}

// refusedStage names the stage whose new plugin was refused for what force would take, "" when there is none.
func refusedStage(err error) string {
	var e *stage.Error
	if errors.As(err, &e) && (e.Step == "trial" || e.Step == "probation") {
		return e.Stage
	}
	return ""
}

// reloadChanged reloads when the configuration file changed. It is no part of the session with the watcher: that ends
// when a reload exchanges the watcher.
func (k *Kernel) reloadChanged(ctx context.Context) error {
	for {
		select {
		case <-k.files.edited:
			_ = k.Reload(ctx) // logged and shown by status
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rescan finds changed pages without the watcher: the builder knows a source that it has built.
func (k *Kernel) rescan(ctx context.Context) {
	revision := k.routes.resolve()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	k.routes.resolved(ctx, revision)
	k.files.forget()
	for _, p := range k.routes.list() {
		p.post(func() { p.rescanAssets(); p.changed(time.Now()) })
	}
}

func (k *Kernel) reloadConfig(ctx context.Context, forced string) error {
	if k.opts.Load == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	next, err := k.opts.Load()
	if err != nil {
		return err
	}
	old := k.config()
	if err := k.restartOnly(old, next); err != nil {
		return err
	}
	if err := k.checkPages(next); err != nil {
		return err
	}
	releases, err := k.site.releaseDir(next)
	if err != nil {
		return err
	}
	pl, err := k.plan(next)
	if err != nil {
		return err
	}
	o := k.stageOptions(next)
	if err := k.stages.check(ctx, pl, o); err != nil {
		return err
	}
	if next.Pages.Directory != old.Pages.Directory { // a new resolver serves before put, and is to see the new one only
		k.routes.moving.Lock()
		defer k.routes.moving.Unlock()
	}
	if err := k.stages.apply(ctx, pl, o, forced); err != nil {
		return err
	}
	k.put(next, releases)
	k.log.Info("configuration reloaded", "file", next.File)
	return nil
}

// restartOnly names the keys that a running server cannot change.
func (k *Kernel) restartOnly(old, next *config.Config) error {
	var errs []error
	for _, c := range []struct {
		key       string
		old, next any
	}{
		{"server.host", old.Server.Host, next.Server.Host},
		{"server.port", old.Server.Port, next.Server.Port},
		{"server.state_dir", old.Server.StateDir, next.Server.StateDir},
		{"server.metrics", old.Server.Metrics, next.Server.Metrics},
		{"plugins.defaults", limits(old.Plugins), limits(next.Plugins)},
	} {
		if c.old != c.next {
			errs = append(errs, fmt.Errorf("%s: changed from %v to %v, which needs a restart of the server: `tqserver stop`, then start it again", c.key, c.old, c.next))
		}
	}
	return errors.Join(errs...)
}

// limits is plugins.defaults.
func limits(p config.Plugins) any {
	return struct {
		start, rpc, build, stop time.Duration
		restart                 config.Restart
		probation               time.Duration
	}{p.StartTimeout, p.RPCTimeout, p.BuildTimeout, p.StopTimeout, p.Restart, p.Probation}
}

// put makes a checked configuration the one in force, and tells everybody whom it concerns.
func (k *Kernel) put(next *config.Config, releases string) {
	old := k.config()
	k.cfg.Store(next)
	k.site.releases.Store(&releases)
	k.ports.Resize(next.Workers.PortRangeStart, next.Workers.PortRangeEnd)
	k.setLevel(next.Server.LogLevel)
	if old.Server.ReadTimeout != next.Server.ReadTimeout || old.Server.IdleTimeout != next.Server.IdleTimeout {
		k.front.renew(k.server())
	}
	for _, p := range k.routes.list() {
		p.post(p.reconfigured)
	}
	k.files.set.notify()
	k.routes.asked.notify()
}
