package spool

import (
	"errors"
	"fmt"
	"time"
)

// spillPause is how long a spill file that could not be written is left alone, unless a Flush asks.
const spillPause = time.Second

// spillSlack is at least how many bytes memory may be above its limit while the spill file is being written.
const spillSlack = 16 << 20

// relieve keeps memory within its limit: from half of it on the oldest chunks are spilled, until a quarter is left.
// Beyond the limit they are dropped; while the spill file is being written there is some slack, so that a burst that
// is faster than the disk for a moment loses nothing. It tells whether memory is crowded.
func (s *Spool) relieve() bool {
	if s.memBytes <= s.opts.MemoryLimit/2 {
		return false
	}
	s.relieving = true
	if !s.spilling && !time.Now().Before(s.spillAfter) {
		s.startSpill()
	}
	limit := s.opts.MemoryLimit
	if s.spilling {
		limit += max(limit, spillSlack)
	}
	for e := s.memory.Front(); e != nil && s.memBytes > limit; {
		c := e.Value.(*chunk)
		e = e.Next()
		if !c.busy && !c.moving {
			s.lose(c)
		}
	}
	return s.memBytes > s.opts.MemoryLimit
}

func (s *Spool) startSpill() {
	if !s.spilling && !s.closed {
		s.spilling = true
		s.work.Go(s.spill)
	}
}

// startFlush has every stream shipped soon. It gives the newest chunk that is concerned, and how often spilling failed.
func (s *Spool) startFlush() (mark uint64, failures int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushMark = s.chunks
	for _, st := range s.active {
		st.open = nil
		st.retryNext = st.failures > 0
	}
	s.signal()
	return s.chunks, s.spillFailures
}

// spill moves chunks to disk while there are some that have to.
func (s *Spool) spill() {
	for {
		s.mu.Lock()
		c := s.oldestToSpill()
		if c == nil {
			s.spilling = false
			s.mu.Unlock()
			return
		}
		s.beginMove(c)
		s.mu.Unlock()
		if err := s.move(c); err != nil {
			s.spillFailed(err)
			return
		}
	}
}

func (s *Spool) oldestToSpill() *chunk {
	s.relieving = s.relieving && s.memBytes > s.opts.MemoryLimit/4
	for e := s.memory.Front(); e != nil; e = e.Next() {
		c := e.Value.(*chunk)
		flush := c.number <= s.flushMark && (s.stopRun == nil || c.st.failures > 0 && !c.st.retryNext)
		if !c.busy && !c.moving && (s.relieving || flush) {
			return c
		}
		if !s.relieving && c.number > s.flushMark {
			return nil
		}
	}
	return nil
}

func (s *Spool) beginMove(c *chunk) {
	c.moving = true
	if c.st.open == c {
		c.st.open = nil
	}
}

// move writes a chunk to disk. When there is no room for it in the spill file, the oldest ones there are dropped. The
// chunk stays in memory after an error.
func (s *Spool) move(c *chunk) error {
	seg, off, size, dropped, err := s.disk.put(encode(c.number, c.st.name, c.recs[c.acked:]))
	s.mu.Lock()
	lost := 0
	for _, d := range dropped {
		for _, old := range d.chunks {
			if !old.gone {
				lost += old.count - old.acked
				s.lose(old)
			}
		}
	}
	c.moving = false
	switch {
	case errors.Is(err, errTooLarge):
		lost += c.count - c.acked
		s.lose(c)
		err = nil
	case err == nil:
		s.spillErr = nil
		s.leaveMemory(c)
		c.count, c.acked = c.count-c.acked, 0
		c.seg, c.off, c.size = seg, off, size
		seg.chunks = append(seg.chunks, c)
	}
	s.signal()
	s.mu.Unlock()
	if lost > 0 {
		s.news.say("dropped", "%d log lines are lost: the spill files in %s are full (%d MB); see why the rotator takes no lines", lost, s.opts.Dir, s.opts.SpillLimit>>20)
	}
	return err
}

func (s *Spool) spillFailed(err error) {
	s.mu.Lock()
	s.spilling = false
	s.spillFailures++
	s.spillErr = err
	s.spillAfter = time.Now().Add(spillPause)
	lost := uint64(0)
	for _, st := range s.streams {
		lost += st.lost
	}
	s.progress()
	s.mu.Unlock()
	s.news.say("spill", "log lines wait in memory only: %v; %d are lost so far; free space on that disk", err, lost)
}

// spillRest moves all of memory to disk. Nothing else runs any more.
func (s *Spool) spillRest() error {
	for e := s.memory.Front(); e != nil; e = s.memory.Front() {
		c := e.Value.(*chunk)
		s.beginMove(c)
		if err := s.move(c); err != nil {
			lines := 0
			for e := s.memory.Front(); e != nil; e = e.Next() {
				lines += e.Value.(*chunk).count - e.Value.(*chunk).acked
			}
			return fmt.Errorf("spool: %d log lines are lost: %w", lines, err)
		}
	}
	return nil
}
