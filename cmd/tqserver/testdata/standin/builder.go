package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tqserver/tqserver/sdk"
)

// builder calls go build. Its builds are reproducible: the hash of what comes out stands for all that went in.
type builder struct{}

func (*builder) Build(ctx context.Context, job sdk.Job, event func(sdk.Event)) (sdk.Result, error) {
	r := sdk.Result{Globs: []string{sdk.QuoteMatch(job.Source) + "/*"}}
	event(sdk.Event{Step: "compile"})
	var err error
	if r.Inputs, err = inputs(ctx, job.Source); err != nil {
		return r, err
	}
	temp, err := os.MkdirTemp(job.OutDir, ".standin-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(temp)
	binary := filepath.Join(temp, "page")
	build := command(ctx, job.Source, "build", "-trimpath", "-buildvcs=false", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOTMPDIR="+temp, "TMPDIR="+temp)
	out, err := build.CombinedOutput()
	var failed *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case errors.As(err, &failed):
		event(sdk.Event{Diagnostic: &sdk.Diagnostic{Message: string(out), File: job.Source}})
		return r, nil
	case err != nil:
		return r, err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return r, err
	}
	sum := sha256.Sum256(content)
	r.OK, r.SHA256 = true, hex.EncodeToString(sum[:])
	r.Release = r.SHA256
	r.Artifact = filepath.Join(job.OutDir, r.Release, "page")
	if err := os.MkdirAll(filepath.Dir(r.Artifact), 0o700); err != nil {
		return r, err
	}
	if _, err := os.Stat(r.Artifact); err == nil { // it may run
		r.Cached = true
		return r, nil
	}
	return r, os.Rename(binary, r.Artifact)
}

// inputs lists the files of the page and of what it imports.
func inputs(ctx context.Context, dir string) (all []sdk.Input, err error) {
	const files = `{{if not .Standard}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{end}}`
	out, err := command(ctx, dir, "list", "-e", "-deps", "-f", files, ".").Output()
	if err != nil {
		return nil, err
	}
	for file := range strings.FieldsSeq(string(out)) {
		if digest, err := sdk.FileDigest(file); err == nil { // else it is gone by now, which the watcher tells
			all = append(all, sdk.Input{Path: file, Digest: digest})
		}
	}
	return all, nil
}

// command is the go command; with ctx it ends together with the compilers that it started.
func command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}
