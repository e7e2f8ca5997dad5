package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel/control"
)

func newStatus(a *app) *cobra.Command {
	return a.asJSON(&cobra.Command{
		Use:     "status",
		Short:   "Show pages, workers and stages of the running server",
		Example: "  tqserver status\n  tqserver status --json | jq '.pages[] | {route, state, release}'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.status(cmd)
			if err != nil {
				return err
			}
			return a.print(cmd, s, func(t *table) { showStatus(t, s) })
		},
	})
}

func newRoutes(a *app) *cobra.Command {
	return a.asJSON(&cobra.Command{
		Use:     "routes",
		Short:   "Show which page answers which path",
		Example: "  tqserver routes --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.status(cmd)
			if err != nil {
				return err
			}
			rows := make([]routeRow, 0, len(s.Pages))
			for _, p := range s.Pages {
				rows = append(rows, routeRow{p.Host, p.Route, p.Name, p.State, p.Dir})
			}
			return a.print(cmd, rows, func(t *table) {
				t.row("ROUTE", "PAGE", "STATE", "DIRECTORY")
				for _, r := range rows {
					t.row(r.Host+r.Route, r.Page, r.State, r.Dir)
				}
			})
		},
	})
}

type routeRow struct {
	Host  string `json:"host,omitempty"`
	Route string `json:"route"`
	Page  string `json:"page"`
	State string `json:"state"`
	Dir   string `json:"dir"`
}

func (a *app) status(cmd *cobra.Command) (control.Status, error) {
	client, err := a.running()
	if err != nil {
		return control.Status{}, err
	}
	return client.Status(cmd.Context())
}

func showStatus(t *table, s control.Status) {
	t.row(fmt.Sprintf("tqserver %s (pid %d) %s at %s for %v", s.Version, s.PID, s.State, s.URL, time.Since(s.Started).Round(time.Second)))
	t.row("configuration " + cmp.Or(s.Config, "default") + reloadNote(s.Reload))
	t.row()
	t.row("PAGE", "ROUTE", "STATE", "RELEASE", "WORKER", "PID", "PORT", "IN FLIGHT", "REQUESTS", "LAST BUILD")
	for _, p := range s.Pages {
		showPage(t, p)
	}
	t.row()
	t.row("STAGE", "PLUGIN", "STATE", "PID", "RESTARTS", "SINCE")
	for _, st := range s.Stages {
		state := stageState(st)
		if !st.Probation.IsZero() {
			state += ", " + replacementNote(st)
		}
		t.row(st.Stage, st.Plugin, state, number(st.PID), st.Restarts, ago(st.Since))
	}
	_ = t.w.Flush() // what follows is no table
	showProblems(t, s)
}

func stageState(st control.Stage) string {
	if st.Attached {
		return st.State + " (attached for debugging)"
	}
	return st.State
}

func reloadNote(r *control.Outcome) string {
	switch {
	case r == nil:
		return ""
	case r.Error != "":
		return fmt.Sprintf(", reload %s REFUSED", ago(r.At))
	}
	return ", reloaded " + ago(r.At)
}

func showPage(t *table, p control.Page) {
	state := p.State
	if p.Error != "" && p.State == "serving" {
		state = "serving, see below"
	}
	if n := serving(p); n > 0 && n != p.Wanted {
		state += fmt.Sprintf(" (%d of %d workers)", n, p.Wanted)
	}
	if p.Crashes > 0 {
		state += fmt.Sprintf(" (%d crashes)", p.Crashes)
	}
	if !p.Probation.IsZero() {
		state += fmt.Sprintf(", on probation for %v", left(p.Probation))
	}
	if p.Pinned != nil {
		state += ", pinned"
	}
	if waiting := p.Held + p.Queued; waiting > 0 {
		state += fmt.Sprintf(" (%d waiting)", waiting)
	}
	if len(p.Workers) == 0 {
		t.row(p.Name, p.Host+p.Route, state, "-", "-", "-", "-", "-", "-", buildNote(p.Build))
	}
	build := buildNote(p.Build)
	for _, w := range p.Workers {
		if w.State != "serving" {
			state, build = w.State, "-"
		}
		t.row(p.Name, p.Host+p.Route, state, w.Release[:min(8, len(w.Release))], w.ID, w.PID, place(w), w.InFlight, w.Requests, build)
	}
}

// serving is how many workers of a page serve.
func serving(p control.Page) (n int) {
	for _, w := range p.Workers {
		if w.State == "serving" {
			n++
		}
	}
	return n
}

// place is the port of a worker, or the name of its socket, which tells it from others.
func place(w control.Worker) string {
	if w.Socket != "" {
		return filepath.Base(w.Socket)
	}
	return fmt.Sprint(w.Port)
}

func buildNote(b *control.Build) string {
	switch {
	case b == nil:
		return "-"
	case !b.OK:
		return "FAILED " + ago(b.At)
	case b.Cached:
		return fmt.Sprintf("%v (cached) %s", time.Duration(b.DurationMS)*time.Millisecond, ago(b.At))
	}
	return fmt.Sprintf("%v %s", time.Duration(b.DurationMS)*time.Millisecond, ago(b.At))
}

// showProblems prints everything that needs a person, in full.
func showProblems(t *table, s control.Status) {
	var lines []string
	add := func(title, text string) { lines = append(lines, title+": "+strings.ReplaceAll(text, "\n", "\n  ")) }
	if s.Reload != nil && s.Reload.Error != "" {
		add("configuration", s.Reload.Error)
	}
	for _, p := range s.Problems {
		add("pages", p)
	}
	for _, p := range s.Pages {
		if p.Error != "" {
			add("page "+p.Name, p.Error)
		}
		if p.Pinned != nil {
			add("page "+p.Name, pinNote(p.Name, *p.Pinned))
		}
		if p.Build != nil && !p.Build.OK && len(p.Build.Diagnostics) > 1 { // the first one is in the error
			for _, d := range p.Build.Diagnostics[1:] {
				add("page "+p.Name, strings.TrimPrefix(d.String(), s.Root+"/"))
			}
		}
	}
	for _, st := range s.Stages {
		if st.Error != "" && st.State != "running" {
			add("stage "+st.Stage, st.Error)
		}
		if st.Note != "" {
			add("stage "+st.Stage, st.Note)
		}
	}
	if s.Logs.Error != "" || s.Logs.Dropped > 0 {
		add("logs", fmt.Sprintf("%d lines wait, %d bytes are spilled, %d lines were dropped: %s", s.Logs.Waiting, s.Logs.Spilled, s.Logs.Dropped, s.Logs.Error))
	}
	if len(lines) > 0 {
		t.row()
		t.row(strings.Join(lines, "\n"))
	}
}

// replacementNote tells how the last replacement of a plugin goes, or went.
func replacementNote(st control.Stage) string {
	if st.Probation.IsZero() {
		return st.Note
	}
	return fmt.Sprintf("on probation for %v", left(st.Probation))
}

func left(until time.Time) time.Duration { return max(0, time.Until(until)).Round(time.Second) }

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

func number(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
