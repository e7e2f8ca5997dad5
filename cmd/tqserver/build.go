package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel"
	"github.com/tqserver/tqserver/sdk"
)

func newBuild(a *app) *cobra.Command {
	why := false
	cmd := a.asJSON(&cobra.Command{
		Use:   "build [--explain [PAGE...]]",
		Short: "Build all pages without serving them, as a check, or explain what their builds cost",
		Long: `Build builds all pages, as a check. With --explain it tells instead, of the pages that are named or of all,
how long they compile and link, and which of their imports cost how much of that. PAGE is a name or a route.
Only pages that builtin:go builds can be explained; each takes some seconds.`,
		Example: "  tqserver build                  # exit code 1 when a page does not build\n  tqserver build --explain index  # which imports of the page index cost most",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && !why {
				return errors.New("only --explain takes names of pages: all pages are built")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if why {
				return a.explain(cmd, args)
			}
			return a.build(cmd)
		},
	})
	cmd.Flags().BoolVar(&why, "explain", false, "tell what each import of a page costs")
	return cmd
}

func (a *app) build(cmd *cobra.Command) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o := a.options(c)
	o.Console, o.Color = console(cmd.ErrOrStderr())
	all := []kernel.Built{}
	failed := 0
	done := a.tellProgress(ctx, cmd.ErrOrStderr())
	err = kernel.BuildAll(ctx, o, func(b kernel.Built) {
		all = append(all, b)
		if !b.OK && !b.Skipped {
			failed++
		}
	})
	done()
	slices.SortFunc(all, func(a, b kernel.Built) int { return strings.Compare(a.Page, b.Page) })
	if err := a.print(cmd, all, func(t *table) { showBuilds(t, all) }); err != nil {
		return err
	}
	if failed > 0 {
		err = errors.Join(fmt.Errorf("%d of %d pages do not build", failed, len(all)), err)
	}
	return err
}

func showBuilds(t *table, all []kernel.Built) {
	t.row("PAGE", "ROUTE", "RESULT", "TIME", "RELEASE")
	var found []sdk.Diagnostic
	for _, b := range all {
		result := "built"
		switch {
		case b.Skipped:
			result = "skipped"
			found = append(found, b.Diagnostics...)
		case !b.OK:
			result = "FAILED"
			found = append(found, b.Diagnostics...)
		case b.Cached:
			result = "cached"
		}
		t.row(b.Page, b.Route, result, time.Duration(b.DurationMS)*time.Millisecond, b.Release[:min(8, len(b.Release))])
	}
	_ = t.w.Flush() // what follows is no table
	for _, d := range found {
		t.row(d.String())
	}
}

// tellProgress says after two seconds that something goes on, and again every ten. The result ends it.
func (a *app) tellProgress(ctx context.Context, w io.Writer) (done func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		start, next := time.Now(), time.NewTimer(2*time.Second)
		defer next.Stop()
		for {
			select {
			case <-next.C:
				fmt.Fprintf(w, "building … %v\n", time.Since(start).Round(time.Second))
				next.Reset(10 * time.Second)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}

func printJSONLine(w io.Writer, v any) { _ = json.NewEncoder(w).Encode(v) } // a reader that is gone ends the command
