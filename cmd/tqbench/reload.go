//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// reloading is what a proxy did during reloads, and beside it in quiet. Each value is of one segment.
type reloading struct {
	Peer    string  `json:"peer"`
	Way     string  `json:"way"`
	Rate    float64 `json:"rate"`
	Reloads int     `json:"reloads"`
	Quiet   *series `json:"quiet"`
	During  *series `json:"during"`
}

// waysToReload are those of a program, by what the peer is. Of tqserver and nginx one variant is enough.
func waysToReload(p *peer) []string {
	switch p.name {
	case nginxPlain, haproxyName, caddyName:
		return []string{"reload"}
	case laneR, laneS:
		return []string{"save", "rollback"}
	}
	return nil
}

// reloadPeers leaves lane S out where there is a lane R, which stands for both: what a reload swaps is the same.
func reloadPeers(all []*peer) []*peer {
	lanes := slices.ContainsFunc(all, func(p *peer) bool { return p.name == laneR })
	return slices.DeleteFunc(slices.Clone(all), func(p *peer) bool {
		return len(waysToReload(p)) == 0 || lanes && p.name == laneS
	})
}

// reload measures at one rate, a quarter of the lowest maximum or 2,000 requests a second, whatever is less.
func (b *bencher) reload(ctx context.Context, fleet []*server) error {
	rate := 2000.0
	if b.results.Cores != nil {
		for _, s := range b.results.Cores.Series {
			if m := median(s.Rate); m > 0 {
				rate = min(rate, round2(m/4))
			}
		}
	}
	for _, sv := range fleet {
		if !slices.Contains(reloadPeers(b.peers), sv.peer) {
			continue
		}
		for _, way := range waysToReload(sv.peer) {
			r := &reloading{Peer: sv.peer.name, Way: way, Rate: rate, Quiet: &series{Peer: sv.peer.name}, During: &series{Peer: sv.peer.name}}
			if err := b.reloadOne(ctx, sv, r); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				b.problem("reloads of %s (%s): %v", sv.peer.name, way, err)
			}
			b.results.Reload = append(b.results.Reload, r)
		}
	}
	return nil
}

func (b *bencher) reloadOne(ctx context.Context, sv *server, r *reloading) error {
	if r.Way == "rollback" { // there has to be a release to go back to
		if err := sv.reloads["save"](ctx, 0); err != nil {
			return err
		}
	}
	wanted := b.p.segments * b.p.perRound
	for segment := 0; r.Reloads < wanted && segment < 2*b.p.segments; segment++ {
		b.progress("%s, %s: segment %d, %d of %d reloads done", sv.peer.name, r.Way, segment+1, r.Reloads, wanted)
		order := []bool{false, true}
		if segment%2 == 1 {
			slices.Reverse(order)
		}
		for _, during := range order {
			if err := b.segment(ctx, sv, r, during); err != nil {
				return err
			}
		}
	}
	for name, s := range map[string]*series{"in quiet": r.Quiet, "during reloads": r.During} {
		if s.Errors > 0 {
			b.problem("%s, %s: %d of %d requests failed %s, the first with: %s", r.Peer, r.Way, s.Errors, s.Errors+s.Requests, name, s.First)
		}
	}
	return nil
}

// segment has the load for a time, with reloads at equal distances or without.
func (b *bencher) segment(ctx context.Context, sv *server, r *reloading, during bool) error {
	j := get(kib, 64)
	j.Addr, j.Rate, j.Length = sv.addr, r.Rate, b.p.reloadFor
	done := make(chan struct{})
	reloads := make(chan reloaded, 1)
	if during {
		go func() {
			reloads <- repeat(ctx, sv.reloads[r.Way], j.Length/time.Duration(b.p.perRound), b.p.perRound, done)
		}()
	} else {
		reloads <- reloaded{}
	}
	t, err := load(ctx, j)
	close(done)
	did := <-reloads
	if err != nil {
		return err
	}
	if did.err != nil {
		return fmt.Errorf("reload: %w", did.err)
	}
	r.Reloads += did.n
	if during {
		r.During.add(t, 0)
	} else {
		r.Quiet.add(t, 0)
	}
	return nil
}

type reloaded struct {
	n   int
	err error
}

// repeat reloads until it has done so n times or done is closed. The last one is waited for and, when it took longer
// than the load, does not count.
func repeat(ctx context.Context, reload func(context.Context, int) error, every time.Duration, n int, done <-chan struct{}) (r reloaded) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for r.n < n {
		if r.err = reload(ctx, r.n); r.err != nil {
			return r
		}
		select {
		case <-done:
			return r
		default:
			r.n++
		}
		select {
		case <-done:
			return r
		case <-tick.C:
		}
	}
	return r
}
