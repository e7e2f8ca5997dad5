// Command tqserver serves a tree of Go programs as pages: save one, and it is live.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

// execute runs a command line and gives its exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(oldFlags(args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.Execute(); err != nil {
		printError(stderr, err)
		return 1
	}
	return 0
}

// app is what all commands share.
type app struct {
	dir, config string
	quiet, json bool
	dev         bool // tqserver dev
}

func newRoot() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:   "tqserver",
		Short: "Serve a tree of Go programs as pages: save one, and it is live",
		Long: `tqserver compiles each page below pages/ to a native binary, runs it as its own process,
routes requests by the page's place in the file system, and replaces it on save without
a failed request. Without a subcommand it runs the server.`,
		Example:       "  tqserver                     # serve pages/ on http://localhost:8080\n  tqserver --config site.yaml  # with another configuration\n  tqserver new mysite          # make a site to start from",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return a.run(cmd) },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := os.Chdir(a.dir); err != nil {
				return fmt.Errorf("enter the site: %w", err)
			}
			return nil
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.dir, "dir", "C", ".", "the site's `directory`: relative paths start there")
	f.StringVar(&a.config, "config", config.DefaultPath, "path of the configuration `file`")
	root.Flags().BoolVar(&a.quiet, "quiet", false, "nothing on the console; log files are written all the same")
	root.AddCommand(newRun(a), newStatus(a), newReload(a), newRoutes(a), newReleases(a), newRollback(a), newLogs(a), newMetrics(a), newStop(a), newBuild(a), newConfig(a),
		newNew(a), newDev(a), newPlugin(a), newVersion(a))
	explain(root)
	return root
}

// asJSON gives a command that prints a table the flag for machines.
func (a *app) asJSON(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return cmd
}

// load reads the configuration that the flags name.
func (a *app) load() (*config.Config, error) {
	if a.dev {
		return forDeveloper(config.Open(a.config))
	}
	return config.Open(a.config)
}

// running finds the server of the site. A configuration that is broken by now does not hide one that was started
// with the default state directory.
func (a *app) running() (*control.Client, error) {
	c, err := a.load()
	if err == nil {
		return control.Find(c.Server.StateDir)
	}
	if client, findErr := control.Find(config.Default().Server.StateDir); findErr == nil {
		return client, nil
	}
	return nil, err
}

// oldFlags lets -config and -quiet be written with one dash.
func oldFlags(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		if name == "-config" || name == "-quiet" {
			arg = "-" + arg
		}
		out[i] = arg
	}
	return out
}

// printError tells what is wrong, and where it is known what to do.
func printError(w io.Writer, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			printError(w, e)
		}
		return
	}
	var many config.Errors
	var one *config.Error
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(w, "tqserver: error: "+usage.Error())
		fmt.Fprintln(w, "tqserver: hint: "+usage.hint)
	case errors.As(err, &many):
		for _, e := range many {
			printConfigError(w, e)
		}
	case errors.As(err, &one):
		printConfigError(w, one)
	case errors.Is(err, control.ErrNotRunning):
		fmt.Fprintln(w, "tqserver: error: no server runs for this site")
		fmt.Fprintln(w, "tqserver: hint: start it with `tqserver`, or name the site with `-C DIR`")
	default:
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if hint, ok := strings.CutPrefix(line, "hint: "); ok {
				fmt.Fprintln(w, "tqserver: hint: "+hint)
				continue
			}
			fmt.Fprintln(w, "tqserver: error: "+line)
		}
	}
}

func printConfigError(w io.Writer, e *config.Error) {
	bare := *e
	bare.Hint = ""
	fmt.Fprintln(w, "tqserver: error: "+bare.Error())
	if e.Hint != "" {
		fmt.Fprintln(w, "tqserver: hint: "+e.Hint)
	}
}
