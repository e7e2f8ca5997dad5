package kernel

import (
	"context"

	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// Source is what a page is built from, and by whom.
type Source struct {
	Page, Route string
	Dir         string     // to build, absolute
	Builder     stage.Spec // the zero value when no builder matches
}

// Sources lists the pages of a site in the order of the table, beside a running server or without one. Nothing is
// built or served: of the plugins only the resolver is started. Pages with a fault in their place in the tree are
// missing; [BuildAll] tells of them.
func Sources(ctx context.Context, o Options) (sources []Source, err error) {
	err = offline(o, func(k *Kernel) (err error) {
		if err := k.checkPages(k.config()); err != nil {
			return err
		}
		if k.stages, err = newStages(k, k.config()); err != nil {
			return err
		}
		lives := newLives()
		lives.start(ctx, lifeOf("resolver"), k.stages.resolver.Run)
		defer k.stages.end(lives, "resolver")
		table, err := k.oneTable(ctx)
		if err != nil {
			return err
		}
		sources = k.sources(table)
		return nil
	})
	return sources, err
}

func (k *Kernel) sources(table sdk.Table) (sources []Source) {
	seen := map[string]bool{}
	for _, r := range table.Routes {
		if seen[r.Page] {
			continue // it answers under another host, too
		}
		seen[r.Page] = true
		s := Source{Page: r.Page, Route: r.Host + r.Path, Dir: r.Source}
		k.stages.mu.Lock()
		if b := k.stages.matching(sourceFiles(k.site.root, r.Source)); b != nil {
			s.Builder = b.spec
		}
		k.stages.mu.Unlock()
		sources = append(sources, s)
	}
	return sources
}
