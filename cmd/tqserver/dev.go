package main

import (
	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/sdk"
)

func newDev(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the server for the developer of a plugin",
		Long: "Dev runs the server as `run` does. Besides, it attaches to the plugins that " + sdk.AttachEnv + " tells of,\n" +
			"instead of starting them: set it to what a plugin prints with --debug. Such a plugin is not checked, may\n" +
			"be held by a debugger, and runs on when the server ends.",
		Example: "  dlv debug . -- --debug              # in the directory of the plugin\n  " + sdk.AttachEnv + "='{…}' tqserver dev  # in the site, with what it printed",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.dev = true
			return a.run(cmd)
		},
	}
	cmd.Flags().BoolVar(&a.quiet, "quiet", false, "nothing on the console; log files are written all the same")
	return cmd
}
