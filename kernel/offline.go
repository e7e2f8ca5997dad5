package kernel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// Built is how the build of one page ended.
type Built struct {
	Page        string           `json:"page"`
	Route       string           `json:"route"`
	OK          bool             `json:"ok"`
	Skipped     bool             `json:"skipped,omitempty"` // not OK, but for something that this machine does not have
	Release     string           `json:"release,omitempty"`
	Artifact    string           `json:"artifact,omitempty"`
	Cached      bool             `json:"cached,omitempty"`
	DurationMS  int64            `json:"duration_ms"`
	Diagnostics []sdk.Diagnostic `json:"diagnostics,omitempty"`
}

// Check plans a configuration and has every plugin in it that may be executed validate its part. The error has all
// that is wrong. Nothing is served.
func Check(ctx context.Context, o Options) error {
	return offline(o, func(k *Kernel) error {
		pl, err := k.plan(k.config())
		errs := []error{k.checkPages(k.config()), err}
		for _, spec := range pl.specs() {
			if spec.Path != "" {
				errs = append(errs, stage.Validate(ctx, spec, k.stageOptions(k.config())))
			}
		}
		return errors.Join(errs...)
	})
}

// Plugins tells which plugin a configuration gives each stage, in the order of the stages' work.
func Plugins(o Options) (specs []stage.Spec, err error) {
	err = offline(o, func(k *Kernel) error {
		pl, err := k.plan(k.config())
		if err == nil {
			specs = pl.specs()
		}
		return err
	})
	return specs, err
}

// DescribeStage asks the plugins that a configuration gives a stage what they are. None of them is put to work.
func DescribeStage(ctx context.Context, o Options, name string) (all []sdk.Description, err error) {
	err = offline(o, func(k *Kernel) error {
		r, err := k.resolveOptions(k.config())
		if err != nil {
			return err
		}
		for _, n := range allConfigured(k.config()) {
			if n.stage != name {
				continue
			}
			spec, err := stage.Resolve(n.stage, n.entry, r)
			if err != nil {
				return err
			}
			d, err := stage.Describe(ctx, spec)
			if err != nil {
				return err
			}
			all = append(all, d)
		}
		return nil
	})
	return all, err
}

// DescribePlugin is DescribeStage for a plugin that the configuration need not name: a built-in one of a stage, or,
// with the stage "", a file. A private copy of the file is executed.
func DescribePlugin(ctx context.Context, o Options, name, use string) (d sdk.Description, err error) {
	err = offline(o, func(k *Kernel) (err error) {
		r := stage.ResolveOptions{Root: k.site.root, StateDir: k.site.state, Builtins: o.Builtins, Environ: o.Environ}
		var spec stage.Spec
		if name == "" {
			spec, err = stage.ResolveFile(use, r)
		} else {
			spec, err = stage.Resolve(name, config.Plugin{Use: use}, r)
		}
		if err == nil {
			d, err = stage.Describe(ctx, spec)
		}
		return err
	})
	return d, err
}

// BuildAll builds every page of a site without serving it, beside a running server or without one. each is called as
// builds end, from one goroutine at a time; the problems of the page tree come last, in the error.
func BuildAll(ctx context.Context, o Options, each func(Built)) error {
	return offline(o, func(k *Kernel) (err error) {
		if err := k.checkPages(k.config()); err != nil {
			return err
		}
		if k.stages, err = newStages(k, k.config()); err != nil {
			return err
		}
		lives := newLives()
		k.stages.start(ctx, lives)
		defer k.stages.end(lives, "resolver", "builder", "watcher", "checker", "rotator")
		return k.buildAll(ctx, each)
	})
}

func (k *Kernel) buildAll(ctx context.Context, each func(Built)) error {
	table, err := k.oneTable(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	var errs []error
	begun := map[string]bool{}
	for _, r := range table.Routes {
		if begun[r.Page] {
			continue // it answers under another host, too
		}
		begun[r.Page] = true
		work.Go(func() {
			report, err := k.build(ctx, sdk.Job{Page: r.Page, Dir: r.Dir, Source: r.Source})
			if err == nil && report.result.OK {
				err = checkSum(report.result)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("build %s: %w", r.Page, err))
				return
			}
			res := report.result
			each(Built{Page: r.Page, Route: r.Host + r.Path, OK: res.OK, Skipped: report.skipped(), Release: res.Release, Artifact: res.Artifact, Cached: res.Cached,
				DurationMS: res.Duration.Milliseconds(), Diagnostics: report.diagnostics})
		})
	}
	work.Wait()
	for _, d := range table.Diagnostics {
		if !d.Warning {
			errs = append(errs, errors.New(d.String()))
		}
	}
	return errors.Join(errs...)
}

// oneTable asks the resolver once.
func (k *Kernel) oneTable(ctx context.Context) (table sdk.Table, err error) {
	err = k.stages.resolver.Do(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		table, err = first(ctx, sdk.Tree{Root: k.site.abs(k.config().Pages.Directory), Revision: 1}, sdk.NewResolver(conn).Resolve)
		return err
	})
	return table, err
}

// offline opens a site beside a server that may run, for f.
func offline(o Options, f func(*Kernel) error) error {
	k := &Kernel{opts: o}
	k.cfg.Store(o.Config)
	var err error
	if k.site, err = openSite(o.Root, o.Config, false); err != nil {
		return err
	}
	k.console = newConsole(o.Console, o.Color)
	k.log = newToolLogger(k)
	k.routes = newRoutes()
	return errors.Join(f(k), k.site.close())
}
