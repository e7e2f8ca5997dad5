//go:build linux

package main

import (
	"context"
	"fmt"
	"time"
)

// held is the memory of a proxy with connections open.
type held struct {
	Peer        string `json:"peer"`
	Connections int    `json:"connections"` // that were open
	Wanted      int    `json:"wanted"`
	memory
}

// memory reads that of each proxy with no connection, with 512, and with many that have asked once and are idle.
func (b *bencher) memory(ctx context.Context, fleet []*server) error {
	for _, sv := range fleet {
		for _, n := range []int{0, 512, b.p.idle} {
			b.progress("memory of %s with %d idle connections", sv.peer.name, n)
			h, err := hold(ctx, sv, n, b.p.settle)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				b.problem("%s, %d idle connections: %v", sv.peer.name, n, err)
				continue
			}
			b.results.Memory = append(b.results.Memory, *h)
		}
	}
	return nil
}

func hold(ctx context.Context, sv *server, n int, settle time.Duration) (*held, error) {
	h := &held{Peer: sv.peer.name, Wanted: n}
	if n > 0 {
		j := get(1, n)
		j.Addr, j.Hold, j.Length = sv.addr, true, time.Minute
		l, err := startLoad(ctx, j)
		if err != nil {
			return nil, err
		}
		defer l.stop()
		t, err := l.tally()
		if err != nil {
			return nil, err
		}
		if h.Connections = int(t.Requests); h.Connections < n {
			return nil, fmt.Errorf("only %d could be opened, then: %s", h.Connections, t.First)
		}
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(settle):
	}
	pids, err := sv.own()
	if err != nil {
		return nil, err
	}
	h.memory, err = readMemory(pids)
	return h, err
}
