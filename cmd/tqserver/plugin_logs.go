package main

import (
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel"
	"github.com/tqserver/tqserver/kernel/control"
)

func newPluginLogs(a *app) *cobra.Command {
	var follow bool
	var lines int
	cmd := a.asJSON(&cobra.Command{
		Use:     "logs [STAGE]",
		Short:   "Show the last log lines of the plugins, or of the plugin of one stage",
		Long:    "Logs shows what the plugins of the running server log, and what the server logs about them.",
		Example: "  tqserver plugin logs\n  tqserver plugin logs builder -n 100 -f",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stage := strings.Join(args, "")
			if stage != "" && !slices.Contains(stages, stage) {
				return unknownStage(stage)
			}
			client, err := a.running()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return client.Logs(ctx, kernel.PluginStream+stage, lines, follow, func(l control.LogLine) { a.showLog(cmd.OutOrStdout(), l, false) })
		},
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until interrupted")
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how many of the last lines, at most 1000")
	return cmd
}

func unknownStage(name string) error {
	hint := "the stages are " + strings.Join(stages, ", ")
	if near := config.Nearest(name, stages); near != "" {
		hint = fmt.Sprintf("did you mean %s? %s", near, hint)
	}
	return &usageError{fmt.Errorf("there is no stage %q", name), hint}
}
