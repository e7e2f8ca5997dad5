package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel/control"
)

func newReleases(a *app) *cobra.Command {
	return a.asJSON(&cobra.Command{
		Use:   "releases PAGE",
		Short: "Show the releases of a page that one can go back to",
		Long: `Releases lists what ` + "`tqserver rollback`" + ` can make live: the last good builds of a page, as many as
workers.keep_releases says. PAGE is the name of a page or its route.`,
		Example: "  tqserver releases index\n  tqserver releases /api --json | jq -r '.releases[].id'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			r, err := client.Releases(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(cmd, r, func(t *table) { showReleases(t, r) })
		},
	})
}

func showReleases(t *table, r control.PageReleases) {
	t.row("RELEASE", "BUILT", "REVISION", "BUILD", "SIZE", "STATE")
	for _, one := range r.Releases {
		t.row(shortID(one.ID), ago(one.Built), revisionNote(one), time.Duration(one.BuildMS)*time.Millisecond, fmt.Sprintf("%.1f MB", float64(one.Size)/1e6), releaseState(one))
	}
	_ = t.w.Flush() // what follows is no table
	if r.Pinned != nil {
		t.row()
		t.row(pinNote(r.Page, *r.Pinned))
	}
}

func releaseState(r control.Release) string {
	state := r.State
	if r.Warm {
		state += ", warm"
	}
	if r.Reason != "" && r.State != "live" {
		state += ": " + firstLine(r.Reason)
	}
	return state
}

func revisionNote(r control.Release) string {
	if r.Dirty {
		return shortID(r.Revision) + "+"
	}
	return cmp.Or(shortID(r.Revision), "-")
}

// pinNote tells why a page does not follow its source, and how it would.
func pinNote(page string, p control.Pin) string {
	what := "rolled back"
	if p.Reason != "" {
		what = "rolled back by the server"
	}
	return fmt.Sprintf("%s %s to release %s, where it stays; its source makes %s.\nTo go forward, save a change, or run: tqserver rollback %s %s",
		what, ago(p.Since), shortID(p.Release), shortID(p.Over), page, shortID(p.Over))
}

func shortID(id string) string { return id[:min(8, len(id))] }
