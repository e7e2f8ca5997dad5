package spool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	recentLimit = 1000      // lines of a stream
	recentBytes = 256 << 10 // text of them
	followLimit = 1024      // lines that a follower may be behind
)

// follower is one who reads a stream live.
type follower struct {
	stream string // "": all
	lines  chan Record
	lost   int // since the last line that fitted
	stop   func() bool
}

// Recent gives the last n lines of a stream that are still in memory, oldest first: 1,000 at most, or 256 KiB of them.
// "" is all streams, by time; n <= 0 is all there are.
func (s *Spool) Recent(stream string, n int) []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	var recs []record
	for name, st := range s.streams {
		if stream == "" || name == stream {
			recs = append(recs, last(st.recent.list(), n)...)
		}
	}
	if stream == "" {
		slices.SortStableFunc(recs, func(a, b record) int {
			return cmp.Or(a.line.Time.Compare(b.line.Time), cmp.Compare(a.header.Stream, b.header.Stream))
		})
	}
	out := []Record{}
	for _, r := range last(recs, n) {
		out = append(out, Record{*r.header, r.line})
	}
	return out
}

func last(recs []record, n int) []record {
	if n <= 0 || n > len(recs) {
		return recs
	}
	return recs[len(recs)-n:]
}

// Follow gives the lines of a stream as they are appended, "": of all streams. The channel is closed when ctx ends or
// the spool is closed. A reader that is more than 1,024 lines behind loses lines; in their place comes one line, of
// the source Kernel, that says how many.
func (s *Spool) Follow(ctx context.Context, stream string) <-chan Record {
	f := &follower{stream: stream, lines: make(chan Record, followLimit)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(f.lines)
		return f.lines
	}
	s.followers[f] = struct{}{}
	f.stop = context.AfterFunc(ctx, func() { s.unfollow(f) })
	return f.lines
}

func (s *Spool) unfollow(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.followers[f]; ok {
		delete(s.followers, f)
		close(f.lines)
	}
}

func (s *Spool) endFollowers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.followers {
		f.stop()
		delete(s.followers, f)
		close(f.lines)
	}
}

// show keeps a line for Recent and hands it to the followers.
func (s *Spool) show(st *stream, r record) {
	st.used = r.line.Time
	if st.recent.len() == recentLimit {
		st.shown -= int64(len(st.recent.pop().line.Text))
	}
	st.recent.push(r)
	st.shown += int64(len(r.line.Text))
	for st.shown > recentBytes && st.recent.len() > 1 {
		st.shown -= int64(len(st.recent.pop().line.Text))
	}
	for f := range s.followers {
		if f.stream == "" || f.stream == st.name {
			s.follow(f, r)
		}
	}
}

func (s *Spool) follow(f *follower, r record) {
	if f.lost > 0 && cap(f.lines)-len(f.lines) >= 2 {
		note := fmt.Appendf(nil, "%d lines are left out here: they came faster than they were read", f.lost)
		f.lines <- Record{Header{Stream: f.stream}, sdk.Line{Time: time.Now(), Source: sdk.Kernel, Text: note}}
		f.lost = 0
	}
	if f.lost > 0 || len(f.lines) == cap(f.lines) {
		f.lost++
		s.missed++
		return
	}
	f.lines <- Record{*r.header, r.line}
}
