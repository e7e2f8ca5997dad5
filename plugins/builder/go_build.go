package builder

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	binaryName = "page"
	recordName = "release.json"
	maxRounds  = 3 // builds of a source that changes meanwhile
)

// record lies beside each binary.
type record struct {
	Page       string    `json:"page"`
	Source     string    `json:"source"`
	BuiltAt    time.Time `json:"built_at"`
	DurationMS int64     `json:"duration_ms"`
	SHA256     string    `json:"sha256"`
	Size       int64     `json:"size"`
	Go         string    `json:"go,omitempty"`  // version
	Run        []string  `json:"run,omitempty"` // command
}

// build is one call of Build.
type build struct {
	*Go
	task[GoConfig]
	plan  *plan
	state state
}

// rounds builds until the files stay the same from before a build to after it.
func (b *build) rounds(ctx context.Context) (sdk.Result, error) {
	if info, err := os.Stat(b.job.Source); err != nil || !info.IsDir() {
		return b.failed(sdk.Diagnostic{File: b.job.Source, Message: "there is no such directory to build page " + b.job.Page + " from"}), nil
	}
	for i := range maxRounds {
		result, again, err := b.round(ctx, i == maxRounds-1)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return b.failed(noSpace(b.job.OutDir)), nil
		}
		if err != nil || !again {
			return result, err
		}
	}
	return b.failed(sdk.Diagnostic{Message: fmt.Sprintf("the source files of page %s changed during %d builds in a row", b.job.Page, maxRounds)}), nil
}

// round resolves, and compiles what is not there yet. again means that files changed meanwhile.
func (b *build) round(ctx context.Context, last bool) (result sdk.Result, again bool, err error) {
	b.event(sdk.Event{Step: "resolve"})
	sure, err := b.resolve(ctx)
	if err != nil || !sure && !last {
		return sdk.Result{}, err == nil, err
	}
	if len(b.plan.diagnostics) > 0 {
		return b.failed(b.spaceFirst(b.plan.diagnostics)...), false, nil
	}
	if r, ok := b.cached(); ok {
		b.afterwards(true)
		return r, false, nil
	}
	b.event(sdk.Event{Step: "compile"})
	start := time.Now()
	temp, err := b.temps.make(b.job.OutDir, b.limit, "release", "work")
	if err != nil {
		return sdk.Result{}, false, err
	}
	defer b.removeTemp(temp)
	fault, err := b.compile(ctx, temp)
	if errors.Is(err, errChanged) {
		return sdk.Result{}, true, nil
	}
	if err != nil {
		return sdk.Result{}, false, err
	}
	sum := sumOf(filepath.Join(temp, "release", binaryName)) // beside the reading of the source
	changed, sums := b.changed(temp), sum()
	if changed {
		return sdk.Result{}, true, nil
	}
	if len(fault) > 0 {
		return b.failed(b.spaceFirst(fault)...), false, nil
	}
	result, err = b.commit(temp, sums, time.Since(start))
	if err == nil {
		b.afterwards(false)
	}
	return result, false, err
}

// resolve finds the files and their digests, with the plan of the build before if it still holds. It is not sure of
// them when they changed while the go command listed them.
func (b *build) resolve(ctx context.Context) (sure bool, err error) {
	if b.src.fast.turned() {
		b.src.plan = nil
	}
	if b.plan = b.src.plan; b.plan != nil {
		b.scan()
		if b.state.shape == b.plan.shape {
			return true, nil
		}
	}
	b.src.plan = nil
	start := time.Now()
	if b.plan, err = b.newPlan(ctx); err != nil {
		return false, err
	}
	b.scan()
	b.plan.shape = b.state.shape
	if b.state.newest.After(start.Add(-clockStep)) || b.state.gone {
		return false, nil
	}
	if len(b.plan.diagnostics) == 0 {
		b.src.plan = b.plan
	}
	return true, nil
}

func (b *build) scan() {
	b.state = b.plan.scan(b.src.files)
	b.src.files = b.state.files
}

// changed tells whether files, or the toolchain, are others than those that the release is named after.
func (b *build) changed(temp string) bool {
	before := b.state
	b.scan()
	if b.state.shape != before.shape || b.state.release != before.release {
		return true
	}
	info, err := buildinfo.ReadFile(filepath.Join(temp, "release", binaryName))
	if err != nil {
		return false
	}
	if built, _, _ := strings.Cut(info.GoVersion, " "); !strings.HasPrefix(b.plan.version+" ", built+" ") {
		b.src.plan = nil // the go command is a switch between several, and now chose another
		return true
	}
	return false
}

// toolGC lets go, compiler and linker collect garbage less often than they do of themselves: a tenth of the time of a
// small page's build, for a heap that stays in proportion to what they use.
const toolGC = "400"

// compile builds the page on the fast lane, or with the go command. The fault is what is wrong with the source;
// errChanged says that files changed meanwhile.
func (b *build) compile(ctx context.Context, temp string) (fault []sdk.Diagnostic, err error) {
	l := b.lane()
	if l == nil {
		return b.goBuild(ctx, temp)
	}
	fault, err = b.fast(ctx, l, temp)
	if !errors.Is(err, errSlow) {
		return fault, err
	}
	why := err
	b.event(sdk.Event{Step: "compile"})
	if fault, err = b.goBuild(ctx, temp); err == nil && len(fault) == 0 { // else the lane was right to stumble
		b.missed(why)
	}
	return fault, err
}

