package stagetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const readyLimit = 10 * time.Second // from the start of a worker until it is ready

// runWorker starts a release as the kernel does, waits until it is ready, and ends it.
func (t *trial) runWorker(ctx context.Context, job sdk.Job, r sdk.Result) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	argv := r.Argv
	if len(argv) == 0 {
		argv = []string{r.Artifact}
	}
	said, pipe, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	var stderr lines
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stderr, cmd.ExtraFiles, cmd.WaitDelay = t.work, &stderr, []*os.File{pipe}, time.Second
	cmd.Env = workerEnviron(job, r, port)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	pipe.Close()
	if err != nil {
		return fmt.Errorf("start the artifact: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	err = t.awaitReady(ctx, said, port, exited)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, errWorkerExited) {
		return fmt.Errorf("%w; its last lines on stderr: %s", err, strings.Join(stderr.last(3), " / "))
	}
	<-exited
	return err
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func workerEnviron(job sdk.Job, r sdk.Result, port int) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(),
		"TQ_PORT=" + strconv.Itoa(port), "TQ_READY_FD=3", "TQ_PAGE=" + job.Page, "TQ_PAGE_DIR=" + job.Dir,
		"TQ_ROUTE=/" + job.Page, "TQ_RELEASE=" + r.Release}
	for name, value := range r.Env {
		env = append(env, name+"="+value)
	}
	return env
}

var errWorkerExited = errors.New("the worker ended before it was ready")

// awaitReady waits for the byte on the pipe or the answer to GET /health.
func (t *trial) awaitReady(ctx context.Context, said *os.File, port int, exited <-chan error) error {
	ready, gone := make(chan struct{}), make(chan struct{})
	defer func() { said.Close(); <-gone }()
	go func() {
		defer close(gone)
		if n, _ := said.Read(make([]byte, 1)); n == 1 {
			close(ready)
		}
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: callLimit}
	url := fmt.Sprintf("http://127.0.0.1:%d/health", port)
	deadline := time.NewTimer(t.within(readyLimit))
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ready:
			return nil
		case err := <-exited:
			return fmt.Errorf("%w: %v", errWorkerExited, err)
		case <-deadline.C:
			return fmt.Errorf("the worker was not ready within %s", t.within(readyLimit))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if resp, err := client.Get(url); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return nil
				}
			}
		}
	}
}
