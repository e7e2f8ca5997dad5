package spool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

type writeFunc = func(ctx context.Context, b sdk.Batch) error

// Run ships lines until ctx ends or the spool is closed, and then returns nil. write is called for one batch at a
// time, with a context of at most 10 s, and must end with it; nil acknowledges the batch. After an error the same
// batch, with the same Seq, is sent again after 100 ms, then 200 ms, up to 5 s; meanwhile the other streams have their
// turn. Only one Run may run at a time.
func (s *Spool) Run(ctx context.Context, write func(ctx context.Context, b sdk.Batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.begin(cancel); err != nil {
		return err
	}
	defer s.end()
	for ctx.Err() == nil {
		if st, wait := s.next(time.Now()); st != nil {
			s.ship(ctx, st, write)
		} else {
			s.sleep(ctx, wait)
		}
	}
	return nil
}

func (s *Spool) begin(cancel context.CancelFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.stopRun != nil:
		return errors.New("spool: Run is running already")
	}
	s.stopRun, s.ran = cancel, make(chan struct{})
	return nil
}

func (s *Spool) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopRun = nil
	close(s.ran)
	s.progress() // Flush has to spill now
}

// next gives the stream to serve, in turn, or how long none will be due.
func (s *Spool) next(now time.Time) (*stream, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = slices.DeleteFunc(s.active, func(st *stream) bool {
		st.listed = st.pending()
		return !st.listed
	})
	wait := time.Hour
	for range s.active {
		s.cursor = (s.cursor + 1) % len(s.active)
		st := s.active[s.cursor]
		at, ok := s.due(st)
		if !ok {
			continue
		}
		if !at.After(now) {
			return st, 0
		}
		wait = min(wait, at.Sub(now))
	}
	return nil, wait
}

// due tells from when on a stream is to be served; not at all while its front is being spilled.
func (s *Spool) due(st *stream) (time.Time, bool) {
	c := st.front()
	switch {
	case c != nil && c.moving:
		return time.Time{}, false
	case st.retryNext:
		return time.Time{}, true
	case c == nil || c != st.open || st.failures > 0 || c.number <= s.flushMark:
		return st.retryAt, true
	}
	return c.born.Add(s.opts.FlushInterval), true
}

func (s *Spool) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-timer.C:
	}
}

// ship sends the front chunk of a stream: one batch for each row of lines with the same header.
func (s *Spool) ship(ctx context.Context, st *stream, write writeFunc) {
	c, recs, err := s.claim(st)
	if err != nil {
		s.news.say("read", "log lines of %s are lost: read spill file: %v", st.name, err)
		return
	}
	for ctx.Err() == nil {
		b, ok := s.prepare(st, c, recs)
		if !ok {
			break
		}
		err := send(ctx, write, b)
		if ctx.Err() != nil && err != nil {
			break // sent again by the next Run
		}
		s.settle(st, c, b, err)
		if err != nil {
			break
		}
	}
	s.release(c)
}

// claim seals the front chunk and gives its lines. It may be nil: then only lost lines are to be told.
func (s *Spool) claim(st *stream) (*chunk, []record, error) {
	s.mu.Lock()
	c := st.front()
	if c == nil || c.moving {
		s.mu.Unlock()
		return nil, nil, nil
	}
	c.busy = true
	st.retryNext = false
	if st.open == c {
		st.open = nil
	}
	recs := c.recs
	s.mu.Unlock()
	if c.seg == nil {
		return c, recs, nil
	}
	recs, err := s.disk.read(c)
	if err != nil {
		s.mu.Lock()
		c.busy = false
		s.lose(c)
		s.mu.Unlock()
		s.disk.done(c.seg)
	}
	return c, recs, err
}

func (s *Spool) release(c *chunk) {
	if c == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
	if st := c.st; c.gone && st.sent != nil && st.sent.chunk == c { // dropped while it was under way, and not taken
		s.countLost(st, st.sent.lines)
		st.unsend()
	}
	s.progress()
}