// goBuild runs go build.
func (b *build) goBuild(ctx context.Context, temp string) (fault []sdk.Diagnostic, err error) {
	path, err := b.config.goPath()
	if err != nil {
		return nil, err
	}
	out := output{event: b.event}
	work := filepath.Join(temp, "work") // of go, compiler and linker: gone with temp also when they are killed
	env := append([]string{"GOTMPDIR=" + work, "TMPDIR=" + work, "GOGC=" + toolGC}, b.plan.cgoSettings(nil)[0])
	args := append([]string{"build", "-o", filepath.Join(temp, "release", binaryName)}, b.config.buildFlags()...)
	err = sdk.Run(ctx, prepare(path, b.job.Source, env, append(args, ".")...), out.take)
	text := out.text.String()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !errors.As(err, &exit):
		return nil, fmt.Errorf("run %s build: %w", path, err)
	case strings.TrimSpace(text) == "":
		text = fmt.Sprintf("go build: %v", exit)
	}
	return b.explain(text), nil
}

func (b *build) removeTemp(temp string) {
	if err := b.temps.remove(temp); err != nil {
		b.log.Warn("temporary directory stays until a later build", "dir", temp, "error", err)
	}
}

// cached gives the release if it was built before.
func (b *build) cached() (sdk.Result, bool) {
	dir := filepath.Join(b.job.OutDir, b.state.release)
	var r record
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil || json.Unmarshal(text, &r) != nil || r.SHA256 == "" {
		return sdk.Result{}, false
	}
	binary := filepath.Join(dir, binaryName)
	info, err := os.Stat(binary)
	if err != nil || !info.Mode().IsRegular() || info.Size() != r.Size || info.Mode()&0o100 == 0 {
		return sdk.Result{}, false
	}
	now := time.Now()
	for _, path := range []string{binary, dir} { // in use: not to be removed as old
		_ = os.Chtimes(path, now, now)
	}
	result := b.succeeded(r)
	result.Cached = true
	return result, true
}

// commit completes the release in temp and moves it to its place as a whole.
func (b *build) commit(temp string, binary summed, took time.Duration) (sdk.Result, error) {
	made := filepath.Join(temp, "release")
	r := record{Page: b.job.Page, Source: b.job.Source, BuiltAt: time.Now().UTC().Truncate(time.Second),
		DurationMS: took.Milliseconds(), Go: b.plan.version, SHA256: binary.sum, Size: binary.size}
	if binary.err != nil {
		return sdk.Result{}, fmt.Errorf("read the binary of %s: %w", b.job.Page, binary.err)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return sdk.Result{}, fmt.Errorf("record the build of %s: %w", b.job.Page, err)
	}
	if err := os.WriteFile(filepath.Join(made, recordName), append(text, '\n'), 0o600); err != nil {
		return sdk.Result{}, fmt.Errorf("record the build of %s: %w", b.job.Page, err)
	}
	final := filepath.Join(b.job.OutDir, b.state.release)
	if os.Rename(made, final) == nil {
		return b.succeeded(r), nil
	}
	if result, ok := b.cached(); ok { // another process was faster
		return result, nil
	}
	_ = os.Rename(final, filepath.Join(temp, "broken"))
	if err := os.Rename(made, final); err != nil {
		return sdk.Result{}, fmt.Errorf("put the release of %s into its place: %w", b.job.Page, err)
	}
	return b.succeeded(r), nil
}

// summed is what checksum gives.
type summed struct {
	sum  string
	size int64
	err  error
}

// sumOf reads a file in a goroutine of its own; wait gives the result.
func sumOf(path string) (wait func() summed) {
	done := make(chan summed, 1)
	go func() {
		var s summed
		s.sum, s.size, s.err = checksum(path)
		done <- s
	}()
	return func() summed { return <-done }
}

func checksum(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 256<<10))
	return hex.EncodeToString(h.Sum(nil)), size, err
}

func (b *build) succeeded(r record) sdk.Result {
	return sdk.Result{OK: true, Release: b.state.release, SHA256: r.SHA256, Inputs: b.state.inputs(), Globs: b.plan.globs(),
		Artifact: filepath.Join(b.job.OutDir, b.state.release, binaryName)}
}

// failed reports the diagnostics and gives the result of a build that came to nothing.
func (b *build) failed(diagnostics ...sdk.Diagnostic) sdk.Result {
	for _, d := range diagnostics {
		b.event(sdk.Event{Diagnostic: &d})
	}
	if b.plan == nil { // nothing is known yet: at least the files of the source
		b.plan = &plan{source: b.job.Source, dirs: []string{b.job.Source}, meta: map[string]bool{}}
		b.plan.addMeta(b.job.Source, "", "")
		b.state = b.plan.scan(b.src.files)
	}
	return sdk.Result{Release: b.state.release, Inputs: b.state.inputs(), Globs: b.plan.globs()}
}
