//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/kernel/process"
)

// command is a process to start. What it prints goes to the file output, or nowhere.
type command struct {
	argv   []string
	env    []string // besides this process's own
	dir    string
	output string
	stdin  *os.File
	stdout *os.File
}

// child is a running process, which leads a group of its own and does not outlive this one.
type child struct {
	cmd    *exec.Cmd
	output string
	exited chan struct{}
}

func startChild(ctx context.Context, c command) (*child, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	cmd.Stderr = os.Stderr
	if c.stdin != nil {
		cmd.Stdin = c.stdin
	}
	if c.output != "" {
		f, err := os.OpenFile(c.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	if c.stdout != nil {
		cmd.Stdout = c.stdout
	}
	if err := process.Start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(c.argv[0]), err)
	}
	p := &child{cmd, c.output, make(chan struct{})}
	go func() {
		_ = process.Wait(cmd, func() {}) // how it ended is seen by what it did
		close(p.exited)
	}()
	return p, nil
}

func (p *child) pid() int { return p.cmd.Process.Pid }

// tail is the end of what the process printed.
func (p *child) tail() string { return tailOf(p.output, 2000) }

func tailOf(path string, n int) string {
	text, _ := os.ReadFile(path)
	return string(text[max(0, len(text)-n):])
}

// stop ends the process and its group: SIGTERM, and SIGKILL after a time. It returns when the process has ended.
func (p *child) stop(after time.Duration) {
	_ = process.KillGroup(p.pid(), syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(after):
	}
	_ = process.KillGroup(p.pid(), syscall.SIGKILL)
	<-p.exited
}

// await asks every 20 ms until check gives nil, the process has ended, or the time is over.
func (p *child) await(ctx context.Context, what string, limit time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("await %s: the process has ended:\n%s", what, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("await %s: %w (%w)\n%s", what, err, context.Cause(ctx), p.tail())
		case <-tick.C:
		}
	}
}

// run runs a command to its end and gives what it printed.
func run(ctx context.Context, limit time.Duration, c command) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return process.KillGroup(cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", filepath.Base(c.argv[0]), err, out)
	}
	return string(out), nil
}
