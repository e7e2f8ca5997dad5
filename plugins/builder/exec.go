package builder

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// ExecConfig is the configuration of Exec.
type ExecConfig struct {
	Parallel  int `tq:"parallel,default=0,min=0" doc:"builds that run at once; 0: as many as there are cores"`
	TimeoutMS int `tq:"timeout_ms,default=120000,min=1" doc:"longest time that one build may take"`
}

// Exec builds pages in any language: a page.yaml names the commands that build and run them (see recipe). The zero
// value is not usable; see NewExec.
type Exec struct {
	jobs
	temps temps

	mu      sync.Mutex
	log     hclog.Logger
	config  ExecConfig
	slots   chan struct{} // one entry per running build
	sources map[string]*source
}

var (
	_ sdk.Builder = (*Exec)(nil)
	_ sdk.Drainer = (*Exec)(nil)
	_ sdk.Logs    = (*Exec)(nil)
)

// NewExec gives a builder with the default configuration.
func NewExec() *Exec {
	e := &Exec{log: hclog.NewNullLogger(), temps: temps{prefix: ".exec-"}}
	_ = e.Configure(context.Background(), ExecConfig{TimeoutMS: 120_000})
	return e
}

// ServeExec runs an Exec as a plugin.
func ServeExec() {
	e := NewExec()
	sdk.Serve("exec", sdk.Version, e, sdk.Config(e.Configure))
}

// SetLogger sets where the builder logs. It is called before the first build.
func (e *Exec) SetLogger(log hclog.Logger) { e.log = log }

// Configure sets the configuration for the builds to come. Those that run end with the one they began with.
func (e *Exec) Configure(_ context.Context, c ExecConfig) error {
	if c.Parallel == 0 {
		c.Parallel = runtime.NumCPU()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.config, e.slots, e.sources = c, make(chan struct{}, c.Parallel), map[string]*source{}
	return nil
}

// Build copies the source of a page to job.OutDir/<release>/files, builds it there, and puts a launcher beside it; or
// finds the release there. It waits for a build of the same source and for one of the parallel slots first; timeout_ms
// counts from then.
func (e *Exec) Build(ctx context.Context, job sdk.Job, event func(sdk.Event)) (sdk.Result, error) {
	if !filepath.IsAbs(job.Source) || !filepath.IsAbs(job.OutDir) {
		return sdk.Result{}, fmt.Errorf("build %s: source %q and out dir %q must be absolute paths", job.Page, job.Source, job.OutDir)
	}
	job.Source, job.OutDir = filepath.Clean(job.Source), filepath.Clean(job.OutDir)
	if err := e.begin(); err != nil {
		return sdk.Result{}, err
	}
	defer e.end()
	config, slots, src := e.source(job.Source)
	free, err := take(ctx, src.lock, slots)
	if err != nil {
		return sdk.Result{}, err
	}
	defer free()
	start := time.Now()
	limit := time.Duration(config.TimeoutMS) * time.Millisecond
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	b := &execBuild{Exec: e, limit: limit, job: job, src: src, event: event}
	result, err := b.rounds(limited)
	if ctx.Err() != nil {
		return sdk.Result{}, ctx.Err()
	}
	if limited.Err() != nil && !result.OK {
		result, err = b.failed(sdk.Diagnostic{Path: "config.timeout_ms", Message: fmt.Sprintf(
			"the build of page %s was ended after %v: raise this key of the builder if the page really needs longer", job.Page, limit)}), nil
	}
	result.Duration = time.Since(start)
	e.log.Debug("built", "page", job.Page, "release", result.Release, "ok", result.OK, "cached", result.Cached, "took", result.Duration)
	return result, err
}

func (e *Exec) source(dir string) (ExecConfig, chan struct{}, *source) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sources[dir]
	if s == nil {
		s = &source{lock: make(chan struct{}, 1)}
		e.sources[dir] = s
	}
	return e.config, e.slots, s
}
