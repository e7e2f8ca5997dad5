package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// ErrDraining is what Build returns after Drain was called.
var ErrDraining = errors.New("builder: draining, no new builds are taken")

// jobs is what the builders share: all of Build but the building itself. C is the configuration.
type jobs[C any] struct {
	temps temps

	mu      sync.Mutex
	log     hclog.Logger
	config  C
	limit   time.Duration // of one build
	slots   chan struct{} // one entry per running build
	sources map[string]*source
	running int
	idle    chan struct{} // not nil: draining; closed when nothing runs
}

// source is what is remembered of one directory that is built.
type source struct {
	lock   chan struct{} // holds a value while a build of this source runs
	files  files
	plan   *plan  // of Go; nil: none that is known to hold
	goroot string // that the files were read with
	fast   fast   // of Go
}

// task is one call of Build.
type task[C any] struct {
	config C
	limit  time.Duration
	job    sdk.Job
	src    *source
	event  func(sdk.Event)
}

// attempt is what a builder makes of a task.
type attempt interface {
	rounds(ctx context.Context) (sdk.Result, error)
	failed(...sdk.Diagnostic) sdk.Result
}

// newJobs takes the prefix of the temporary directories of builds.
func newJobs[C any](prefix string) jobs[C] {
	return jobs[C]{log: hclog.NewNullLogger(), temps: temps{prefix: prefix}}
}

// SetLogger sets where the builder logs. It is called before the first build.
func (j *jobs[C]) SetLogger(log hclog.Logger) { j.log = log }

// configure sets the configuration for the builds to come. Those that run end with the one they began with.
func (j *jobs[C]) configure(c C, parallel, timeoutMS int) {
	if parallel == 0 {
		parallel = runtime.NumCPU()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.config, j.limit = c, time.Duration(timeoutMS)*time.Millisecond
	j.slots, j.sources = make(chan struct{}, parallel), map[string]*source{}
}

// run waits for a build of the same source and for one of the parallel slots, and then builds until the limit.
func (j *jobs[C]) run(ctx context.Context, job sdk.Job, event func(sdk.Event), start func(task[C]) attempt) (sdk.Result, error) {
	if !filepath.IsAbs(job.Source) || !filepath.IsAbs(job.OutDir) {
		return sdk.Result{}, fmt.Errorf("build %s: source %q and out dir %q must be absolute paths", job.Page, job.Source, job.OutDir)
	}
	job.Source, job.OutDir = filepath.Clean(job.Source), filepath.Clean(job.OutDir)
	if err := j.begin(); err != nil {
		return sdk.Result{}, err
	}
	defer j.end()
	t, slots := j.taskOf(job)
	free, err := take(ctx, t.src.lock, slots)
	if err != nil {
		return sdk.Result{}, err
	}
	defer free()
	t.event = event
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	b := start(t)
	result, err := b.rounds(limited)
	if ctx.Err() != nil {
		return sdk.Result{}, ctx.Err()
	}
	if limited.Err() != nil && !result.OK {
		result, err = b.failed(sdk.Diagnostic{Path: "config.timeout_ms", Message: fmt.Sprintf(
			"the build of page %s was ended after %v: raise this key of the builder if the page really needs longer", job.Page, t.limit)}), nil
	}
	result.Duration = time.Since(began)
	j.log.Debug("built", "page", job.Page, "release", result.Release, "ok", result.OK, "cached", result.Cached, "took", result.Duration)
	return result, err
}

func (j *jobs[C]) taskOf(job sdk.Job) (task[C], chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.sources[job.Source]
	if s == nil {
		s = &source{lock: make(chan struct{}, 1)}
		j.sources[job.Source] = s
	}
	return task[C]{config: j.config, limit: j.limit, job: job, src: s}, j.slots
}

// Drain takes no new builds and waits for those that run, or for ctx.
func (j *jobs[C]) Drain(ctx context.Context) error {
	j.mu.Lock()
	if j.idle == nil {
		j.idle = make(chan struct{})
		if j.running == 0 {
			close(j.idle)
		}
	}
	idle := j.idle
	j.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *jobs[C]) begin() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.idle != nil {
		return ErrDraining
	}
	j.running++
	return nil
}

func (j *jobs[C]) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.running--; j.running == 0 && j.idle != nil {
		close(j.idle)
	}
}

// busy tells whether builds run.
func (j *jobs[C]) busy() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.running > 0
}

func (j *jobs[C]) sourceCount() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.sources)
}

// take waits for a place in each channel, one after the other. free gives them back.
func take(ctx context.Context, places ...chan struct{}) (free func(), err error) {
	var taken []chan struct{}
	free = func() {
		for _, c := range taken {
			<-c
		}
	}
	for _, c := range places {
		select {
		case c <- struct{}{}:
			taken = append(taken, c)
		case <-ctx.Done():
			free()
			return nil, ctx.Err()
		}
	}
	return free, nil
}

// temps are the temporary directories of the builds that run. Each kind of builder has a prefix of its own, as it
// knows of its own builds only.
type temps struct {
	prefix string
	mu     sync.Mutex
	live   map[string]bool
}

// make makes a directory in outDir with the named directories in it, and removes those that builds of a process which
// was killed left behind: the ones older than a build can take.
func (t *temps) make(outDir string, limit time.Duration, names ...string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(outDir, time.Now().Add(-limit-time.Minute))
	dir, err := os.MkdirTemp(outDir, t.prefix)
	if err != nil {
		return "", fmt.Errorf("make a directory for the build: %w", err)
	}
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			os.RemoveAll(dir)
			return "", fmt.Errorf("make a directory for the build: %w", err)
		}
	}
	if t.live == nil {
		t.live = map[string]bool{}
	}
	t.live[dir] = true
	return dir, nil
}

func (t *temps) sweep(outDir string, oldest time.Time) {
	found, _ := filepath.Glob(filepath.Join(sdk.QuoteMatch(outDir), t.prefix+"*"))
	for _, path := range found {
		if info, err := os.Lstat(path); err == nil && !t.live[path] && info.ModTime().Before(oldest) {
			os.RemoveAll(path)
		}
	}
}

func (t *temps) remove(dir string) error {
	err := os.RemoveAll(dir)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, dir)
	return err
}
