package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	explainRuns = 3     // builds that are measured, after one that fills the cache
	explainGC   = "off" // GOGC of the tools, as for a link that somebody waits for
)

// measured is what the builds of a page took, in medians.
type measured struct {
	compile, link, build time.Duration
	binary               int64
	byName               []string // functions in the binary that look up methods by names known at run time only
}

// measure builds the page again and again, each time as after a save of one of its files.
func (b *build) measure(ctx context.Context) (*measured, error) {
	temp, err := os.MkdirTemp("", "tqserver-explain-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the builds: %w", err)
	}
	defer os.RemoveAll(temp)
	m := &measured{}
	ldflags := "-dumpdep" // tells what the linker keeps, and why
	for _, f := range b.config.buildFlags() {
		if own, ok := strings.CutPrefix(f, "-ldflags="); ok {
			ldflags = own + " " + ldflags
		}
	}
	text, err := b.buildOnce(ctx, temp, "-ldflags="+ldflags)
	if err != nil {
		return nil, err
	}
	m.byName = methodsByName(text)
	var compile, link, all []time.Duration
	for i := range explainRuns {
		flags, err := b.edited(temp, i)
		if err != nil {
			return nil, err
		}
		actions := filepath.Join(temp, "actions.json")
		start := time.Now()
		if _, err := b.buildOnce(ctx, temp, append(flags, "-debug-actiongraph="+actions)...); err != nil {
			return nil, err
		}
		all = append(all, time.Since(start))
		compile, link = append(compile, took(actions, "build")), append(link, took(actions, "link"))
	}
	m.compile, m.link, m.build = middle(compile), middle(link), middle(all)
	if info, err := os.Stat(filepath.Join(temp, binaryName)); err == nil {
		m.binary = info.Size()
	}
	return m, nil
}

func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// buildOnce runs go build to a fresh file, and gives what it printed.
func (b *build) buildOnce(ctx context.Context, temp string, flags ...string) (string, error) {
	path, err := b.config.goPath()
	if err != nil {
		return "", err
	}
	out := filepath.Join(temp, binaryName)
	_ = os.Remove(out) // an output that is there and current would not be linked again
	env := append(slices.Clone(b.plan.cgoSettings(nil)[:1]), "GOTMPDIR="+temp, "TMPDIR="+temp, "GOGC="+explainGC)
	args := slices.Concat([]string{"build", "-o", out}, b.config.buildFlags(), flags, []string{"."})
	var text bytes.Buffer
	err = sdk.Run(ctx, prepare(path, b.job.Source, env, args...), func(e sdk.Event) { text.WriteString(e.Log + "\n") })
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.As(err, &exit):
		return "", diagnosed(b.explain(text.String()))
	case err != nil:
		return "", fmt.Errorf("run %s build: %w", path, err)
	}
	return text.String(), nil
}

// edited gives the flags by which go build sees the page with a comment more. Where the user has an overlay of his
// own there are none, and nothing is compiled again.
func (b *build) edited(temp string, n int) ([]string, error) {
	for _, f := range append(strings.Fields(os.Getenv("GOFLAGS")), b.config.Flags...) {
		if strings.HasPrefix(strings.TrimLeft(f, "-"), "overlay") {
			return nil, nil
		}
	}
	i := slices.IndexFunc(b.plan.files, func(f string) bool { return filepath.Dir(f) == b.job.Source && strings.HasSuffix(f, ".go") })
	if i < 0 {
		return nil, nil
	}
	text, err := os.ReadFile(b.plan.files[i])
	if err != nil {
		return nil, fmt.Errorf("read the page: %w", err)
	}
	copied, overlay := filepath.Join(temp, "edited.go"), filepath.Join(temp, "overlay.json")
	text = fmt.Appendf(text, "\n// %s, save %d\n", temp, n) // nowhere else: or it would be in the cache
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {b.plan.files[i]: copied}})
	if err == nil {
		err = errors.Join(os.WriteFile(copied, text, 0o600), os.WriteFile(overlay, replace, 0o600))
	}
	if err != nil {
		return nil, fmt.Errorf("write an edit of the page: %w", err)
	}
	return []string{"-overlay=" + overlay}, nil
}

// took sums up what the go command ran for actions of a mode. It is 0 when a version of Go does not tell.
func took(actions, mode string) (sum time.Duration) {
	text, err := os.ReadFile(actions)
	if err != nil {
		return 0
	}
	var all []struct {
		Mode    string
		CmdReal time.Duration
	}
	if json.Unmarshal(text, &all) != nil {
		return 0
	}
	for _, a := range all {
		if a.Mode == mode {
			sum += a.CmdReal
		}
	}
	return sum
}

// reflected finds, in what the linker prints with -dumpdep, who makes it keep every exported method.
var reflected = regexp.MustCompile(`(?m)^(\S+) <ReflectMethod> ->`)

func methodsByName(text string) []string {
	var names, inner []string
	for _, m := range reflected.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[1], "reflect.") { // kept because of another, if there is one
			inner = append(inner, m[1])
			continue
		}
		names = append(names, m[1])
	}
	if len(names) == 0 {
		names = inner
	}
	return unique(names)
}
