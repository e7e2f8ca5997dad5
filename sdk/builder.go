package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	builderpb "github.com/tqserver/tqserver/sdk/proto/tqserver/builder/v1"
)

// Job is one build of one page.
type Job struct {
	Page   string // name
	Dir    string // absolute path of the page's directory
	Source string // absolute path of the directory to build
	OutDir string // absolute path, exists, mode 0700: the artifact goes to OutDir/<release>/
}

// Event is something that happened during a build. Exactly one field is set.
type Event struct {
	Step       string      // a new step began, in one word: "resolve", "compile"
	Log        string      // a line of a tool's output
	Diagnostic *Diagnostic // a finding in the source
}

// Result is how a build ended. When it is not OK and all its diagnostics were warnings, nothing is wrong with the
// source: something that it needs is not installed. The page is skipped then.
type Result struct {
	OK       bool
	Release  string            // hex hash of everything that went in: the same source gives the same release
	Artifact string            // absolute path of the executable
	SHA256   string            // of the artifact, lower-case hex
	Argv     []string          // command that runs it; empty: the artifact alone
	Env      map[string]string // further variables for the worker
	Inputs   []Input           // every file that the build read, outside of the toolchain and the module cache; also when OK is false
	Globs    []string          // absolute patterns (see Match): a new file that matches may change the build
	Cached   bool              // nothing had to be built
	Duration time.Duration
}

// Input is a file that a build read.
type Input struct {
	Path   string // absolute
	Digest string // see FileDigest
}

// ErrNoResult is returned by the kernel's side of a Builder when the plugin ended a build without a result.
var ErrNoResult = errors.New("sdk: builder ended the build without a result")

// NewBuilder speaks to the builder of a plugin.
func NewBuilder(conn grpc.ClientConnInterface) Builder {
	return builderClient{builderpb.NewBuilderClient(conn)}
}

type builderClient struct{ rpc builderpb.BuilderClient }

func (c builderClient) Build(ctx context.Context, job Job, event func(Event)) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Build(ctx, &builderpb.BuildRequest{Page: job.Page, Dir: job.Dir, Source: job.Source, OutDir: job.OutDir})
	if err != nil {
		return Result{}, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return Result{}, ErrNoResult
		}
		if err != nil {
			return Result{}, err
		}
		switch e := m.GetEvent().(type) {
		case *builderpb.BuildResponse_Progress:
			event(Event{Step: e.Progress.GetStep()})
		case *builderpb.BuildResponse_Log:
			event(Event{Log: e.Log.GetLine()})
		case *builderpb.BuildResponse_Diagnostic:
			d := diagnosticFromProto(e.Diagnostic)
			event(Event{Diagnostic: &d})
		case *builderpb.BuildResponse_Result:
			return resultFromProto(e.Result), nil
		}
	}
}

type builderServer struct {
	builderpb.UnimplementedBuilderServer
	impl Builder
}

func (s *builderServer) Build(req *builderpb.BuildRequest, stream grpc.ServerStreamingServer[builderpb.BuildResponse]) error {
	job := Job{Page: req.GetPage(), Dir: req.GetDir(), Source: req.GetSource(), OutDir: req.GetOutDir()}
	result, err := s.impl.Build(stream.Context(), job, func(e Event) {
		_ = stream.Send(eventToProto(e)) // a broken stream ends the context of the build
	})
	if err != nil {
		return fault(fmt.Errorf("build %s: %w", job.Page, err))
	}
	return stream.Send(&builderpb.BuildResponse{Event: &builderpb.BuildResponse_Result{Result: resultToProto(result)}})
}

func eventToProto(e Event) *builderpb.BuildResponse {
	switch {
	case e.Diagnostic != nil:
		return &builderpb.BuildResponse{Event: &builderpb.BuildResponse_Diagnostic{Diagnostic: diagnosticToProto(*e.Diagnostic)}}
	case e.Log != "":
		return &builderpb.BuildResponse{Event: &builderpb.BuildResponse_Log{Log: &builderpb.Log{Line: text(e.Log)}}}
	}
	return &builderpb.BuildResponse{Event: &builderpb.BuildResponse_Progress{Progress: &builderpb.Progress{Step: text(e.Step)}}}
}

func resultToProto(r Result) *builderpb.Result {
	return &builderpb.Result{Ok: r.OK, Release: r.Release, Artifact: r.Artifact, Sha256: r.SHA256, Argv: r.Argv, Env: r.Env,
		Globs: r.Globs, Cached: r.Cached, DurationMs: r.Duration.Milliseconds(),
		Inputs: each(r.Inputs, func(i Input) *builderpb.Input { return &builderpb.Input{Path: i.Path, Digest: i.Digest} })}
}

func resultFromProto(r *builderpb.Result) Result {
	return Result{OK: r.GetOk(), Release: r.GetRelease(), Artifact: r.GetArtifact(), SHA256: r.GetSha256(), Argv: r.GetArgv(),
		Env: r.GetEnv(), Globs: r.GetGlobs(), Cached: r.GetCached(), Duration: time.Duration(r.GetDurationMs()) * time.Millisecond,
		Inputs: each(r.GetInputs(), func(i *builderpb.Input) Input { return Input{Path: i.GetPath(), Digest: i.GetDigest()} })}
}
