package stagetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/sdk"
)

const (
	buildLimit = time.Minute     // for one build, with cold caches
	killLimit  = 5 * time.Second // from the cancellation of a build to the end of all that it started
	cancelTrys = 5               // builds that may be over before they could be cancelled
)

func builderChecks() []check {
	c := func(name, doc, hint string, run func(context.Context, *trial) error) check {
		return check{suite: "builder", name: name, doc: doc, hint: see(hint, "builder"), run: run}
	}
	cancel := c("cancel", "a cancelled build ends within 5 s with every process that it started", "when the call is cancelled, kill the process group of each tool that runs", checkCancelBuild)
	cancel.alone = true
	return []check{
		c("result", "a good page is built: ok, release, executable artifact below out_dir/RELEASE, its SHA-256", "the last event is the result; the kernel hashes the artifact before it starts it", checkBuildResult),
		c("runs", "the artifact runs as a worker and gets ready", "a worker writes a byte to TQ_READY_FD, or answers GET /health on TQ_PORT with 200", checkArtifactRuns),
		c("again", "the same source gives the same release", "the release is a hash of everything that goes in", checkBuildAgain),
		c("edited", "another source gives another release, and the one before stays", "the release is a hash of everything that goes in", checkBuildEdited),
		c("fault", "a fault of the source is a result with ok=false and a message, no error of the call", "an error of the call is a fault of the builder: the kernel tries again", checkSourceFault),
		c("inputs", "inputs list the files that were read, with their digests, also of a build that failed", "the watcher's digests are compared with them: a change of an input starts a build", checkInputs),
		c("parallel", "two builds run at once", "Build is called for several pages at once", checkParallelBuilds),
		c("untouched", "a build changes nothing in the page's directory", "write below out_dir only: a change in the source would start the next build", checkUntouched),
		cancel,
	}
}

// building is a page, and the builder that builds it.
type building struct {
	t       *trial
	s       *subject
	job     sdk.Job
	message string // of the last build: a diagnostic, or a line of output
	edits   int
}

const builderModule = "module example.com/page\n\ngo 1.24\n"

// builderPage is a page without dependencies, that links quickly.
const builderPage = `package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	ready := os.NewFile(3, "ready")
	ready.Write([]byte{'1'})
	ready.Close()
	<-stop
}
`

// page makes a page to build.
func (t *trial) page(s *subject) (*building, error) {
	name := fmt.Sprintf("page%d", t.next())
	dir, out := filepath.Join(t.dir, name), filepath.Join(t.dir, "out", name)
	if err := os.MkdirAll(out, 0o700); err != nil {
		return nil, err
	}
	b := &building{t: t, s: s, job: sdk.Job{Page: name, Dir: dir, Source: dir, OutDir: out}}
	if t.plugin.Page != "" {
		return b, os.CopyFS(dir, os.DirFS(t.plugin.Page))
	}
	return b, writeAll(dir, map[string]string{"go.mod": builderModule, "main.go": builderPage})
}

// builder starts a plugin and makes a page.
func (t *trial) builder(ctx context.Context) (*building, error) {
	s, err := t.ready(ctx)
	if err != nil {
		return nil, err
	}
	return t.page(s)
}

func openBuilder(_ context.Context, t *trial, s *subject) (session, error) { return t.page(s) }

func (b *building) close() {}

// exchange builds the page, with an edit after the first time.
func (b *building) exchange(ctx context.Context) error {
	result, err := b.build(ctx)
	if err != nil {
		return err
	}
	return b.edit(result)
}

// build builds the page, which is not to fail.
func (b *building) build(ctx context.Context) (sdk.Result, error) {
	result, err := b.try(ctx)
	if err == nil && !result.OK {
		err = fmt.Errorf("a good page does not build: %s", b.message)
	}
	return result, err
}

func (b *building) try(ctx context.Context) (result sdk.Result, err error) {
	return result, b.t.limit(ctx, buildLimit, "Build", func(ctx context.Context) (err error) {
		result, err = sdk.NewBuilder(b.s.conn).Build(ctx, b.job, func(e sdk.Event) {
			switch {
			case e.Diagnostic != nil:
				b.message = e.Diagnostic.String()
			case e.Log != "":
				b.message = e.Log
			}
		})
		return err
	})
}

