package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

type suffix struct {
	Suffix string `tq:"suffix,default=.local"`
}

func TestResolverFuncHasItsConfigurationAndSurvivesAPanic(t *testing.T) {
	conn := dial(t, ResolverFunc(func(ctx context.Context, c suffix, tree Tree) (Table, error) {
		Logger(ctx).Debug("resolving")
		if tree.Revision == 2 {
			panic("boom")
		}
		return Table{Routes: []Route{{Host: "a" + c.Suffix, Path: "/", Page: "a"}}}, nil
	}))
	life := NewLifecycle(conn)
	if err := life.Configure(t.Context(), []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	trees, tables := make(chan Tree), make(chan Table)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- NewResolver(conn).Resolve(ctx, trees, func(table Table) error { tables <- table; return nil })
	}()
	defer func() { cancel(); <-done }()
	trees <- Tree{Root: "/p", Revision: 1}
	if got := <-tables; got.Routes[0].Host != "a.local" {
		t.Errorf("routes by default: %+v", got.Routes)
	}
	trees <- Tree{Root: "/p", Revision: 2}
	if got := <-tables; len(got.Routes) != 1 || len(got.Diagnostics) != 1 || got.Diagnostics[0].Message != "panic: boom" {
		t.Errorf("table after a panic: %+v", got)
	}
	trees <- Tree{Root: "/p", Revision: 3}
	if got := <-tables; got.Revision != 3 || len(got.Diagnostics) != 0 {
		t.Errorf("table after that: %+v", got)
	}
	if err := life.Configure(t.Context(), []byte(`{"suffix":".test"}`)); err != nil {
		t.Fatal(err)
	}
	if got := <-tables; got.Revision != 3 || got.Routes[0].Host != "a.test" {
		t.Errorf("table for another configuration: %+v", got)
	}
}

func TestRotatorFuncWritesABatchOnceAndSurvivesAPanic(t *testing.T) {
	var written []string
	panics := 1
	conn := dial(t, RotatorFunc(func(_ context.Context, c suffix, b Batch) error {
		if panics > 0 {
			panics--
			panic("boom")
		}
		written = append(written, string(b.Lines[0].Text)+c.Suffix)
		return nil
	}))
	rotator, now := NewRotator(conn), time.Now()
	first := Batch{Seq: 1, Stream: "a", Lines: []Line{{now, Stdout, []byte("one")}}}
	if err := rotator.Write(t.Context(), first); err == nil || !strings.Contains(err.Error(), "panic: boom") {
		t.Errorf("panicking call: %v", err)
	}
	for _, b := range []Batch{first, first, {Seq: 1, Stream: "a", Lines: []Line{{now.Add(1), Stdout, []byte("two")}}}} {
		if err := rotator.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"one.local", "two.local"}; !slices.Equal(written, want) {
		t.Errorf("written %q, want %q", written, want)
	}
}

// buildRig builds one page with a function, as a plugin.
func buildRig(t *testing.T, build func(ctx context.Context, c suffix, job Job, event func(Event)) (Result, error)) (Job, func() (Result, []string, error)) {
	job := Job{Page: "a", Dir: t.TempDir(), OutDir: t.TempDir()}
	job.Source = job.Dir
	if err := os.WriteFile(filepath.Join(job.Dir, "page.txt"), []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, BuilderFunc(build))
	return job, func() (Result, []string, error) {
		var events []string
		r, err := NewBuilder(conn).Build(t.Context(), job, func(e Event) {
			line := e.Log
			if e.Diagnostic != nil {
				line = "! " + e.Diagnostic.Message
			}
			events = append(events, line)
		})
		return r, events, err
	}
}

