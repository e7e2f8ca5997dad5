package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel"
)

func newConfig(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	cmd.AddCommand(
		&cobra.Command{
			Use:     "check",
			Short:   "Check the configuration, plugins included, without serving",
			Example: "  tqserver config check --config site.yaml",
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := a.load()
				if err != nil {
					return err
				}
				if err := kernel.Check(cmd.Context(), a.options(c)); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), cmp.Or(c.File, "the default configuration")+": ok")
				return nil
			},
		},
		a.asJSON(&cobra.Command{
			Use:     "keys",
			Short:   "List every key with its default and meaning",
			Example: "  tqserver config keys",
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				keys := config.Keys()
				return a.print(cmd, keys, func(t *table) {
					t.row("KEY", "TYPE", "DEFAULT", "RELOAD", "MEANING")
					for _, k := range keys {
						t.row(k.Name, k.Type, k.Default, map[bool]string{true: "yes", false: "restart"}[k.Reload], firstLine(k.Doc))
					}
				})
			},
		}))
	return cmd
}
