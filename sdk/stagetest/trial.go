package stagetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gopkg.in/yaml.v3"
)

const (
	checkLimit = time.Minute     // for a whole check
	callLimit  = 5 * time.Second // for the answer to a call, as far as nothing else is said
)

// check is one demand on a plugin.
type check struct {
	suite, name string
	doc         string // what it wants, in one line
	hint        string // what the protocol demands, and where that is written
	alone       bool   // it measures time
	cold        bool   // it does not need a plugin that serves
	run         func(ctx context.Context, t *trial) error
}

// checksOf gives the suites for a stage, nil for an unknown one.
func checksOf(stage string) []check {
	d, ok := drivers[stage]
	if !ok {
		return nil
	}
	return append(slices.Clone(commonChecks()), d.checks()...)
}

// driver is what the suites know about a stage.
type driver struct {
	checks func() []check
	open   func(ctx context.Context, t *trial, s *subject) (session, error)
}

// session is a use of a plugin's own service.
type session interface {
	// exchange gives the plugin work, on the open stream if the stage has one, and waits for a right answer.
	exchange(ctx context.Context) error
	// close ends the stream from this side.
	close()
}

var drivers map[string]driver

func init() { // or the table would refer to itself
	drivers = map[string]driver{
		"resolver": {resolverChecks, openResolver},
		"watcher":  {watcherChecks, openWatcher},
		"builder":  {builderChecks, openBuilder},
		"checker":  {checkerChecks, openChecker},
		"rotator":  {rotatorChecks, openRotator},
	}
}

// skipError says why a check does not apply.
type skipError string

func (e skipError) Error() string { return string(e) }

// trial is one run of one check: a scratch directory, and the processes that it started.
type trial struct {
	*run
	dir      string   // scratch, without symbolic links in its path
	work     string   // working directory of the plugin
	outputs  []string // where the lines of a rotator appear
	subjects []*subject
	closers  []func()
	count    int
}

func newTrial(r *run) (*trial, error) {
	dir, err := os.MkdirTemp(shortTemp(), "tqst")
	if err != nil {
		return nil, fmt.Errorf("make a scratch directory: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	t := &trial{run: r, dir: dir, work: filepath.Join(dir, "work"), outputs: slices.Clone(r.plugin.Output)}
	if err := os.Mkdir(t.work, 0o755); err != nil {
		return nil, err
	}
	if r.plugin.Dir != "" {
		if err := os.CopyFS(t.work, os.DirFS(r.plugin.Dir)); err != nil {
			return nil, fmt.Errorf("copy the working directory: %w", err)
		}
	}
	return t, nil
}

// shortTemp is the directory for temporary files or, if its path has no room for sockets, /tmp.
func shortTemp() string {
	if dir := os.TempDir(); len(dir) <= 40 {
		return dir
	}
	return "/tmp"
}

// end leaves nothing behind.
func (t *trial) end() error {
	for _, f := range slices.Backward(t.closers) {
		f()
	}
	for _, s := range slices.Backward(t.subjects) {
		s.destroy()
	}
	if err := os.RemoveAll(t.dir); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// lastWords adds to an error what the plugin wrote last.
func (t *trial) lastWords(err error) error {
	var skip skipError
	if len(t.subjects) == 0 || errors.As(err, &skip) {
		return err
	}
	lines := t.subjects[len(t.subjects)-1].proc.stderr.last(5)
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w\nits last lines on stderr:\n  %s", err, strings.Join(lines, "\n  "))
}

// within gives a time limit of the protocol with the slack that the machine needs.
func (t *trial) within(limit time.Duration) time.Duration {
	return time.Duration(float64(limit) * t.options.Slack)
}

// limit runs f, which must end with its context, and says what took too long if it did.
func (t *trial) limit(ctx context.Context, limit time.Duration, what string, f func(ctx context.Context) error) error {
	limit = t.within(limit)
	late := fmt.Errorf("%s: no answer within %s", what, limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	err := f(ctx)
	if at, _ := ctx.Deadline(); status.Code(err) == codes.DeadlineExceeded && time.Until(at) < 100*time.Millisecond {
		<-ctx.Done() // the plugin's clock was first
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// until polls until ok or the limit has passed.
func (t *trial) until(ctx context.Context, limit time.Duration, what func() string, ok func() bool) error {
	deadline := time.NewTimer(t.within(limit))
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return fmt.Errorf("%s after %s", what(), t.within(limit))
		case <-tick.C:
		}
	}
	return nil
}

// next gives a number that no other call gave.
func (t *trial) next() int { t.count++; return t.count }

// write saves a file below dir as an editor does that writes in place, and gives its path.
func write(dir, name, content string) (string, error) {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(content), 0o644)
}

// writeAll saves files, given as path -> content, below dir.
func writeAll(dir string, files map[string]string) error {
	for name, content := range files {
		if _, err := write(dir, name, content); err != nil {
			return err
		}
	}
	return nil
}

// listing gives every file and directory below dirs, with size and time of change.
func listing(dirs ...string) (map[string]string, error) {
	all := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil {
				all[path] = fmt.Sprintf("%v %d %d", info.Mode(), info.Size(), info.ModTime().UnixNano())
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// changed names a path in which two listings differ, "" if they do not.
func changed(before, after map[string]string) string {
	for path, state := range after {
		if before[path] != state {
			return path
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			return path
		}
	}
	return ""
}

// configJSON makes of a YAML or JSON mapping what is sent to a plugin.
func configJSON(text string) ([]byte, error) {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		return nil, fmt.Errorf("stagetest: read the plugin's configuration: want a mapping of keys to values: %w", err)
	}
	if values == nil {
		return nil, nil
	}
	out, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("stagetest: encode the plugin's configuration: %w", err)
	}
	return out, nil
}