// prepare makes the next batch of a chunk, or the same one again when it was not acknowledged.
func (s *Spool) prepare(st *stream, c *chunk, recs []record) (sdk.Batch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		return s.prepareEmpty(st)
	}
	if c.gone {
		return sdk.Batch{}, false
	}
	row := recs[c.acked:]
	if st.sent != nil && st.sent.chunk == nil { // new lines can tell it
		st.unsend()
	}
	if st.sent == nil {
		s.newSent(st, c, rowLength(row, s.opts.BatchBytes))
	}
	row = row[:st.sent.lines]
	b := st.sent.batch(st, row[0].header)
	b.Lines = make([]sdk.Line, 0, len(row))
	for _, r := range row {
		b.Lines = append(b.Lines, r.line)
	}
	return b, true
}

// prepareEmpty tells of lost lines when there is nothing else to send.
func (s *Spool) prepareEmpty(st *stream) (sdk.Batch, bool) {
	if st.front() != nil || st.stored == nil || st.untold == 0 && st.sent == nil {
		return sdk.Batch{}, false
	}
	if st.sent == nil {
		s.newSent(st, nil, 0)
	}
	st.retryNext = false
	return st.sent.batch(st, st.stored), true
}

func (s *Spool) newSent(st *stream, c *chunk, lines int) {
	s.seq++
	st.sent = &sent{seq: s.seq, chunk: c, lines: lines, dropped: st.untold}
	st.untold = 0
}

// unsend forgets the batch: what it told of lost lines is to be told again.
func (st *stream) unsend() {
	st.untold += st.sent.dropped
	st.sent = nil
}

// batch is without the lines. gRPC refuses strings that are not UTF-8.
func (t *sent) batch(st *stream, h *Header) sdk.Batch {
	valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	return sdk.Batch{Seq: t.seq, Stream: valid(st.name), File: valid(h.File), Page: valid(h.Page), Release: valid(h.Release),
		Worker: valid(h.Worker), Dropped: t.dropped}
}

// rowLength tells how many lines from the first have its header and fit a batch; at least one.
func rowLength(recs []record, limit int) int {
	n, bytes := 0, 0
	for n < len(recs) && *recs[n].header == *recs[0].header && (n == 0 || bytes+len(recs[n].line.Text) <= limit) {
		bytes += len(recs[n].line.Text)
		n++
	}
	return n
}

func send(ctx context.Context, write writeFunc, b sdk.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	return write(ctx, b)
}

// settle books the result of a batch.
func (s *Spool) settle(st *stream, c *chunk, b sdk.Batch, err error) {
	if err != nil {
		s.refused(st, c, err)
		return
	}
	s.mu.Lock()
	recovered := st.failures > 0
	st.sent, st.failures, st.retryAt, st.err = nil, 0, time.Time{}, nil
	onDisk := c != nil && !c.gone && c.seg != nil
	if c != nil && !c.gone {
		s.acknowledge(c, len(b.Lines), textOf(b.Lines))
	}
	s.progress()
	s.mu.Unlock()
	if onDisk {
		s.disk.mark(c.seg, c.off, c.acked)
		if c.acked == c.count {
			s.disk.done(c.seg)
		}
	}
	if recovered {
		s.news.say("again", "rotator takes lines of %s again", st.name)
	}
}

func (s *Spool) refused(st *stream, c *chunk, err error) {
	s.mu.Lock()
	st.failedAt = time.Now()
	st.err = fmt.Errorf("store log lines of %s: %w", st.name, err)
	delay := min(firstRetry<<min(st.failures, 10), lastRetry)
	st.failures++
	st.retryAt = st.failedAt.Add(delay - rand.N(delay/4))
	waiting := st.waiting()
	s.progress()
	s.mu.Unlock()
	s.news.say("refused", "rotator refuses lines of %s: %v; %d lines of it wait, and are sent again", st.name, err, waiting)
}

func (st *stream) waiting() int {
	n := 0
	for _, c := range st.chunks {
		if !c.gone {
			n += c.count - c.acked
		}
	}
	return n
}

func textOf(lines []sdk.Line) int64 {
	n := 0
	for _, l := range lines {
		n += len(l.Text)
	}
	return int64(n)
}
