package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// buildAttempts is how often a build is tried in which the builder failed or went away. A page that brings the builder
// down must not do so for ever: it would take the builds of all others with it.
const buildAttempts = 3

var errBuildLate = errors.New("kernel: the builder has said nothing for longer than plugins.defaults.build_timeout_ms")

// untilSilent gives a context that ends, with errBuildLate, when nothing was heard of a builder for limit: no event and
// no result of any of its builds, as one may have to wait for the others. end is to be called.
func untilSilent(ctx context.Context, limit time.Duration, heard *atomic.Int64) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	began := time.Now().UnixNano()
	var watching sync.WaitGroup
	watching.Go(func() {
		for wait := limit; wait > 0; wait = limit - time.Since(time.Unix(0, max(began, heard.Load()))) {
			if sleep(ctx, wait) != nil {
				return
			}
		}
		cancel(errBuildLate)
	})
	return ctx, func() { cancel(nil); watching.Wait() }
}

// build has a page built, and waits while no builder is up, or others are built that are needed more. An error is a
// fault that is not the page's: the end of ctx, or a builder that fails again and again. Whether the binary is what was
// built is to be checked still, see proof.
func (k *Kernel) build(ctx context.Context, job sdk.Job) (*buildReport, error) {
	job.OutDir = *k.site.releases.Load()
	files := sourceFiles(k.site.root, job.Source)
	for attempt := 1; ; attempt++ {
		sup, shop := k.stages.builderFor(files)
		if sup == nil {
			return nil, fmt.Errorf("no builder matches the files of %s (patterns: %s): change plugins.builder", job.Source, k.stages.patterns())
		}
		limit := k.config().Plugins.BuildTimeout
		report, err := k.tryBuild(ctx, sup, shop, job, limit)
		report.at = time.Now()
		var gone *stage.GoneError
		switch {
		case ctx.Err() != nil:
			return nil, context.Canceled
		case err == nil:
			return report, checkPlace(job.OutDir, report)
		case errors.Is(err, errBuildLate):
			return nil, fmt.Errorf("%s plugin %s has said nothing for %v: see `tqserver plugin logs builder`, or raise plugins.defaults.build_timeout_ms", sup.Status().Stage, sup.Status().Name, limit)
		case attempt == buildAttempts:
			return nil, fmt.Errorf("the builder failed %d times in a row: %w: save the page again, or run `tqserver reload`, when that is mended", attempt, named(sup, err))
		case errors.As(err, &gone): // Do waits for the next instance
			k.log.Warn("the builder went away during a build, building again", "page", job.Page, "error", err)
		default:
			k.log.Warn("the builder failed, building again", "page", job.Page, "error", named(sup, err))
		}
		if err := sleep(ctx, backoff(attempt)); err != nil {
			return nil, context.Canceled
		}
	}
}

// tryBuild has a builder build once, when it is up and it is the page's turn. The report is never nil.
func (k *Kernel) tryBuild(ctx context.Context, sup *stage.Supervisor, shop *workshop, job sdk.Job, limit time.Duration) (*buildReport, error) {
	report := &buildReport{}
	up := func(context.Context, *grpc.ClientConn) error { return nil }
	if err := sup.Do(ctx, up); err != nil { // who waits for a turn must not keep an instance from being replaced
		return report, err
	}
	leave, err := shop.queue.enter(ctx, func() need { return k.need(job.Page) })
	if err != nil {
		return report, err
	}
	defer leave()
	k.log.Debug("build begins", "page", job.Page)
	err = sup.Do(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		ctx, end := untilSilent(ctx, limit, &shop.heard)
		defer end()
		report.result, err = sdk.NewBuilder(conn).Build(ctx, job, func(e sdk.Event) {
			shop.heard.Store(time.Now().UnixNano())
			k.buildEvent(job, report, e)
		})
		shop.heard.Store(time.Now().UnixNano())
		if err != nil && context.Cause(ctx) == errBuildLate {
			return errBuildLate
		}
		return err
	})
	return report, err
}

// named gives the error of a call the name of the plugin, which the wire does not tell.
func named(sup *stage.Supervisor, err error) error {
	var gone *stage.GoneError
	s, ok := status.FromError(err)
	if err == nil || !ok || errors.As(err, &gone) { // that one names it
		return err
	}
	p := sup.Status()
	return fmt.Errorf("%s plugin %s: %s", p.Stage, p.Name, s.Message())
}

func (k *Kernel) buildEvent(job sdk.Job, report *buildReport, e sdk.Event) {
	switch {
	case e.Diagnostic != nil:
		report.diagnostics = append(report.diagnostics, *e.Diagnostic)
	case e.Log != "":
		k.log.Debug("build: "+e.Log, "page", job.Page)
	default:
		report.times.steps = append(report.times.steps, buildStep{e.Step, time.Now()})
		k.log.Debug("build", "page", job.Page, "step", e.Step)
	}
}

// checkPlace makes sure that what was built can be started, and lies where only this user can write.
func checkPlace(outDir string, report *buildReport) error {
	r := &report.result
	if !r.OK {
		return nil
	}
	if rel, err := filepath.Rel(outDir, r.Artifact); err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("the builder put %s outside of %s", r.Artifact, outDir)
	}
	if r.Release == "" || !executable(r.Artifact) {
		return fmt.Errorf("check the built binary: %s has no release name or is not executable", r.Artifact)
	}
	if len(r.Argv) == 0 {
		r.Argv = []string{r.Artifact}
	}
	return nil
}

// sourceFiles lists the files of a directory, relative to the site's root where they are below it, for the patterns
// of the builders.
func sourceFiles(root, dir string) []string {
	entries, _ := os.ReadDir(dir) // a directory that is gone is the builder's to report
	var files []string
	for _, e := range entries {
		files = append(files, sourcePath(root, filepath.Join(dir, e.Name())))
	}
	return files
}

func sourcePath(root, path string) string {
	if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

// choosesBuilder tells whether a file, by coming or going, may give a page another builder.
func (k *Kernel) choosesBuilder(source string, c sdk.Change) bool {
	return c.Op != sdk.Modified && filepath.Dir(c.Path) == source && slices.ContainsFunc(k.config().Plugins.Builder, func(b config.Plugin) bool {
		return slices.ContainsFunc(b.Match, func(pattern string) bool { return sdk.Match(pattern, sourcePath(k.site.root, c.Path)) })
	})
}

func matchesAny(pattern string, files []string) bool {
	return slices.ContainsFunc(files, func(f string) bool { return sdk.Match(pattern, f) })
}
