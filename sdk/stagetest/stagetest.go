// Package stagetest tells whether a plugin keeps to the protocol: it runs the plugin's executable as the kernel does
// and looks at it from outside, so that the language it is written in does not matter.
//
//	func TestConformance(t *testing.T) {
//		stagetest.Test(t, "resolver", stagetest.Plugin{Path: stagetest.Build(t, ".")})
//	}
//
// `tqserver plugin test FILE --stage resolver` is the same as a command. What each check wants is listed in
// docs/plugins/conformance.md.
package stagetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Plugin says how a plugin is started and what the suites may know about it.
type Plugin struct {
	Path   string   // of the executable
	Args   []string // without the program's name
	Config string   // a JSON or YAML mapping, as below `config:`; "": none
	Env    []string // NAME=value, besides what the kernel lets every plugin inherit
	Dir    string   // directory that is copied to be the plugin's working directory; "": an empty one

	Tree   string   // resolver: directory of pages that is copied and resolved; "": some pages of the suite
	Page   string   // builder: directory of a page that can be built; it is copied; "": a small Go page of the suite
	Output []string // rotator: patterns (see filepath.Match) of the files with its lines, from its working directory, .gz is read too; or ServerOutput
}

// ServerOutput as an output says that lines go to the standard output of the server, which each rotator gets as the
// descriptor that TQSERVER_STDOUT_FD names.
const ServerOutput = "-"

// Options is how to run checks.
type Options struct {
	Checks   []string // by name, e.g. "common/describe", or a whole suite, "common"; none: all
	Slack    float64  // factor on every time limit; 0: 1. More than 1 is for slow machines
	Parallel int      // checks that run at once; 0: 4. Those that measure time run alone
}

// The outcomes of a check.
const (
	Passed  = "passed"
	Failed  = "failed"
	Skipped = "skipped"
)

// Result is the outcome of one check.
type Result struct {
	Suite   string        `json:"suite"`
	Check   string        `json:"check"`
	Outcome string        `json:"outcome"`
	Detail  string        `json:"detail,omitempty"` // what is wrong, or why it was skipped; the rest of several lines is what the plugin wrote to stderr
	Hint    string        `json:"hint,omitempty"`   // what the protocol demands, of a check that failed
	Took    time.Duration `json:"took_ns"`
}

// Check describes one check.
type Check struct {
	Suite string `json:"suite"`
	Name  string `json:"name"`
	Doc   string `json:"doc"` // what it wants, in one line
}

// ErrFailed is wrapped by what Run returns when checks failed.
var ErrFailed = errors.New("stagetest: the plugin does not conform")

// testSlack is the factor on time limits in Test: machines that run tests are often busy.
const testSlack = 20

// Checks lists the checks of a stage, the common ones first; of an unknown stage there are none.
func Checks(stage string) []Check {
	var all []Check
	for _, c := range checksOf(stage) {
		all = append(all, Check{c.suite, c.name, c.doc})
	}
	return all
}

// Test runs all checks for a stage against a plugin, each as a parallel subtest, with generous time limits.
func Test(t *testing.T, stage string, p Plugin) {
	t.Helper()
	r, err := newRun(stage, p, Options{Slack: testSlack})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.checks {
		t.Run(c.suite+"/"+c.name, func(t *testing.T) {
			if !c.first() {
				t.Parallel()
			}
			switch result := r.do(t.Context(), c); result.Outcome {
			case Failed:
				t.Errorf("%s\nhint: %s", result.Detail, result.Hint)
			case Skipped:
				t.Skip(result.Detail)
			}
		})
	}
}

