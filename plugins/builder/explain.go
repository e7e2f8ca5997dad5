package builder

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tqserver/tqserver/sdk"
)

// Explanation is what a page costs to build, and which of its imports cost how much of that.
type Explanation struct {
	Go           string       `json:"go"`            // version of the toolchain
	Packages     int          `json:"packages"`      // that the linker reads, the page's own included
	ArchiveBytes int64        `json:"archive_bytes"` // of these, compiled
	BinaryBytes  int64        `json:"binary_bytes"`
	CompileMS    float64      `json:"compile_ms"` // of package main alone, as after a save; 0: not measured
	LinkMS       float64      `json:"link_ms"`    // with the toolchain's own linker; 0: not measured
	BuildMS      float64      `json:"build_ms"`   // of the whole `go build` that both were part of
	Imports      []ImportCost `json:"imports"`    // what costs most first
	Advice       []string     `json:"advice"`
}

// ImportCost is what one import of the site's own packages brings into the page.
type ImportCost struct {
	Import           string   `json:"import"`
	At               []string `json:"at"`            // file:line of each import of it, relative to the module
	Packages         int      `json:"packages"`      // it and all that it needs
	ArchiveBytes     int64    `json:"archive_bytes"` // of these
	OnlyPackages     int      `json:"only_packages"` // those of them that nothing else needs: without these lines they go
	OnlyArchiveBytes int64    `json:"only_archive_bytes"`
	NeededBy         []string `json:"needed_by"`        // other imports of the site's own packages that bring it as well
	LinkMSEstimate   float64  `json:"link_ms_estimate"` // LinkMS of the page × the share that OnlyArchiveBytes has; 0: none
}

// Explain builds the page in dir a few times, in a temporary directory, as [Go] does when it has a `config:` block,
// given as JSON, and tells what each import of the site's own packages costs. It uses the environment of this process.
// A page that does not build is an error with what the go command says. It takes some seconds, and longer while the Go
// build cache is cold; the end of ctx ends it.
func Explain(ctx context.Context, config []byte, dir string) (*Explanation, error) {
	b, err := planned(ctx, config, dir)
	if err != nil {
		return nil, err
	}
	m, err := b.measure(ctx) // this fills the cache too, so that the list below need not build
	if err != nil {
		return nil, err
	}
	g, err := b.graph(ctx)
	if err != nil {
		return nil, err
	}
	whole := g.without("")
	e := &Explanation{Go: b.plan.version, Packages: len(whole), ArchiveBytes: g.size(whole), BinaryBytes: m.binary,
		CompileMS: milliseconds(m.compile), LinkMS: milliseconds(m.link), BuildMS: milliseconds(m.build)}
	e.Imports = g.costs(e)
	e.Advice = advise(b.config, g, m)
	return e, nil
}

// planned gives a build of dir that knows its plan.
func planned(ctx context.Context, config []byte, dir string) (*build, error) {
	c := GoConfig{Go: "go", Cgo: "auto"}
	if len(config) > 0 { // the keys that matter here have the names of the fields, but for case
		if err := json.Unmarshal(config, &c); err != nil {
			return nil, fmt.Errorf("read the configuration of the builder: %w", err)
		}
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("read the configuration of the builder: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	b := &build{Go: NewGo(), task: task[GoConfig]{config: c, src: &source{}, event: func(sdk.Event) {}, job: sdk.Job{Source: dir}}}
	if b.plan, err = b.newPlan(ctx); err != nil {
		return nil, err
	}
	return b, diagnosed(b.plan.diagnostics)
}

// diagnosed makes an error of diagnostics, if there are any that are no warnings.
func diagnosed(found []sdk.Diagnostic) error {
	var errs []error
	for _, d := range found {
		if !d.Warning {
			errs = append(errs, errors.New(d.String()))
		}
	}
	return errors.Join(errs...)
}

// costs works out what each import costs, the dearest first.
func (g *graph) costs(e *Explanation) []ImportCost {
	costs := []ImportCost{}
	for path, at := range g.lines {
		if g.all[path] == nil {
			continue // unsafe and C are no packages that are linked
		}
		brought, rest := g.closure(path), g.without(path)
		c := ImportCost{Import: path, At: at, Packages: len(brought), ArchiveBytes: g.size(brought),
			OnlyPackages: e.Packages - len(rest), OnlyArchiveBytes: e.ArchiveBytes - g.size(rest)}
		c.NeededBy = g.neededBy(path)
		c.LinkMSEstimate = e.LinkMS * float64(c.OnlyArchiveBytes) / float64(max(1, e.ArchiveBytes))
		costs = append(costs, c)
	}
	slices.SortFunc(costs, func(a, b ImportCost) int {
		return cmp.Or(cmp.Compare(b.OnlyArchiveBytes, a.OnlyArchiveBytes), cmp.Compare(b.ArchiveBytes, a.ArchiveBytes), strings.Compare(a.Import, b.Import))
	})
	return costs
}
