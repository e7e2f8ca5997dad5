package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel/control"
)

func newPluginReload(a *app) *cobra.Command {
	var force bool
	cmd := a.asJSON(&cobra.Command{
		Use:   "reload [STAGE...]",
		Short: "Start plugins anew and let them take over, without a gap",
		Long: `Reload finds the plugins of the named stages again, all when none is named, and puts a new
instance of each in the place of the one that runs, also when nothing has changed. The old one
serves until the new one has shown that it works; one that fails does not stop the others.`,
		Example:   "  tqserver plugin reload                   # all of them\n  tqserver plugin reload resolver --force  # also when most routes are gone",
		ValidArgs: stages,
		Args:      cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if !slices.Contains(stages, name) {
					return fmt.Errorf("no stage %q: there are %s", name, strings.Join(stages, ", "))
				}
			}
			return a.reloadPlugins(cmd, args, force)
		},
	})
	cmd.Flags().BoolVar(&force, "force", false, "take a table that has lost most routes, and a plugin that has failed on probation")
	return cmd
}

func (a *app) reloadPlugins(cmd *cobra.Command, names []string, force bool) error {
	client, err := a.running()
	if err != nil {
		return err
	}
	told := tellIfSlow(cmd.ErrOrStderr(), "waiting for the new plugins to take over …")
	outcomes, err := client.ReloadPlugins(cmd.Context(), names, force)
	told()
	if err != nil {
		return err
	}
	if err := a.print(cmd, outcomes, func(t *table) { showOutcomes(t, outcomes) }); err != nil {
		return err
	}
	return failedOutcomes(outcomes)
}

// tellIfSlow prints a line after two seconds, unless the function that it gives is called before.
func tellIfSlow(w io.Writer, line string) (done func()) {
	printed := make(chan struct{})
	t := time.AfterFunc(2*time.Second, func() { defer close(printed); fmt.Fprintln(w, line) })
	return func() {
		if !t.Stop() {
			<-printed
		}
	}
}

func showOutcomes(t *table, outcomes []control.PluginOutcome) {
	t.row("STAGE", "PLUGIN", "OUTCOME")
	for _, o := range outcomes {
		outcome := "replaced"
		if o.Error != "" {
			outcome = "FAILED, see below"
		}
		t.row(o.Stage, o.Plugin, outcome)
	}
}

// failedOutcomes is an error when something was not replaced.
func failedOutcomes(outcomes []control.PluginOutcome) error {
	var lines []string
	for _, o := range outcomes {
		switch {
		case o.Error == "":
		case strings.Contains(o.Error, o.Stage):
			lines = append(lines, o.Error)
		default:
			lines = append(lines, o.Stage+": "+o.Error)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("%s\nwhat ran before stays", strings.Join(lines, "\n"))
}
