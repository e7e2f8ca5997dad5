package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel/control"
)

func newRollback(a *app) *cobra.Command {
	return a.asJSON(&cobra.Command{
		Use:   "rollback PAGE [RELEASE]",
		Short: "Make an earlier release of a page live",
		Long: `Rollback makes a release of a page live that was built before: the one that served before the
live one, or RELEASE, which is the beginning of a name that ` + "`tqserver releases PAGE`" + ` shows. PAGE is the
name of a page or its route. It returns when the release is live, or says why it is not: then
nothing has changed. The page stays on that release, also when the server is started again, until
its source makes another one than it makes now. A newer release is gone forward to in the same way.`,
		Example: "  tqserver rollback index       # to the one before; again: there and back\n  tqserver rollback /api 3f9ac2\n  tqserver rollback index --json | jq .took_ms",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			release := ""
			if len(args) == 2 {
				release = args[1]
			}
			told := tellIfSlow(cmd.ErrOrStderr(), "waiting for the release to be ready …")
			done, err := client.Rollback(cmd.Context(), args[0], release)
			told()
			if err != nil {
				return err
			}
			return a.print(cmd, done, func(t *table) { showRolledBack(t, done) })
		},
	})
}

func showRolledBack(t *table, r control.RolledBack) {
	how := "started"
	if r.Warm {
		how = "its worker was ready"
	}
	t.row(fmt.Sprintf("%s: release %s is live after %.1f ms (%s)", r.Route, shortID(r.Release), r.TookMS, how))
	if r.Pinned != nil {
		t.row(pinNote(r.Page, *r.Pinned))
	}
}
