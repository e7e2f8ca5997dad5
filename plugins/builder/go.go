// Package builder holds the builders of the default bundle.
package builder

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// GoConfig is the configuration of Go.
type GoConfig struct {
	Go        string   `tq:"go,default=go" doc:"the go command: a name to be found in PATH, or an absolute path"`
	Parallel  int      `tq:"parallel,default=0,min=0" doc:"builds that run at once; 0: as many as there are cores"`
	TimeoutMS int      `tq:"timeout_ms,default=120000,min=1" doc:"longest time that one build may take"`
	Dwarf     bool     `tq:"dwarf,default=false" doc:"keep the symbol table and debug information, for a debugger; links about twice as long"`
	Cgo       string   `tq:"cgo,default=auto,oneof=auto|on|off" doc:"auto: only where a package outside the standard library uses it"`
	Ldflags   string   `tq:"ldflags" doc:"further flags for the linker"`
	Tags      []string `tq:"tags" doc:"build tags"`
	Flags     []string `tq:"flags" doc:"further flags for go build, each with its value: -gcflags=all=-N"`

	Fast         string `tq:"fast,default=auto,oneof=auto|off" doc:"auto: call compiler and linker directly where that makes the same; off: always the go command"`
	Linker       string `tq:"linker,default=auto,oneof=auto|stock" doc:"auto: keep a linker waiting for the next save of a page, which has loaded its packages; stock: the toolchain's own"`
	CheckMinutes int    `tq:"check_minutes,default=10,min=0" doc:"least time between two checks of a page that both ways make the same; 0: none"`
}

// ownFlags are the flags that the builder sets itself, or that turn go build into something else.
var ownFlags = map[string]string{"o": "", "C": "", "n": "", "json": "", "buildvcs": "", "i": "",
	"tags": "; use the key tags", "ldflags": "; use the key ldflags"}

// Validate refuses flags that go build could not take beside those of the builder.
func (c GoConfig) Validate() error {
	for _, f := range c.Flags {
		name, _, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
		if !strings.HasPrefix(f, "-") || name == "" {
			return fmt.Errorf("flags: %q is not a flag: write the value into the same entry, as in -gcflags=all=-N", f)
		}
		if instead, ok := ownFlags[name]; ok {
			return fmt.Errorf("flags: -%s belongs to the builder%s", name, instead)
		}
	}
	return nil
}

// Go builds pages with the go command. The zero value is not usable; see NewGo.
//
// Between two builds it keeps, for each source, which files the build reads, so that a save that leaves the imports
// alone costs one `go build` and nothing else. All of that can be found again: a new Go does not know less.
//
// A save that leaves the plan of a build alone is not built by the go command, but by the compiler and the linker
// themselves: see lane. What that takes is prepared in the background after a build, and ends with Drain.
type Go struct {
	jobs[GoConfig]
	lanes lanes
}

var (
	_ sdk.Builder = (*Go)(nil)
	_ sdk.Drainer = (*Go)(nil)
	_ sdk.Logs    = (*Go)(nil)
)

// NewGo gives a builder with the default configuration.
func NewGo() *Go {
	g := &Go{jobs: newJobs[GoConfig](".tmp-"), lanes: lanes{background: background{quiet: quietTime}, temps: temps{prefix: ".go-back-"}}}
	_ = g.Configure(context.Background(), GoConfig{Go: "go", TimeoutMS: 120_000, Cgo: "auto", Fast: "auto", Linker: "auto", CheckMinutes: 10})
	return g
}

// buildNice is the nice value of builds.
const buildNice = 10

// ServeGo runs a Go as a plugin. The process gives way to others that want a CPU.
func ServeGo() {
	giveWay()
	g := NewGo()
	sdk.Serve("go", sdk.Version, g, sdk.Config(g.Configure))
}

// SetLogger sets where the builder logs. It is called before the first build.
func (g *Go) SetLogger(log hclog.Logger) {
	g.jobs.SetLogger(log)
	g.lanes.log = log
}

// Configure sets the configuration for the builds to come. Those that run end with the one they began with.
func (g *Go) Configure(_ context.Context, c GoConfig) error {
	if err := c.Validate(); err != nil {
		return err
	}
	g.configure(c, c.Parallel, c.TimeoutMS)
	return nil
}

// Build compiles job.Source to job.OutDir/<release>/page, or finds it there. It waits for a build of the same source
// and for one of the parallel slots first; timeout_ms counts from then.
func (g *Go) Build(ctx context.Context, job sdk.Job, event func(sdk.Event)) (sdk.Result, error) {
	return g.run(ctx, job, event, func(t task[GoConfig]) attempt { return &build{Go: g, task: t} })
}

// Drain takes no new builds, ends what is done in the background, and waits for the builds that run, or for ctx.
func (g *Go) Drain(ctx context.Context) error {
	err := g.jobs.Drain(ctx)
	g.lanes.stop()
	return err
}

// listFlags are the flags that go list and go build share.
func (c GoConfig) listFlags() []string {
	flags := slices.Clone(c.Flags)
	if len(c.Tags) > 0 {
		flags = append(flags, "-tags="+strings.Join(c.Tags, ","))
	}
	return flags
}

// buildFlags are the flags of go build. They are the same for every page, or the standard library would be compiled
// again for each set. There is no -trimpath: the paths in a panic stay such that an editor finds them.
func (c GoConfig) buildFlags() []string {
	ldflags := c.Ldflags
	if !c.Dwarf {
		ldflags = strings.TrimSpace("-s -w " + ldflags)
	}
	flags := append(c.listFlags(), "-buildvcs=false")
	if ldflags != "" {
		flags = append(flags, "-ldflags="+ldflags)
	}
	return flags
}