// edit changes the page without a fault: a further line end in the largest of its own inputs, or in any file.
func (b *building) edit(result sdk.Result) error {
	path, size := "", int64(-1)
	for _, file := range b.own(result) {
		if info, err := os.Stat(file); err == nil && info.Size() > size {
			path, size = file, info.Size()
		}
	}
	if path == "" {
		return errors.New("the result lists no input in the page's directory")
	}
	b.edits++
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\n")
	return errors.Join(err, f.Close())
}

// own gives the inputs that are in the page's directory.
func (b *building) own(result sdk.Result) (files []string) {
	for _, input := range result.Inputs {
		if strings.HasPrefix(input.Path, b.job.Dir+string(filepath.Separator)) {
			files = append(files, input.Path)
		}
	}
	return files
}

var releaseName = regexp.MustCompile(`^[0-9a-f]{8,128}$`)

func checkBuildResult(ctx context.Context, t *trial) error {
	b, err := t.builder(ctx)
	if err != nil {
		return err
	}
	r, err := b.build(ctx)
	if err != nil {
		return err
	}
	return b.valid(r)
}

// valid holds a result to what the kernel demands.
func (b *building) valid(r sdk.Result) error {
	if !releaseName.MatchString(r.Release) {
		return fmt.Errorf("the release %q is no lower-case hex hash", r.Release)
	}
	if !strings.HasPrefix(r.Artifact, filepath.Join(b.job.OutDir, r.Release)+string(filepath.Separator)) {
		return fmt.Errorf("the artifact %q is not below out_dir/%s", r.Artifact, r.Release)
	}
	info, err := os.Stat(r.Artifact)
	if err != nil {
		return fmt.Errorf("find the artifact: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o100 == 0 {
		return fmt.Errorf("the artifact has the mode %v, want a regular file that can be executed", info.Mode())
	}
	content, err := os.ReadFile(r.Artifact)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(content); r.SHA256 != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the artifact's SHA-256 is %x, the result says %q", sum, r.SHA256)
	}
	return nil
}

func checkArtifactRuns(ctx context.Context, t *trial) error {
	b, err := t.builder(ctx)
	if err != nil {
		return err
	}
	r, err := b.build(ctx)
	if err != nil {
		return err
	}
	return t.runWorker(ctx, b.job, r)
}

func checkBuildAgain(ctx context.Context, t *trial) error {
	b, err := t.builder(ctx)
	if err != nil {
		return err
	}
	first, err := b.build(ctx)
	if err != nil {
		return err
	}
	second, err := b.build(ctx)
	if err != nil {
		return err
	}
	if first.Release != second.Release || first.SHA256 != second.SHA256 || first.Artifact != second.Artifact {
		return fmt.Errorf("the same source gave the release %s (%s), then %s (%s)", first.Release, first.Artifact, second.Release, second.Artifact)
	}
	return b.valid(second)
}

func checkBuildEdited(ctx context.Context, t *trial) error {
	b, err := t.builder(ctx)
	if err != nil {
		return err
	}
	first, err := b.build(ctx)
	if err != nil {
		return err
	}
	if err := b.edit(first); err != nil {
		return err
	}
	second, err := b.build(ctx)
	if err != nil {
		return err
	}
	if first.Release == second.Release {
		return fmt.Errorf("after an edit the release is %s as before", first.Release)
	}
	if err := b.valid(second); err != nil {
		return err
	}
	if err := b.valid(first); err != nil {
		return fmt.Errorf("the release before, which may still serve: %w", err)
	}
	return nil
}

const garbage = "\x01 )( this is no source {{{ ]\n"

