package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/stage"
)

// quiet is how long a plugin's file must not have changed: whoever writes an executable does so for a while.
const quiet = 250 * time.Millisecond

// running is a plugin as the configuration in force names it.
type running struct {
	configured
	sup  *stage.Supervisor
	spec stage.Spec // as told
	idle bool       // a builder that no page has needed yet
}

// running lists the plugins of the named stages, in the order of their work; no names are all.
func (s *stages) running(names ...string) []running {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []running
	for _, n := range allConfigured(s.k.config()) {
		if sup := s.singles()[n.stage]; sup != nil {
			all = append(all, running{n, sup, s.specs[n.stage], false})
		}
	}
	for i, b := range s.builders { // after the resolver
		all = slices.Insert(all, 1+i, running{configured{"builder", b.entry}, b.sup, b.spec, b.life == ""})
	}
	return slices.DeleteFunc(all, func(r running) bool { return len(names) > 0 && !slices.Contains(names, r.stage) })
}

// ReloadPlugins finds the plugins of the named stages anew, all when none is named, and puts a new instance of each in
// the place of the one that runs, also when nothing has changed. force takes what a trial or an earlier probation
// speaks against, also in a configuration whose last reload was refused for that. One that fails does not stop the
// others.
func (k *Kernel) ReloadPlugins(ctx context.Context, names []string, force bool) []control.PluginOutcome {
	k.reloads.Lock()
	defer k.reloads.Unlock()
	ctx, cancel := k.untilStopping(ctx)
	defer cancel()
	out := unknownStages(names)
	forced, err := k.reloadRefused(ctx, names, force)
	for _, r := range k.stages.running(names...) {
		o := control.PluginOutcome{Stage: r.stage, Plugin: r.entry.Use}
		err := err
		if r.stage != forced {
			err = k.reloadPlugin(ctx, r, stage.Replacement{Fresh: true, Force: force})
		}
		if err != nil {
			o.Error = err.Error()
			k.log.Named(r.stage).Error("plugin not replaced, the one before stays", "error", err)
		}
		out = append(out, o)
	}
	k.stages.prune()
	return out
}

// untilStopping gives a context that ends with ctx, and when stopping begins.
func (k *Kernel) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(k.up, cancel)
	return ctx, func() { stop(); cancel() }
}

func unknownStages(names []string) (out []control.PluginOutcome) {
	for _, name := range names {
		if name != "builder" && !slices.Contains(single, name) {
			out = append(out, control.PluginOutcome{Stage: name, Error: "there is no such stage: there are resolver, builder, watcher, checker and rotator"})
		}
	}
	return out
}

// reloadRefused applies a configuration that was refused for the sake of a stage which is now to be forced: the plugin
// that is meant is the one in it. It tells which stage that was, "" when there is none.
func (k *Kernel) reloadRefused(ctx context.Context, names []string, force bool) (forced string, err error) {
	if forced = k.refused; forced == "" || !force || len(names) > 0 && !slices.Contains(names, forced) {
		return "", nil
	}
	return forced, k.reloadNow(ctx, forced)
}

// reloadPlugin finds a plugin anew and replaces the one that runs. One that is idle is only asked about its
// configuration, and is what is started when it is needed.
func (k *Kernel) reloadPlugin(ctx context.Context, r running, how stage.Replacement) error {
	if k.up.Err() != nil {
		return errors.New("the server is stopping: nothing is replaced")
	}
	spec, err := k.resolve(r.configured)
	if err != nil {
		return err
	}
	if !how.Fresh && sameSpec(spec, r.spec) && r.sup.Status().Note == "" { // else it says why it is not in service
		return nil
	}
	if r.idle {
		err = stage.Validate(ctx, spec, k.stageOptions(k.config()))
	}
	if err == nil {
		err = k.replace(ctx, k.config(), r.sup, spec, how)
	}
	if err != nil {
		return err
	}
	k.stages.put(r.sup, spec)
	return nil
}

// replaceChanged replaces plugins whose files change. It is no part of the session with the watcher: that ends when
// the watcher is what is replaced.
func (k *Kernel) replaceChanged(ctx context.Context) error {
	warned := map[string]string{}
	for {
		select {
		case <-k.files.plugins:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := k.awaitQuiet(ctx); err != nil {
			return err
		}
		k.replaceThoseThatDiffer(ctx, warned)
	}
}

// awaitQuiet waits until nobody writes to the files of plugins.
func (k *Kernel) awaitQuiet(ctx context.Context) error {
	for before := ""; ; {
		now := stamps(k.files.pluginFiles())
		if now == before {
			return nil
		}
		before = now
		if err := sleep(ctx, quiet); err != nil {
			return err
		}
	}
}

// stamps tells states of files apart.
func stamps(paths []string) string {
	var b strings.Builder
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err == nil:
			fmt.Fprintln(&b, info.Size(), info.ModTime().UnixNano(), info.Mode())
		case errors.Is(err, fs.ErrNotExist):
			fmt.Fprintln(&b, "none")
		default:
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

// replaceThoseThatDiffer replaces the plugins that would not be the same if they were started now. warned holds what
// was said about each, so that it is said once.
func (k *Kernel) replaceThoseThatDiffer(ctx context.Context, warned map[string]string) {
	k.reloads.Lock()
	defer k.reloads.Unlock()
	ctx, cancel := k.untilStopping(ctx)
	defer cancel()
	for _, r := range k.stages.running() {
		key := r.stage + " " + r.entry.Use
		err := k.reloadPlugin(ctx, r, stage.Replacement{})
		switch {
		case err == nil:
			delete(warned, key)
		case ctx.Err() != nil:
			return
		case warned[key] != err.Error():
			warned[key] = err.Error()
			k.log.Named(r.stage).Warn("the changed plugin is not used, the one before stays", "error", err, "hint", "a file with other content is tried at once; after anything else, such as chmod, run: tqserver plugin reload "+r.stage)
		}
	}
	k.stages.prune()
}

// pluginFiles lists the files that custom plugins come from, and the file that pins them. One behind a link is there
// under both names.
func (f *files) pluginFiles() []string {
	var paths []string
	for _, n := range allConfigured(f.k.config()) {
		if n.builtIn() {
			continue
		}
		path := f.k.site.abs(n.entry.Use)
		paths = append(paths, path)
		if real, err := filepath.EvalSymlinks(path); err == nil {
			paths = append(paths, real)
		}
	}
	if f.config != "" {
		paths = append(paths, stage.LockPath(f.config))
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}
