package kernel

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/dev"
	"github.com/tqserver/tqserver/sdk"
)

// timings is how long the parts of a save took. They follow each other without a gap.
type timings struct {
	detect time.Duration // from the save until the kernel knew; 0: unknown
	build  time.Duration // until the release was there
	start  time.Duration // until the worker's process was
	ready  time.Duration // until it could serve
	swap   time.Duration // until requests went there
	steps  []buildStep   // of the build
}

// buildStep is a step of a build, as far as the builder tells.
type buildStep struct {
	name  string
	began time.Time
}

// longDetect is what no watcher takes: the file is dated by something else than a save.
const longDetect = 30 * time.Second

// saved notes when the files of a change were written, for the build that it causes.
func (p *page) saved(changes []sdk.Change) {
	p.devSources(changes)
	if p.building != nil {
		return
	}
	var paths []string
	for _, c := range changes {
		if src := p.sources.Load(); src == nil || src.concerns(c, false) {
			paths = append(paths, c.Path)
		}
	}
	p.savedAt = savedAt(paths)
}

// savedAt is when the newest of some files was written, or renamed into its place; zero when that is unknown.
func savedAt(paths []string) (at time.Time) {
	for _, path := range paths[:min(len(paths), 16)] {
		if info, err := os.Lstat(path); err == nil {
			if t := inodeChanged(info); t.After(at) {
				at = t
			}
		}
	}
	return at
}

// timeBuild puts the first parts into the report of a build.
func (p *page) timeBuild(report *buildReport) {
	report.times.build = max(0, report.at.Sub(report.changed))
	if d := report.changed.Sub(p.savedAt); d >= 0 && d < longDetect {
		report.times.detect = d
	}
	p.savedAt = time.Time{}
}

// timeLive adds the others when the release is live.
func (r *buildReport) timeLive(inst *instance) {
	at := r.at
	until := func(t time.Time) time.Duration { // nothing, if it was so before: the worker may have been there already
		d := max(0, t.Sub(at))
		at = at.Add(d)
		return d
	}
	r.times.start = until(inst.worker.Started())
	r.times.ready = until(inst.ready)
	r.times.swap = until(time.Now())
}

// total is from the save, as far as that is known, until the release was live.
func (t *timings) total() time.Duration { return t.detect + t.build + t.start + t.ready + t.swap }

// fill puts the parts into what status tells.
func (t *timings) fill(b *control.Build) {
	b.DetectMS, b.BuildMS = milliseconds(t.detect), milliseconds(t.build)
	b.StartMS, b.ReadyMS, b.SwapMS = milliseconds(t.start), milliseconds(t.ready), milliseconds(t.swap)
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// stepTimes gives each step of a build with its length, up to the end of the build.
func (r *buildReport) stepTimes() (all []dev.Step) {
	for i, s := range r.times.steps {
		end := r.at
		if i+1 < len(r.times.steps) {
			end = r.times.steps[i+1].began
		}
		all = append(all, dev.Step{Name: s.name, MS: milliseconds(max(0, end.Sub(s.began)))})
	}
	return all
}

// timing is the line that a developer sees in the browser.
func (r *buildReport) timing() *dev.Timing {
	t := &r.times
	steps := []dev.Step{{Name: "detect", MS: milliseconds(t.detect)}, {Name: "build", MS: milliseconds(t.build)}}
	if parts := r.stepTimes(); len(parts) > 1 {
		steps[1].Name = "build (" + joinSteps(parts) + ")"
	}
	steps = append(steps, dev.Step{Name: "start", MS: milliseconds(t.start)}, dev.Step{Name: "ready", MS: milliseconds(t.ready)}, dev.Step{Name: "swap", MS: milliseconds(t.swap)})
	return &dev.Timing{Total: milliseconds(t.total()), Steps: steps}
}

// line is the same for the terminal.
func (r *buildReport) line() []any {
	t := &r.times
	var args []any
	if t.detect > 0 {
		args = append(args, "detect", round(t.detect))
	}
	args = append(args, "build", round(t.build))
	if parts := r.stepTimes(); len(parts) > 1 {
		args = append(args, "steps", joinSteps(parts))
	}
	return append(args, "start", round(t.start), "ready", round(t.ready), "swap", round(t.swap), "total", round(t.total()))
}

func joinSteps(steps []dev.Step) string {
	var all []string
	for _, s := range steps {
		all = append(all, fmt.Sprintf("%s %.0f", s.Name, s.MS))
	}
	return strings.Join(all, ", ")
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