func TestBuilderFuncNamesAndKeepsReleases(t *testing.T) {
	builds := 0
	job, build := buildRig(t, func(ctx context.Context, c suffix, job Job, event func(Event)) (Result, error) {
		builds++
		cmd := exec.Command("cp", filepath.Join(job.Source, "page.txt"), filepath.Join(job.OutDir, "page"))
		return Result{Artifact: "page", Argv: []string{"run", c.Suffix}}, Run(ctx, cmd, event)
	})
	first, _, err := build()
	text, _ := os.ReadFile(first.Artifact)
	if err != nil || !first.OK || first.Cached || string(text) != "one" || first.Argv[1] != ".local" || filepath.Dir(first.Artifact) != filepath.Join(job.OutDir, first.Release) {
		t.Fatalf("first: %+v, %v", first, err)
	}
	if info, err := os.Stat(first.Artifact); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("artifact: %v, %v", info, err)
	}
	if digest, err := FileDigest(filepath.Join(job.Dir, "page.txt")); err != nil || len(first.Inputs) != 1 || first.Inputs[0].Digest != digest {
		t.Errorf("inputs %+v, %v", first.Inputs, err)
	}
	if again, _, err := build(); err != nil || !again.Cached || again.Release != first.Release || again.SHA256 != first.SHA256 || len(again.Argv) != 2 || builds != 1 {
		t.Errorf("again: %+v, %v, %d builds", again, err, builds)
	}
	if err := os.WriteFile(first.Artifact, []byte("changed"), 0o700); err != nil {
		t.Fatal(err)
	}
	if r, _, err := build(); err != nil || r.Cached || r.SHA256 != first.SHA256 {
		t.Errorf("after the artifact was changed: %+v, %v", r, err)
	}
	if err := os.WriteFile(filepath.Join(job.Dir, "page.txt"), []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, _, err := build(); err != nil || r.Cached || r.Release == first.Release {
		t.Errorf("of another source: %+v, %v", r, err)
	}
}

func TestBuilderFuncNamesAFileThatCannotBeNamed(t *testing.T) {
	job, build := buildRig(t, func(context.Context, suffix, Job, func(Event)) (Result, error) {
		return Result{Artifact: "page.txt"}, nil
	})
	if err := os.WriteFile(filepath.Join(job.Dir, "caf\xe9"), nil, 0o644); err != nil {
		t.Skip("the file system takes UTF-8 only: ", err)
	}
	if _, _, err := build(); err == nil || !strings.Contains(err.Error(), `caf\xe9" is not UTF-8: rename it`) {
		t.Errorf("got %v", err)
	}
}

func TestBuilderFuncShowsAnErrorAndSurvivesAPanic(t *testing.T) {
	builds := 0
	_, build := buildRig(t, func(ctx context.Context, _ suffix, job Job, event func(Event)) (Result, error) {
		builds++
		if builds == 2 {
			panic("boom")
		}
		return Result{Artifact: "none"}, Run(ctx, exec.Command("sh", "-c", "echo page.txt:1: wrong >&2; exit 1"), event)
	})
	for range 2 {
		r, events, err := build()
		if err != nil {
			if builds != 2 || !strings.Contains(err.Error(), "boom") {
				t.Errorf("build %d: %v", builds, err)
			}
			continue
		}
		if want := []string{"page.txt:1: wrong", "! sh: exit status 1: page.txt:1: wrong"}; r.OK || len(r.Inputs) != 1 || !slices.Equal(events, want) {
			t.Errorf("failed build: %+v, events %q", r, events)
		}
	}
	if r, _, err := build(); err != nil || r.OK || builds != 3 {
		t.Errorf("after a panic: %+v, %v", r, err)
	}
}

func TestRunEndsEverythingThatTheCommandStarted(t *testing.T) {
	for _, name := range []string{"cancelled", "left behind"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			script := "sleep 100 & echo $!"
			if name == "cancelled" {
				script += "; wait"
			}
			child := 0
			err := Run(ctx, exec.Command("sh", "-c", script), func(e Event) {
				child, _ = strconv.Atoi(e.Log)
				if name == "cancelled" {
					cancel()
				}
			})
			if cancelled := errors.Is(err, context.Canceled); cancelled != (name == "cancelled") || !cancelled && err != nil {
				t.Errorf("error %v", err)
			}
			if child == 0 || runs(child) {
				t.Errorf("process %d still runs", child)
			}
		})
	}
}

func TestRunLeavesTheStandardOutputToWhoAsksForIt(t *testing.T) {
	var out strings.Builder
	var lines []string
	cmd := exec.Command("sh", "-c", "echo one; echo; echo two >&2; exit 3")
	cmd.Stdout = &out
	err := Run(t.Context(), cmd, func(e Event) { lines = append(lines, e.Log) })
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || err.Error() != "sh: exit status 3: two" {
		t.Errorf("error %v", err)
	}
	if out.String() != "one\n\n" || !slices.Equal(lines, []string{"two"}) {
		t.Errorf("standard output %q, events %q", out.String(), lines)
	}
}

func TestRunStartsNothingWhenItIsTooLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cmd := exec.Command("true")
	if err := Run(ctx, cmd, func(Event) {}); !errors.Is(err, context.Canceled) || cmd.Process != nil {
		t.Errorf("error %v, process %v", err, cmd.Process)
	}
}

// runs tells whether a process runs; one that ended and was not collected does not.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil
	}
	return !strings.Contains(string(stat), ") Z ")
}
