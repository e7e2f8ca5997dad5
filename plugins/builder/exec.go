package builder

import (
	"context"

	"github.com/tqserver/tqserver/sdk"
)

// ExecConfig is the configuration of Exec.
type ExecConfig struct {
	Parallel  int `tq:"parallel,default=0,min=0" doc:"builds that run at once; 0: as many as there are cores"`
	TimeoutMS int `tq:"timeout_ms,default=120000,min=1" doc:"longest time that one build may take"`
}

// Exec builds pages in any language: a page.yaml names the commands that build and run them (see recipe). The zero
// value is not usable; see NewExec.
type Exec struct{ jobs[ExecConfig] }

var (
	_ sdk.Builder = (*Exec)(nil)
	_ sdk.Drainer = (*Exec)(nil)
	_ sdk.Logs    = (*Exec)(nil)
)

// NewExec gives a builder with the default configuration.
func NewExec() *Exec {
	e := &Exec{newJobs[ExecConfig](".exec-")}
	_ = e.Configure(context.Background(), ExecConfig{TimeoutMS: 120_000})
	return e
}

// ServeExec runs an Exec as a plugin. The process gives way to others that want a CPU.
func ServeExec() {
	giveWay()
	e := NewExec()
	sdk.Serve("exec", sdk.Version, e, sdk.Config(e.Configure))
}

// Configure sets the configuration for the builds to come. Those that run end with the one they began with.
func (e *Exec) Configure(_ context.Context, c ExecConfig) error {
	e.configure(c, c.Parallel, c.TimeoutMS)
	return nil
}

// Build copies the source of a page to job.OutDir/<release>/files, builds it there, and puts a launcher beside it; or
// finds the release there. It waits for a build of the same source and for one of the parallel slots first; timeout_ms
// counts from then.
func (e *Exec) Build(ctx context.Context, job sdk.Job, event func(sdk.Event)) (sdk.Result, error) {
	return e.run(ctx, job, event, func(t task[ExecConfig]) attempt { return &execBuild{Exec: e, task: t} })
}
