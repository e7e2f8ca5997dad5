package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel"
)

func newPluginLock(a *app) *cobra.Command {
	var check bool
	cmd := a.asJSON(&cobra.Command{
		Use:   "lock",
		Short: "Pin the files of the custom plugins: no others are executed",
		Long: `Lock writes plugins.lock beside the configuration file: name, version and hash of each custom
plugin that the configuration names. From then on tqserver executes no custom plugin whose file
differs. Hashes for other platforms stay as long as name and version do. Every plugin is asked
what it is (--describe), so run it only when you trust the files.`,
		Example: "  tqserver plugin lock\n  tqserver plugin lock --check  # change nothing, exit 1 if there is something to change",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.lockPlugins(cmd, check) },
	})
	cmd.Flags().BoolVar(&check, "check", false, "change nothing; exit 1 if the lock file is not up to date")
	return cmd
}

func (a *app) lockPlugins(cmd *cobra.Command, check bool) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	path, rows, err := kernel.LockPlugins(cmd.Context(), a.options(c), check)
	if err != nil {
		return err
	}
	changed := slices.ContainsFunc(rows, func(l kernel.Locked) bool { return len(l.Changes) > 0 })
	err = a.print(cmd, append([]kernel.Locked{}, rows...), func(t *table) {
		if len(rows) > 0 {
			t.row("PLUGIN", "NAME", "VERSION", "SHA256", "CHANGE")
		}
		for _, l := range rows {
			t.row(l.Use, dash(l.Name), dash(l.Version), dash(l.SHA256[:min(12, len(l.SHA256))]), cmp.Or(strings.Join(l.Changes, "; "), "none"))
		}
		switch {
		case changed && !check:
			t.row("wrote " + path)
		case len(rows) == 0:
			t.row("the configuration names no custom plugin: there is nothing to lock")
		}
	})
	if err == nil && changed && check {
		return &usageError{errors.New(path + " is not up to date"), "run `tqserver plugin lock` after checking that you trust the files"}
	}
	return err
}

func newPluginVerify(a *app) *cobra.Command {
	return a.asJSON(&cobra.Command{
		Use:   "verify",
		Short: "Check the plugins of the configuration: file, permissions, hash, stage, protocol",
		Long: `Verify checks each plugin that the configuration names, without starting it: the file and its
permissions, its hash against plugins.lock or sha256, and, by --describe, that it is for the stage
and the protocol of this tqserver. It exits 1 if anything is wrong. A server may run meanwhile.`,
		Example: "  tqserver plugin verify",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.verifyPlugins(cmd) },
	})
}

func (a *app) verifyPlugins(cmd *cobra.Command) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	all, err := kernel.VerifyPlugins(cmd.Context(), a.options(c))
	if err != nil {
		return err
	}
	wrong := 0
	for _, v := range all {
		wrong += min(1, len(v.Problems))
	}
	err = a.print(cmd, all, func(t *table) {
		t.row("STAGE", "PLUGIN", "NAME", "VERSION", "RESULT")
		for _, v := range all {
			t.row(v.Stage, v.Plugin, dash(v.Name), dash(v.Version), verdict(v))
		}
	})
	if err == nil && wrong > 0 {
		return fmt.Errorf("%d of %d plugins are not fit to run", wrong, len(all))
	}
	return err
}

func verdict(v kernel.Verified) string {
	switch {
	case len(v.Problems) > 0:
		return strings.ReplaceAll(strings.Join(v.Problems, "; "), "\n", " ")
	case v.BuiltIn:
		return "built in"
	case !v.Pinned:
		return "OK, but nothing pins the file: run `tqserver plugin lock`"
	}
	return "OK"
}

func dash(s string) string { return cmp.Or(s, "-") }
