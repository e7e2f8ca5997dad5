package builder

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// name names the launcher and the release after everything that goes in.
func (b *execBuild) name() {
	content := sha256.New()
	for _, f := range b.tree.files {
		fmt.Fprintf(content, "%q %v %s\n", f.rel, f.executable, f.file.sum)
	}
	run := b.recipe.run.texts()
	if !b.recipe.run.own() {
		run[0] = b.tools[run[0]].path
	}
	b.launcher = launcher(b.job.Page, hex.EncodeToString(content.Sum(nil)), run)
	all := sha256.New()
	fmt.Fprintf(all, "%s/%s %q\n%s", runtime.GOOS, runtime.GOARCH, b.job.Source, b.launcher)
	for _, name := range slices.Sorted(maps.Keys(b.tools)) {
		fmt.Fprintf(all, "%q %s\n", name, b.tools[name].identity)
	}
	b.release = hex.EncodeToString(all.Sum(nil))
}

// cached gives the release if it was built before and its source is still there: those who tidy up temporary
// directories remove single files.
func (b *execBuild) cached() (sdk.Result, bool) {
	dir := filepath.Join(b.job.OutDir, b.release)
	text, err := os.ReadFile(filepath.Join(dir, binaryName))
	if err != nil || string(text) != b.launcher {
		return sdk.Result{}, false
	}
	for _, f := range b.tree.files {
		if info, err := os.Stat(filepath.Join(dir, filesName, f.rel)); err != nil || !info.Mode().IsRegular() {
			return sdk.Result{}, false
		}
	}
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // in use: not to be removed as old
	result := b.succeeded()
	result.Cached = true
	return result, true
}

// commit completes the release in temp and moves it to its place as a whole.
func (b *execBuild) commit(temp string, took time.Duration) (sdk.Result, error) {
	made, final := filepath.Join(temp, "release"), filepath.Join(b.job.OutDir, b.release)
	r := record{Page: b.job.Page, Source: b.job.Source, BuiltAt: time.Now().UTC().Truncate(time.Second),
		DurationMS: took.Milliseconds(), SHA256: textSum(b.launcher), Size: int64(len(b.launcher)), Run: b.recipe.run.texts()}
	text, err := json.MarshalIndent(r, "", "  ")
	err = cmp.Or(err, os.WriteFile(filepath.Join(made, recordName), append(text, '\n'), 0o600))
	err = cmp.Or(err, os.WriteFile(filepath.Join(made, binaryName), []byte(b.launcher), 0o700))
	if err != nil {
		return sdk.Result{}, fmt.Errorf("complete the release of %s: %w", b.job.Page, err)
	}
	if os.Rename(made, final) == nil {
		return b.succeeded(), nil
	}
	if result, ok := b.cached(); ok { // another process was faster
		return result, nil
	}
	_ = os.Rename(final, filepath.Join(temp, "broken"))
	if err := os.Rename(made, final); err != nil {
		return sdk.Result{}, fmt.Errorf("put the release of %s into its place: %w", b.job.Page, err)
	}
	return b.succeeded(), nil
}

func textSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func (b *execBuild) succeeded() sdk.Result {
	artifact := filepath.Join(b.job.OutDir, b.release, binaryName)
	r := b.known()
	r.OK, r.Artifact, r.SHA256 = true, artifact, textSum(b.launcher)
	r.Argv, r.Env = []string{shell, artifact}, b.recipe.env
	return r
}

// failed reports the diagnostics and gives the result of a build that came to nothing.
func (b *execBuild) failed(diagnostics ...sdk.Diagnostic) sdk.Result {
	for _, d := range diagnostics {
		b.event(sdk.Event{Diagnostic: &d})
	}
	return b.known()
}

// known is a result with as much as is known about the source.
func (b *execBuild) known() sdk.Result {
	r := sdk.Result{Release: b.release, Globs: recipeGlobs(b.job.Source, nil)}
	if b.recipe != nil {
		r.Globs = recipeGlobs(b.job.Source, b.recipe.files)
	}
	if b.tree != nil {
		r.Inputs, r.Globs = b.tree.inputs(), b.tree.globs()
		return r
	}
	file := filepath.Join(b.job.Source, recipeName)
	if digest, err := sdk.FileDigest(file); err == nil {
		r.Inputs = []sdk.Input{{Path: file, Digest: digest}}
	}
	return r
}