// Run runs the checks for a stage against a plugin and reports each result when it is there, one at a time. It blocks
// until all are done or ctx ends. The error wraps ErrFailed when a check failed; else it says why checks could not be
// run. Nothing that it started runs on.
func Run(ctx context.Context, stage string, p Plugin, o Options, report func(Result)) error {
	r, err := newRun(stage, p, o)
	if err != nil {
		return err
	}
	failed := 0
	var mu sync.Mutex
	one := func(c check) {
		result := r.do(ctx, c)
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if result.Outcome == Failed {
			failed++
		}
		report(result)
	}
	r.each(ctx, one)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case failed > 0:
		return fmt.Errorf("%w: %d of %d checks failed", ErrFailed, failed, len(r.checks))
	}
	return nil
}

// Build compiles a main package, given as for `go build`, to a temporary file and gives its path.
func Build(t *testing.T, pkg string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "plugin")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", file, pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return file
}

// run is one use of the suites.
type run struct {
	stage   string
	plugin  Plugin
	options Options
	config  []byte
	checks  []check
	broken  atomic.Bool // it does not even start
}

func newRun(stage string, p Plugin, o Options) (*run, error) {
	all := checksOf(stage)
	if all == nil {
		return nil, fmt.Errorf("stagetest: unknown stage %q: there are resolver, builder, watcher, checker and rotator", stage)
	}
	path, err := filepath.Abs(p.Path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("stagetest: find the plugin: %w", err)
	}
	p.Path = path
	for _, dir := range []*string{&p.Dir, &p.Tree, &p.Page} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return nil, fmt.Errorf("stagetest: %w", err)
		}
	}
	config, err := configJSON(p.Config)
	if err != nil {
		return nil, err
	}
	checks, err := choose(all, o.Checks)
	if o.Slack <= 0 {
		o.Slack = 1
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	return &run{stage: stage, plugin: p, options: o, config: config, checks: checks}, err
}

// choose gives the checks that are named.
func choose(all []check, names []string) ([]check, error) {
	if len(names) == 0 {
		return all, nil
	}
	var chosen []check
	for _, c := range all {
		if slices.ContainsFunc(names, c.is) {
			chosen = append(chosen, c)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(c check) bool { return c.is(name) }) {
			return nil, fmt.Errorf("stagetest: there is no check %q for this stage", name)
		}
	}
	return chosen, nil
}

// first tells whether all others depend on this check.
func (c check) first() bool { return c.is("common/handshake") }

func (c check) is(name string) bool {
	suite, rest, found := strings.Cut(name, "/")
	return found && suite == c.suite && rest == c.name || !found && (name == c.suite || name == c.name)
}

// each calls do for every check, several at once, and in the end one by one for those that measure time.
func (r *run) each(ctx context.Context, do func(check)) {
	var running sync.WaitGroup
	slots := make(chan struct{}, r.options.Parallel)
	for _, alone := range []bool{false, true} {
		for _, c := range r.checks {
			if c.alone != alone || ctx.Err() != nil {
				continue
			}
			if alone || c.first() {
				do(c)
				continue
			}
			slots <- struct{}{}
			running.Go(func() { defer func() { <-slots }(); do(c) })
		}
		running.Wait()
	}
}

// do runs one check.
func (r *run) do(ctx context.Context, c check) Result {
	start := time.Now()
	result := Result{Suite: c.suite, Check: c.name, Outcome: Passed}
	err := error(skipError("it does not start: see common/handshake"))
	if !r.broken.Load() || c.cold {
		err = r.try(ctx, c)
	}
	result.Took = time.Since(start)
	var skip skipError
	switch {
	case errors.As(err, &skip):
		result.Outcome, result.Detail = Skipped, skip.Error()
	case err != nil:
		result.Outcome, result.Detail, result.Hint = Failed, err.Error(), c.hint
		r.broken.Store(r.broken.Load() || c.first())
	}
	return result
}

func (r *run) try(ctx context.Context, c check) (err error) {
	t, err := newTrial(r)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = t.lastWords(err)
		}
		err = errors.Join(err, t.end())
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, t.within(checkLimit), fmt.Errorf("the check did not end within %s", t.within(checkLimit)))
	defer cancel()
	return c.run(ctx, t)
}