// spoil makes a page that cannot be built of one that can.
func (b *building) spoil(good sdk.Result) error {
	files := b.own(good)
	if len(files) == 0 {
		return errors.New("the result lists no input in the page's directory")
	}
	for _, file := range files {
		if b.t.plugin.Page == "" && filepath.Ext(file) != ".go" {
			continue // that would be no page any more
		}
		if err := os.WriteFile(file, []byte(garbage), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// fault builds a page with a fault.
func (b *building) fault(ctx context.Context) (sdk.Result, error) {
	good, err := b.build(ctx)
	if err != nil {
		return good, err
	}
	if err := b.spoil(good); err != nil {
		return good, err
	}
	b.message = ""
	return b.try(ctx)
}

func checkSourceFault(ctx context.Context, t *trial) error {
	b, err := t.builder(ctx)
	if err != nil {
		return err
	}
	result, err := b.fault(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("a page whose files hold garbage: %w", err)
	case result.OK:
		return errors.New("a page whose files hold garbage was built")
	case b.message == "":
		return errors.New("a page whose files hold garbage was refused without a diagnostic or a line of output")
	}
	return b.s.check(ctx, callLimit, 1)
}

func checkInputs(ctx context.Context, t *trial) error {
	b, err := t.builder(ctx)
	if err != nil {
		return err
	}
	result, err := b.build(ctx)
	if err != nil {
		return err
	}
	if err := b.validInputs(result); err != nil {
		return err
	}
	if result, err = b.fault(ctx); err != nil {
		return err
	}
	if err := b.validInputs(result); err != nil {
		return fmt.Errorf("of a build that failed: %w", err)
	}
	return nil
}

func (b *building) validInputs(r sdk.Result) error {
	for _, input := range r.Inputs {
		if !filepath.IsAbs(input.Path) {
			return fmt.Errorf("the input %q is not absolute", input.Path)
		}
		digest, err := sdk.FileDigest(input.Path)
		if err != nil {
			return fmt.Errorf("an input: %w", err)
		}
		if digest != input.Digest {
			return fmt.Errorf("the digest of the input %s is %q, want %q", input.Path, input.Digest, digest)
		}
	}
	if len(b.own(r)) == 0 {
		return fmt.Errorf("no file of the page's directory is among the %d inputs", len(r.Inputs))
	}
	return nil
}

func checkParallelBuilds(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	var builds sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		b, err := t.page(s)
		if err != nil {
			return err
		}
		builds.Go(func() {
			r, err := b.build(ctx)
			if err == nil {
				err = b.valid(r)
			}
			errs[i] = err
		})
	}
	builds.Wait()
	return errors.Join(errs...)
}

func checkUntouched(ctx context.Context, t *trial) error {
	b, err := t.builder(ctx)
	if err != nil {
		return err
	}
	before, err := listing(b.job.Dir)
	if err != nil {
		return err
	}
	if _, err := b.build(ctx); err != nil {
		return err
	}
	after, err := listing(b.job.Dir)
	if err != nil {
		return err
	}
	if path := changed(before, after); path != "" {
		return fmt.Errorf("the build changed %s", path)
	}
	return nil
}

func checkCancelBuild(ctx context.Context, t *trial) error {
	b, err := t.builder(ctx)
	if err != nil {
		return err
	}
	caught := false
	for range cancelTrys {
		b.message = ""
		if caught, err = b.cancelled(ctx); caught || err != nil {
			break
		}
	}
	switch {
	case err != nil:
		return err
	case !caught:
		return skipError("builds were over before they could be cancelled")
	}
	if b, err = t.page(b.s); err != nil {
		return err
	}
	if _, err := b.build(ctx); err != nil {
		return fmt.Errorf("after a cancelled build: %w", err)
	}
	return nil
}

// cancelled cancels a build while it runs a tool. false: there was no such moment.
func (b *building) cancelled(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	idle := b.s.proc.left()
	go func() {
		result, err := b.try(ctx)
		if err == nil {
			err = b.edit(result) // the next try is another build
		}
		ended <- err
	}()
	var tools []int
	for tick := time.NewTicker(5 * time.Millisecond); len(tools) == 0; {
		select {
		case err := <-ended:
			tick.Stop()
			return false, err
		case <-tick.C:
			tools = slices.DeleteFunc(b.s.proc.left(), func(pid int) bool { return slices.Contains(idle, pid) })
		}
	}
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled && !errors.Is(err, context.Canceled) {
		return false, err
	}
	var left []int
	err := b.t.until(context.WithoutCancel(ctx), killLimit,
		func() string { return fmt.Sprintf("of the cancelled build %s still runs", describeAll(left)) },
		func() bool {
			left = slices.DeleteFunc(b.s.proc.left(), func(pid int) bool { return slices.Contains(idle, pid) })
			return len(left) == 0
		})
	return true, err
}
