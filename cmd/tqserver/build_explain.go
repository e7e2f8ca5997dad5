package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel"
	"github.com/tqserver/tqserver/plugins/builder"
)

// explained is the answer for one page.
type explained struct {
	Page    string `json:"page"`
	Route   string `json:"route"`
	Builder string `json:"builder"`
	Error   string `json:"error,omitempty"` // why there is no explanation, when there could be one
	Note    string `json:"note,omitempty"`  // why there cannot be one
	*builder.Explanation
}

// explain tells what the pages that are named cost to build, or all pages.
func (a *app) explain(cmd *cobra.Command, names []string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	done := a.tellProgress(ctx, cmd.ErrOrStderr())
	all, err := explainPages(ctx, a.options(c), names)
	done()
	if err != nil {
		return err
	}
	if err := a.print(cmd, all, func(t *table) { showExplained(t, all) }); err != nil {
		return err
	}
	failed := 0
	for _, e := range all {
		if e.Error != "" {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d pages do not build, so that nothing can be said of them", failed, len(all))
	}
	return nil
}

func explainPages(ctx context.Context, o kernel.Options, names []string) ([]explained, error) {
	sources, err := kernel.Sources(ctx, o)
	if err == nil {
		sources, err = named(sources, names)
	}
	if err != nil {
		return nil, err
	}
	all := []explained{}
	for _, s := range sources { // one at a time: they are measured
		e := explained{Page: s.Page, Route: s.Route, Builder: s.Builder.Name}
		switch {
		case s.Builder.Name == "builtin:go":
			e.Explanation, err = explainGo(ctx, s)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				e.Error = err.Error()
			}
		case s.Builder.Name == "":
			e.Note = "no builder matches this page: see plugins.builder"
		default:
			e.Note = "only builtin:go can be explained; this page is built by " + s.Builder.Name
		}
		all = append(all, e)
	}
	return all, nil
}

// explainGo gives this process the environment that the builder has: GOFLAGS and PATH decide what is built.
func explainGo(ctx context.Context, s kernel.Source) (*builder.Explanation, error) {
	os.Clearenv()
	for _, v := range s.Builder.Env {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("set %s as for the builder: %w", name, err)
		}
	}
	return builder.Explain(ctx, s.Builder.Config, s.Dir)
}

// named picks pages by name or route; no name picks all.
func named(sources []kernel.Source, names []string) ([]kernel.Source, error) {
	if len(names) == 0 {
		return sources, nil
	}
	var picked []kernel.Source
	var errs []error
	for _, name := range names {
		i := slices.IndexFunc(sources, func(s kernel.Source) bool { return s.Page == name || s.Route == name })
		if i < 0 {
			errs = append(errs, noSuchPage(sources, name))
			continue
		}
		picked = append(picked, sources[i])
	}
	return picked, errors.Join(errs...)
}

func noSuchPage(sources []kernel.Source, name string) error {
	var known []string
	for _, s := range sources {
		known = append(known, s.Page)
	}
	hint := "there are " + strings.Join(known, ", ")
	if near := config.Nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %s? ", near) + hint
	}
	return &usageError{fmt.Errorf("no page %q", name), hint}
}

func showExplained(t *table, all []explained) {
	for i, e := range all {
		if i > 0 {
			t.row()
		}
		t.row(fmt.Sprintf("%s (%s)", e.Page, e.Route))
		switch {
		case e.Explanation != nil:
			showExplanation(t, e.Explanation)
		default:
			for line := range strings.Lines(e.Note + e.Error) {
				t.row("  " + strings.TrimSuffix(line, "\n"))
			}
		}
		_ = t.w.Flush() // the next table has columns of its own
	}
	if slices.ContainsFunc(all, func(e explained) bool { return e.Explanation != nil }) {
		t.row()
		t.row("ALONE is what no other import needs: it goes when these lines go. LINK is an estimate:")
		t.row("the page's link time × ALONE's share of the compiled code.")
	}
}

func showExplanation(t *table, e *builder.Explanation) {
	t.row(fmt.Sprintf("  compile %s, link %s, `go build` %s; %s of binary from %d packages, %s compiled",
		shownMS(e.CompileMS), shownMS(e.LinkMS), shownMS(e.BuildMS), megabytes(e.BinaryBytes), e.Packages, megabytes(e.ArchiveBytes)))
	_ = t.w.Flush()
	t.row("  IMPORT", "BRINGS", "", "ALONE", "", "LINK", "IMPORTED AT")
	var free []string
	for _, c := range e.Imports {
		if c.OnlyPackages == 0 && len(c.NeededBy) != 1 {
			free = append(free, c.Import)
			continue
		}
		t.row("  "+c.Import, packages(c.Packages), megabytes(c.ArchiveBytes), packages(c.OnlyPackages), megabytes(c.OnlyArchiveBytes), about(c.LinkMSEstimate), places(c))
	}
	_ = t.w.Flush()
	if len(free) > 0 {
		t.row("  More than one other import needs each of these: " + strings.Join(free, ", "))
	}
	for _, line := range e.Advice {
		t.row("  " + line)
	}
}

func packages(n int) string {
	switch n {
	case 0:
		return "-"
	case 1:
		return "1 package"
	}
	return fmt.Sprint(n, " packages")
}

func megabytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// about is an estimate.
func about(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return "≈ " + shownMS(ms)
}

func shownMS(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// places shows the first of the lines that import something, and what stands in the way of its going.
func places(c builder.ImportCost) string {
	text := c.At[0]
	if more := len(c.At) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if c.OnlyPackages == 0 {
		text += ", but " + strings.Join(c.NeededBy, ", ") + " needs it too"
	}
	return text
}
