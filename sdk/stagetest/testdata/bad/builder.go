package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// builder makes a script of any source that begins like Go.
type builder struct{ running atomic.Int32 }

const good, exits = "#!/bin/sh\nprintf 1 >&3\nexec sleep 600\n", "#!/bin/sh\nexit 1\n"

func (b *builder) Build(ctx context.Context, job sdk.Job, event func(sdk.Event)) (sdk.Result, error) {
	defer b.running.Add(-1)
	if b.running.Add(1) > 1 && bad("builder/parallel") {
		return sdk.Result{}, errors.New("one build at a time")
	}
	file := filepath.Join(job.Source, "main.go")
	source, err := os.ReadFile(file)
	if err != nil {
		return sdk.Result{}, err
	}
	if err := compile(ctx); err != nil {
		return sdk.Result{}, err
	}
	digest, err := sdk.FileDigest(file)
	if err != nil {
		return sdk.Result{}, err
	}
	if bad("builder/inputs") {
		digest = strings.Repeat("0", 64)
	}
	result := sdk.Result{Inputs: []sdk.Input{{Path: file, Digest: digest}}}
	if !strings.HasPrefix(string(source), "package ") {
		return b.fault(result, event)
	}
	if bad("builder/untouched") {
		os.WriteFile(filepath.Join(job.Dir, "main.o"), nil, 0o600)
	}
	return b.release(job, source, result)
}

// compile runs a tool that takes a moment.
func compile(ctx context.Context) error {
	cmd := exec.Command("sleep", "0.2")
	if bad("builder/cancel") {
		cmd = exec.Command("sleep", "600")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		if !bad("builder/cancel") {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		return ctx.Err()
	}
}

func (b *builder) fault(r sdk.Result, event func(sdk.Event)) (sdk.Result, error) {
	switch mode {
	case "builder/fault":
		return r, errors.New("syntax error")
	case "builder/fault:silent":
		return r, nil
	case "builder/inputs:fault":
		r.Inputs = nil
	}
	event(sdk.Event{Diagnostic: &sdk.Diagnostic{Message: "syntax error"}})
	return r, nil
}

func (b *builder) release(job sdk.Job, source []byte, r sdk.Result) (sdk.Result, error) {
	sum := sha256.Sum256(append([]byte(job.Page), source...))
	r.OK, r.Release = true, hex.EncodeToString(sum[:16])
	script, perm, dir := good, os.FileMode(0o700), filepath.Join(job.OutDir, r.Release)
	switch mode {
	case "builder/again":
		r.Release = fmt.Sprintf("%032x", time.Now().UnixNano())
		dir = filepath.Join(job.OutDir, r.Release)
	case "builder/edited":
		r.Release = strings.Repeat("0", 32)
		dir = filepath.Join(job.OutDir, r.Release)
	case "builder/edited:removed":
		os.RemoveAll(job.OutDir)
	case "builder/runs":
		script = exits
	case "builder/result:mode":
		perm = 0o600
	case "builder/result:place":
		dir = job.OutDir
	case "builder/result:release":
		r.Release = "latest"
		dir = filepath.Join(job.OutDir, r.Release)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	r.Artifact = filepath.Join(dir, "page")
	if err := os.WriteFile(r.Artifact, []byte(script), perm); err != nil {
		return r, err
	}
	sum = sha256.Sum256([]byte(script))
	if bad("builder/result") {
		sum[0]++
	}
	r.SHA256 = hex.EncodeToString(sum[:])
	return r, nil
}
