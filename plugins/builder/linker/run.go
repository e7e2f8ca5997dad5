package linker

import (
	"bytes"
	"context"
	"os/exec"
	"runtime"

	"github.com/tqserver/tqserver/sdk"
)

// runStock links with the stock linker.
func runStock(ctx context.Context, s Spec, main, out string) ([]byte, error) {
	return run(ctx, stock(s, main, out))
}

func stock(s Spec, main, out string) *exec.Cmd {
	cmd := exec.Command(s.Tool, linkArgs(s, "", out, main)...)
	cmd.Dir, cmd.Env = s.Dir, append(without(s.Env, "GOGC"), "GOGC=off")
	return cmd
}

// linkArgs are the arguments of a linker, stock or built here; first is one more.
func linkArgs(s Spec, first, out, main string) []string {
	args := []string{"-o", out, "-importcfg", s.ImportCfg}
	if first != "" {
		args = append([]string{first}, args...)
	}
	return append(append(args, s.Flags...), main)
}

// run runs a command to its end and gives what it printed, but for empty lines. What it started is gone, too, then.
func run(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var printed bytes.Buffer
	err := sdk.Run(ctx, cmd, func(e sdk.Event) { printed.WriteString(e.Log + "\n") })
	return printed.Bytes(), err
}

// runLow is run for a command that may wait for others.
func runLow(ctx context.Context, cmd *exec.Cmd) (printed []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, as its priority cannot be raised again
		lowerThread()
		printed, err = run(ctx, cmd)
	}()
	<-done
	return printed, err
}
