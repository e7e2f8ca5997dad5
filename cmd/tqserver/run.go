package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel"
)

func newRun(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run",
		Short:   "Run the server (the same as no subcommand)",
		Example: "  tqserver run --quiet",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.run(cmd) },
	}
	cmd.Flags().BoolVar(&a.quiet, "quiet", false, "nothing on the console; log files are written all the same")
	return cmd
}

// run serves until a signal. SIGINT and SIGTERM end it in order, a second one hurries, SIGHUP reloads.
func (a *app) run(cmd *cobra.Command) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	o := a.options(c)
	if !a.quiet {
		o.Console, o.Color = console(cmd.ErrOrStderr())
	}
	k, err := kernel.New(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hurry := make(chan struct{})
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	ended := make(chan struct{})
	defer close(ended)
	go follow(k, signals, cancel, hurry, ended)
	return k.Run(ctx, hurry)
}

func follow(k *kernel.Kernel, signals <-chan os.Signal, stop func(), hurry, ended chan struct{}) {
	stopping := 0
	for {
		select {
		case <-ended:
			return
		case s := <-signals:
			if s == syscall.SIGHUP {
				go func() { _ = k.Reload(context.Background()) }() // logged, and shown by status
				continue
			}
			if stopping++; stopping == 2 {
				close(hurry)
			}
			stop()
		}
	}
}

// options is what every command that makes a kernel gives it.
func (a *app) options(c *config.Config) kernel.Options {
	return kernel.Options{
		Root: ".", Config: c, Version: version(), Builtins: builtinNames, Environ: os.Environ(),
		Load: a.load, Dev: a.dev,
	}
}

// console decides how to write for people.
func console(w io.Writer) (io.Writer, bool) {
	f, ok := w.(*os.File)
	return w, ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
