//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
)

// routed is a comparison with a number of routes.
type routed struct {
	comparison
	Routes int `json:"routes"`
}

// routes has each route asked in turn. The routes of tqserver are real pages, each with a worker of its own, so that
// there are fewer of them.
func (b *bencher) routes(ctx context.Context) error {
	counts := append(slices.Clone(b.p.routes), b.p.pages...)
	slices.Sort(counts)
	for _, n := range slices.Compact(counts) {
		peers := slices.DeleteFunc(mainPeers(b.peers), func(p *peer) bool {
			own := p.name == laneR || p.name == laneS
			return own && !slices.Contains(b.p.pages, n) || !own && !slices.Contains(b.p.routes, n) || p.name == nginxLarge
		})
		if len(peers) == 0 {
			continue // the number is for a proxy that does not take part
		}
		err := b.withFleet(ctx, peers, 1, n, func(ctx context.Context, fleet []*server) error {
			j := get(kib, 32)
			for _, prefix := range (setup{routes: n}).prefixes() {
				j.Paths = append(j.Paths, pathOf(prefix, kib))
			}
			s := scenario{fmt.Sprintf("routes-%d", n), fmt.Sprintf("GET, 1 KiB, 32 connections kept open, %d routes", n), j, b.p.few + 1}
			c, err := b.compare(ctx, fleet, s, 1)
			b.results.Routes = append(b.results.Routes, routed{*c, n})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pathOf asks for an answer of a size.
func pathOf(prefix string, size int64) string { return fmt.Sprintf("%s/%d", prefix, size) }
