package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel"
	"github.com/tqserver/tqserver/kernel/control"
)

func newReload(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "reload",
		Short:   "Apply the configuration and changed pages to the running server",
		Long:    "Reload applies the configuration, all or nothing, looks for changed pages also when the watcher is down,\nand starts plugins again that were given up. SIGHUP does the same.",
		Example: "  tqserver reload",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			if err := client.Reload(cmd.Context()); err != nil {
				return fmt.Errorf("%w\nthe running configuration stays", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "reloaded")
			return nil
		},
	}
}

func newStop(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "stop",
		Short:   "End the running server: requests in flight finish first",
		Example: "  tqserver stop",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			if err := client.Stop(cmd.Context()); err != nil {
				return err
			}
			return awaitEnd(cmd.Context(), client.PID, kernel.Lock(client.StateDir), cmd.ErrOrStderr())
		},
	}
}

// awaitEnd waits until the server has given its lock back, and tells why it takes long. A process that has ended may
// be seen for longer than that, when its parent is slow to ask for it.
func awaitEnd(ctx context.Context, pid int, lock string, w io.Writer) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for start, told := time.Now(), false; ; {
		f, err := os.Open(lock)
		if err != nil {
			return fmt.Errorf("wait for the end of the server: %w", err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		if _ = f.Close(); err == nil {
			return nil
		}
		if !told && time.Since(start) > 2*time.Second {
			told = true
			fmt.Fprintf(w, "waiting for requests in flight (a second SIGTERM to pid %d hurries) …\n", pid)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func newLogs(a *app) *cobra.Command {
	var follow bool
	var lines int
	cmd := a.asJSON(&cobra.Command{
		Use:     "logs [PAGE]",
		Short:   "Show the last log lines of the server and its pages, or of one page",
		Example: "  tqserver logs api -f        # what the page api prints, live\n  tqserver logs server -n 50  # the server's own log",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			stream := strings.Join(args, "")
			if err := a.knownStream(cmd, client, stream); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return client.Logs(ctx, stream, lines, follow, func(l control.LogLine) { a.showLog(cmd.OutOrStdout(), l, stream == "") })
		},
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until interrupted")
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how many of the last lines, at most 1000")
	return cmd
}

// knownStream tells a mistyped page from one that has printed nothing.
func (a *app) knownStream(cmd *cobra.Command, client *control.Client, stream string) error {
	if stream == "" || stream == "server" {
		return nil
	}
	s, err := client.Status(cmd.Context())
	if err != nil {
		return err
	}
	names := []string{"server"}
	for _, p := range s.Pages {
		if p.Name == stream {
			return nil
		}
		names = append(names, p.Name)
	}
	return fmt.Errorf("no page %q: there are %s", stream, strings.Join(names, ", "))
}

func (a *app) showLog(w io.Writer, l control.LogLine, named bool) {
	switch {
	case a.json:
		printJSONLine(w, l)
	case l.Source == "kernel":
		fmt.Fprintln(w, l.Text)
	case named:
		fmt.Fprintf(w, "%s %s | %s\n", l.Time.Format(time.RFC3339Nano), l.Stream, l.Text)
	default:
		fmt.Fprintf(w, "%s %s %s | %s\n", l.Time.Format(time.RFC3339Nano), l.Worker, l.Source, l.Text)
	}
}
