package main

import (
	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/sdk"
)

func newDev(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the server for a developer: the browser reloads after a save, and shows errors",
		Long: `Dev runs the server as ` + "`run`" + ` does, for whoever writes the pages. A page that is open in a browser is
loaded again when a save of it is live, with what was typed and the place that was read kept; a stylesheet is
exchanged in place. What does not compile or start, and panics, show over the page, with the source around
them, until they are mended. Opening a page waits for a build of it that is under way. What goes to scripts
is left as it is.

Because it shows source code, dev listens on 127.0.0.1 unless server.host says otherwise.

It also attaches to the plugins that ` + sdk.AttachEnv + ` tells of, instead of starting them: set it to what a plugin
prints with --debug. Such a plugin is not checked, may be held by a debugger, and runs on when the server ends.`,
		Example: "  tqserver dev                         # then open http://127.0.0.1:8080 and edit a page\n" +
			"  TQSERVER_EDITOR=goland tqserver dev  # places in the source open there\n" +
			"  " + sdk.AttachEnv + "='{…}' tqserver dev   # with what `dlv debug . -- --debug` printed in the directory of a plugin",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.dev = true
			return a.run(cmd)
		},
	}
	cmd.Flags().BoolVar(&a.quiet, "quiet", false, "nothing on the console; log files are written all the same")
	return cmd
}

// forDeveloper changes the defaults of a configuration that has just been read.
func forDeveloper(c *config.Config, err error) (*config.Config, error) {
	if err == nil && c.Server.Host == "" {
		c.Server.Host = "127.0.0.1"
	}
	return c, err
}
