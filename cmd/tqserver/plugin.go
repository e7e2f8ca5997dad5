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
	"resolver": {"fs": resolver.ServeFS, "vhost": resolver.ServeVHost},
	"builder":  {"go": builder.ServeGo, "exec": builder.ServeExec},
	"watcher":  {"fsnotify": watcher.ServeFsnotify, "poll": watcher.ServePoll},
	"checker":  {"http": checker.ServeHTTP, "tcp": checker.ServeTCP},
	"rotator":  {"file": rotator.ServeFile, "stdout": rotator.ServeStdout},
}

// stages is the order in which they work.
var stages = []string{"resolver", "builder", "watcher", "checker", "rotator"}

func builtinNames(stage string) []string { return slices.Sorted(maps.Keys(bundle[stage])) }

// allBuiltins lists them as STAGE/NAME.
func allBuiltins() (all []string) {
	for _, s := range stages {
		for _, n := range builtinNames(s) {
			all = append(all, s+"/"+n)
		}
	}
	return all
}

func newPlugin(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "plugin", Short: "Look at the plugins of the five stages, and make new ones"}
	cmd.AddCommand(newPluginNew(a))
	cmd.AddCommand(newPluginRun())
	cmd.AddCommand(newPluginList(a))
	cmd.AddCommand(newPluginDescribe(a))
	cmd.AddCommand(newPluginLock(a))
	cmd.AddCommand(newPluginVerify(a))
	cmd.AddCommand(newPluginLogs(a))
	cmd.AddCommand(newPluginReload(a))
	cmd.AddCommand(newPluginTest(a))
	return cmd
}

func newPluginRun() *cobra.Command {
	run := &cobra.Command{
		Use:     "run STAGE/NAME",
		Short:   "Be a plugin of this binary: the server starts it so",
		Example: "  tqserver plugin run resolver/fs",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return runPlugin(args[0]) },
	}
	run.Flags().Bool("debug", false, "serve for a debugger, and print what `tqserver dev` needs to attach to it")
	run.Flags().Bool("describe", false, "print what the plugin is, as JSON, and exit") // sdk.Serve looks for it
	return run
}

func runPlugin(name string) error {
	stage, plugin, _ := strings.Cut(name, "/")
	serve, ok := bundle[stage][plugin]
	if !ok {
		return fmt.Errorf("no plugin %q in this binary: there are %s", name, strings.Join(allBuiltins(), ", "))
	}
	serve()
	return nil
}

func newPluginList(a *app) *cobra.Command {
	var all bool
	cmd := a.asJSON(&cobra.Command{
		Use:     "list",
		Short:   "List which plugin each stage uses, and its state when the server runs",
		Example: "  tqserver plugin list --json\n  tqserver plugin list --all  # what is built in as well",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.listPlugins(cmd, all) },
	})
	cmd.Flags().BoolVar(&all, "all", false, "also what is built in and not in use")
	return cmd
}

// pluginRow is a line of `plugin list`.
type pluginRow struct {
	Stage    string `json:"stage"`
	Plugin   string `json:"plugin"`
	Version  string `json:"version,omitempty"`
	State    string `json:"state"`
	Restarts int    `json:"restarts"`
	Error    string `json:"error,omitempty"`
	Note     string `json:"note,omitempty"` // of its last replacement
	InUse    bool   `json:"in_use"`
}

func (a *app) listPlugins(cmd *cobra.Command, all bool) error {
	rows, err := a.pluginRows(cmd)
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i].InUse = true
	}
	if all {
		rows = withUnused(rows)
	}
	return a.print(cmd, rows, func(t *table) {
		t.row("STAGE", "PLUGIN", "VERSION", "STATE", "RESTARTS", "NOTE")
		for _, r := range rows {
			if !r.InUse {
				t.row(r.Stage, r.Plugin, "-", r.State, "-", "")
				continue
			}
			name := r.Plugin
			if all {
				name += " (in use)"
			}
			t.row(r.Stage, name, cmp.Or(r.Version, "-"), r.State, r.Restarts, firstLine(cmp.Or(r.Error, r.Note)))
		}
	})
}

// withUnused adds what is built in to the plugins in use, stage by stage.
func withUnused(used []pluginRow) (rows []pluginRow) {
	for _, stage := range stages {
		names := builtinNames(stage)
		for _, r := range used {
			if r.Stage == stage {
				rows = append(rows, r)
				names = slices.DeleteFunc(names, func(n string) bool { return r.Plugin == "builtin:"+n })
			}
		}
		for _, n := range names {
			rows = append(rows, pluginRow{Stage: stage, Plugin: "builtin:" + n, State: "not in use"})
		}
	}
	return rows
}

// pluginRows asks the running server, and without one the configuration.
func (a *app) pluginRows(cmd *cobra.Command) (rows []pluginRow, err error) {
	if client, err := a.running(); err == nil {
		if s, err := client.Status(cmd.Context()); err == nil {
			for _, p := range s.Stages {
				if p.State == "running" {
					p.Error = "" // of an earlier instance
				}
				rows = append(rows, pluginRow{Stage: p.Stage, Plugin: p.Plugin, Version: p.Version, State: p.State, Restarts: p.Restarts,
					Error: p.Error, Note: replacementNote(p)})
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
