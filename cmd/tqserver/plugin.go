package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel"
	"github.com/tqserver/tqserver/plugins/builder"
	"github.com/tqserver/tqserver/plugins/checker"
	"github.com/tqserver/tqserver/plugins/resolver"
	"github.com/tqserver/tqserver/plugins/rotator"
	"github.com/tqserver/tqserver/plugins/watcher"
)

// bundle is the plugins in this binary, by stage and name.
var bundle = map[string]map[string]func(){
	"resolver": {"fs": resolver.ServeFS},
	"builder":  {"go": builder.ServeGo},
	"watcher":  {"fsnotify": watcher.ServeFsnotify},
	"checker":  {"http": checker.ServeHTTP},
	"rotator":  {"file": rotator.ServeFile},
}

// stages is the order in which they work.
var stages = []string{"resolver", "builder", "watcher", "checker", "rotator"}

func builtinNames(stage string) []string { return slices.Sorted(maps.Keys(bundle[stage])) }

func newPlugin(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "plugin", Short: "Look at the plugins of the five stages"}
	run := &cobra.Command{
		Use:     "run STAGE/NAME",
		Short:   "Be a plugin of this binary: the server starts it so",
		Example: "  tqserver plugin run resolver/fs",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return runPlugin(args[0]) },
	}
	run.Flags().Bool("describe", false, "print what the plugin is, as JSON, and exit") // sdk.Serve looks for it
	cmd.AddCommand(run,
		a.asJSON(&cobra.Command{
			Use:     "list",
			Short:   "List which plugin each stage uses, and its state when the server runs",
			Example: "  tqserver plugin list --json",
			Args:    cobra.NoArgs,
			RunE:    func(cmd *cobra.Command, _ []string) error { return a.listPlugins(cmd) },
		}))
	return cmd
}

func runPlugin(name string) error {
	stage, plugin, _ := strings.Cut(name, "/")
	serve, ok := bundle[stage][plugin]
	if !ok {
		var all []string
		for _, s := range stages {
			for _, n := range builtinNames(s) {
				all = append(all, s+"/"+n)
			}
		}
		return fmt.Errorf("no plugin %q in this binary: there are %s", name, strings.Join(all, ", "))
	}
	serve()
	return nil
}

// pluginRow is a line of `plugin list`.
type pluginRow struct {
	Stage    string `json:"stage"`
	Plugin   string `json:"plugin"`
	Version  string `json:"version,omitempty"`
	State    string `json:"state"`
	Restarts int    `json:"restarts"`
	Error    string `json:"error,omitempty"`
}

func (a *app) listPlugins(cmd *cobra.Command) error {
	rows, err := a.pluginRows(cmd)
	if err != nil {
		return err
	}
	return a.print(cmd, rows, func(t *table) {
		t.row("STAGE", "PLUGIN", "VERSION", "STATE", "RESTARTS", "ERROR")
		for _, r := range rows {
			t.row(r.Stage, r.Plugin, cmp.Or(r.Version, "-"), r.State, r.Restarts, firstLine(r.Error))
		}
	})
}

// pluginRows asks the running server, and without one the configuration.
func (a *app) pluginRows(cmd *cobra.Command) (rows []pluginRow, err error) {
	if client, err := a.running(); err == nil {
		if s, err := client.Status(cmd.Context()); err == nil {
			for _, p := range s.Stages {
				if p.State == "running" {
					p.Error = "" // of an earlier instance
				}
				rows = append(rows, pluginRow{p.Stage, p.Plugin, p.Version, p.State, p.Restarts, p.Error})
			}
			return rows, nil
		}
	}
	c, err := a.load()
	if err != nil {
		return nil, err
	}
	specs, err := kernel.Plugins(a.options(c))
	for _, s := range specs {
		rows = append(rows, pluginRow{Stage: s.Stage, Plugin: s.Name, State: "not running"})
	}
	return rows, err
}
