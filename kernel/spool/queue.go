package spool

import (
	"bytes"
	"container/list"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// record is a line as it waits; lines of one worker share their header.
type record struct {
	header *Header
	line   sdk.Line
}

func (r record) cost() int64 { return int64(len(r.line.Text)) + lineCost }

// stream is a queue of chunks, with the newest lines beside it.
type stream struct {
	name   string
	header *Header   // of the newest line
	stored *Header   // of the newest line that has a file
	used   time.Time // last
	chunks []*chunk  // oldest first; gone ones may be among them, but never at the front
	open   *chunk    // the last of chunks while it takes lines, or nil
	listed bool      // in Spool.active

	sent      *sent // the batch that was sent and is not acknowledged
	failures  int   // of writing, in a row
	err       error // the last of them
	failedAt  time.Time
	retryAt   time.Time
	retryNext bool // because of a flush, whatever retryAt says

	lost   uint64 // lines since the start
	untold uint64 // those of them that no batch told of yet

	block  []byte // what is left of it takes the texts of the next lines
	recent ring
	shown  int64 // bytes of recent
}

// chunk is some lines of one stream in a row. It is in memory (elem set), then perhaps on disk (seg set); its place in
// the stream's queue stays.
type chunk struct {
	st     *stream
	number uint64 // rises, also from process to process while something waits
	born   time.Time
	recs   []record // in memory
	count  int      // of lines
	acked  int      // of count, from the front
	text   int64    // bytes of those that wait
	elem   *list.Element
	seg    *segment
	off    int64
	size   int
	busy   bool // being shipped
	moving bool // being written to the spill file; never together with busy
	gone   bool // acknowledged or lost
}

// sent is the head of the front chunk, as a batch.
type sent struct {
	seq     uint64
	chunk   *chunk // nil: the batch only tells of lost lines
	lines   int
	dropped uint64
}

// intern gives one copy of a header for many lines in a row.
func (st *stream) intern(h *Header) *Header {
	if st.header == nil || *st.header != *h {
		own := *h
		st.header = &own
	}
	return st.header
}

// Texts of lines in a row share a block: the first of a stream is small, since most pages write little, and each
// is double the one before. Whoever holds a line holds its block, so a stream holds two of them at most that are not
// of use as a whole. A long text has memory of its own.
const (
	firstBlock = 1 << 10
	lastBlock  = 32 << 10
	longText   = 4 << 10
)

// keep copies a text.
func (st *stream) keep(text []byte) []byte {
	if len(text) > longText {
		return bytes.Clone(text)
	}
	if len(st.block)+len(text) > cap(st.block) {
		st.block = make([]byte, 0, max(len(text), min(max(2*cap(st.block), firstBlock), lastBlock)))
	}
	n := len(st.block)
	st.block = append(st.block, text...)
	return st.block[n:len(st.block):len(st.block)]
}

// front is the oldest chunk, or nil.
func (st *stream) front() *chunk {
	if len(st.chunks) == 0 {
		return nil
	}
	return st.chunks[0]
}

func (st *stream) pending() bool { return len(st.chunks) > 0 || st.untold > 0 && st.stored != nil }

// sparedRecords makes only a busy stream's memory worth keeping for its next chunk.
const sparedRecords = 128

// enqueue adds a line to the open chunk of its stream.
func (s *Spool) enqueue(st *stream, r record) {
	c := st.open
	if c == nil {
		s.chunks++
		c = &chunk{st: st, number: s.chunks, born: time.Now(), recs: s.spare}
		s.spare = nil
		c.elem = s.memory.PushBack(c)
		st.chunks = append(st.chunks, c)
		st.open = c
		s.list(st)
	}
	st.stored = r.header
	c.recs = append(c.recs, r)
	c.count++
	c.text += int64(len(r.line.Text))
	s.memBytes += r.cost()
	if c.text >= int64(s.opts.BatchBytes) || c.count*lineCost >= s.opts.BatchBytes*4 {
		st.open = nil
		s.signal()
	}
}

// adopt queues a chunk that an earlier process left on disk.
func (s *Spool) adopt(left leftover) {
	st := s.stream(left.stream)
	s.chunks = left.number
	c := &chunk{st: st, number: left.number, seg: left.seg, off: left.off, size: left.size, count: left.count, acked: left.acked, text: left.text}
	st.chunks = append(st.chunks, c)
	left.seg.chunks = append(left.seg.chunks, c)
	st.stored = left.header
	s.list(st)
}

// list has Run serve a stream.
func (s *Spool) list(st *stream) {
	if !st.listed {
		st.listed = true
		s.active = append(s.active, st)
		s.signal()
	}
}

// acknowledge takes the first n lines out of a chunk.
func (s *Spool) acknowledge(c *chunk, n int, bytes int64) {
	if c.elem != nil {
		s.freeLines(c, n)
	}
	c.acked += n
	c.text -= bytes
	if c.acked == c.count {
		s.retire(c)
	}
}

func (s *Spool) freeLines(c *chunk, n int) {
	for i := c.acked; i < c.acked+n; i++ {
		s.memBytes -= c.recs[i].cost()
		c.recs[i] = record{}
	}
}

// retire ends a chunk whose lines are all acknowledged or lost.
func (s *Spool) retire(c *chunk) {
	s.leaveMemory(c)
	st := c.st
	if st.open == c {
		st.open = nil
	}
	c.gone = true
	for len(st.chunks) > 0 && st.chunks[0].gone {
		st.chunks[0] = nil
		st.chunks = st.chunks[1:]
	}
	if len(st.chunks) == 0 {
		st.chunks = nil
	}
}

// leaveMemory frees what a chunk holds in memory.
func (s *Spool) leaveMemory(c *chunk) {
	if c.elem == nil {
		return
	}
	s.freeLines(c, c.count-c.acked)
	s.memory.Remove(c.elem)
	if len(c.recs) > sparedRecords && cap(c.recs) <= 4*sparedRecords {
		s.spare = c.recs[:0] // all of them are zero; nobody else has them: a chunk that is shipped or moved stays until then
	}
	c.elem, c.recs = nil, nil
	s.progress()
}

// lose gives a chunk up, and counts its lines, but for those that are on their way to the rotator right now.
func (s *Spool) lose(c *chunk) {
	if c.gone {
		return
	}
	st, n := c.st, c.count-c.acked
	switch {
	case st.sent == nil || st.sent.chunk != c:
	case c.busy:
		n -= st.sent.lines // release counts them, if need be
	default:
		st.unsend()
	}
	s.countLost(st, n)
	s.retire(c)
}

func (s *Spool) countLost(st *stream, n int) {
	st.lost += uint64(n)
	st.untold += uint64(n)
	if n > 0 {
		s.list(st)
	}
}

// inMemory tells whether a chunk up to the one with this number waits in memory.
func (s *Spool) inMemory(mark uint64) bool {
	oldest := s.memory.Front()
	return oldest != nil && oldest.Value.(*chunk).number <= mark
}
