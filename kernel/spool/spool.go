// Package spool carries log lines from the kernel to the rotator. A line that is appended waits in memory, moves to a
// spill file when memory fills up or the process ends, and leaves when the rotator has acknowledged it. Whoever
// appends never waits: neither for the rotator nor for a disk.
package spool

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// Options say how much may wait, and where.
type Options struct {
	Dir           string        // of the spill files; exists, 0700, used by one Spool at a time
	MemoryLimit   int64         // bytes of waiting lines in memory; default 8 MiB. While the disk takes its time, 16 MiB or as much again on top
	SpillLimit    int64         // bytes of spill files; default 256 MiB
	FlushInterval time.Duration // a line waits this long for others to make a batch with; default 50 ms
	BatchBytes    int           // text of a batch; default 256 KiB, at most an eighth of MemoryLimit

	// Log takes the few messages of the spool itself, each kind at most once in 10 s. It may append to the spool.
	Log func(format string, args ...any)
}

// Header says where a line belongs.
type Header struct {
	Stream  string // "server", or the name of a page
	File    string // template of the file's path; "": the line is not stored, only shown by Recent and Follow
	Page    string
	Release string
	Worker  string
}

// Record is one line with its header. Its Text is shared: it must not be changed.
type Record struct {
	Header
	sdk.Line
}

// Stats is a view of the moment.
type Stats struct {
	Lines, Bytes  int64             // that wait, in memory and in the spill files; text only
	MemoryBytes   int64             // that waiting lines use in memory
	Spilled       int64             // lines that wait in the spill files
	SpilledBytes  int64             // size of the spill files
	Dropped       map[string]uint64 // lines lost since the start, by stream; only streams that lost some
	FollowersLost uint64            // lines that were too fast for a follower
	LastError     error             // of the rotator, for the stream that it refused last, or of the spill file; nil when all is well again
}

// ErrClosed is returned by a Spool that is closed.
var ErrClosed = errors.New("spool: closed")

const (
	lineLimit   = 1 << 20          // bytes; a longer line is cut into several, so that every batch fits a message
	lineCost    = 128              // bytes that a waiting line takes besides its text
	streamLimit = 2000             // streams remembered for Recent and Stats; beyond it the longest idle one goes
	writeLimit  = 10 * time.Second // for one batch
)

// Spool is safe for concurrent use.
type Spool struct {
	opts Options
	disk *disk
	news announcer
	wake chan struct{}  // tells Run to look again
	work sync.WaitGroup // the goroutine that spills, if any

	mu        sync.Mutex // never held during input and output
	closed    bool
	stopRun   context.CancelFunc // nil: Run does not run
	ran       chan struct{}      // closed when it has returned
	streams   map[string]*stream
	active    []*stream // those with something to ship
	cursor    int       // the one served last
	memory    list.List // of the chunks in memory, oldest first
	spare     []record  // empty, for the next chunk; may be nil
	memBytes  int64
	chunks    uint64        // number of the newest
	seq       uint64        // of the newest batch
	flushMark uint64        // chunks up to this one are to leave memory soon
	changed   chan struct{} // closed and replaced whenever a chunk left memory or a batch failed
	followers map[*follower]struct{}
	missed    uint64

	spilling      bool      // a goroutine is at it
	relieving     bool      // until memory is down again
	spillAfter    time.Time // not before, because it went wrong
	spillFailures int
	spillErr      error // the last, until one chunk could be written
}

// New opens a spool, and takes up what an earlier process left in the spill files: that is shipped before anything
// new of the same stream. A torn or damaged end of a spill file is left out and logged. It starts nothing. The
// directory stays locked until Close.
func New(opts Options) (*Spool, error) {
	opts.setDefaults()
	s := &Spool{opts: opts, news: announcer{log: opts.Log}, wake: make(chan struct{}, 1), streams: map[string]*stream{},
		seq:     uint64(time.Now().UnixNano()), // a rotator that outlives this process sees no number twice
		changed: make(chan struct{}), followers: map[*follower]struct{}{}}
	d, err := openDisk(opts.Dir, opts.SpillLimit)
	if err != nil {
		return nil, fmt.Errorf("spool: open spill files: %w", err)
	}
	s.disk = d
	for _, left := range d.left {
		s.adopt(left)
	}
	d.left = nil
	if d.damage != nil {
		s.news.say("damage", "spill file of log lines is damaged, what follows in it is left out: %v", d.damage)
	}
	return s, nil
}

func (o *Options) setDefaults() {
	defaultTo(&o.MemoryLimit, 8<<20)
	defaultTo(&o.SpillLimit, 256<<20)
	defaultTo(&o.FlushInterval, 50*time.Millisecond)
	defaultTo(&o.BatchBytes, 256<<10)
	o.BatchBytes = int(min(int64(o.BatchBytes), max(o.MemoryLimit/8, 1)))
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
}

func defaultTo[T int | int64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// Append takes one line. It copies the text, allocates nothing for most lines, never blocks and never fails: what does not fit is dropped, oldest first,
// and counted. Lines of one stream keep their order. A line without a time gets the present one; a text above 1 MiB
// becomes several lines. After Close it does nothing.
func (s *Spool) Append(h Header, l sdk.Line) {
	if l.Time.IsZero() {
		l.Time = time.Now()
	}
	for text, more := l.Text, true; more; more = len(text) > 0 {
		n := min(len(text), lineLimit)
		l.Text, text = text[:n], text[n:]
		if s.append(&h, l) {
			runtime.Gosched() // let the goroutine that spills have its turn
		}
	}
}

// append tells whether memory is crowded.
func (s *Spool) append(h *Header, l sdk.Line) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	st := s.stream(h.Stream)
	l.Text = st.keep(l.Text)
	r := record{st.intern(h), l}
	s.show(st, r)
	if h.File == "" {
		return false
	}
	s.enqueue(st, r)
	return s.relieve()
}

// Flush waits until every line appended before is acknowledged or in the spill file. Lines that the rotator refuses,
// also at one more try, and all lines while Run does not run, go to the spill file. The error is that of ctx, or of the
// spill file; the lines then still wait in memory.
func (s *Spool) Flush(ctx context.Context) error {
	mark, tries := s.startFlush()
	for {
		s.mu.Lock()
		waiting, changed, err := s.inMemory(mark), s.changed, error(nil)
		if waiting && s.oldestToSpill() != nil {
			if s.spillFailures > tries {
				err = s.spillErr
			}
			s.startSpill()
		}
		s.mu.Unlock()
		switch {
		case !waiting:
			return nil
		case err != nil:
			return fmt.Errorf("spool: flush: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Close ends Run and waits for it, which a write that ignores its context delays; then it moves what is still in
// memory to the spill file, for the next start, and ends all followers. The error says how many lines were lost.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	stop, ran := s.stopRun, s.ran
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-ran
	}
	s.work.Wait()
	s.endFollowers()
	return errors.Join(s.spillRest(), s.disk.close())
}

// Stats tells what waits and what was lost.
func (s *Spool) Stats() Stats {
	spilledBytes := s.disk.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Stats{MemoryBytes: s.memBytes, SpilledBytes: spilledBytes, Dropped: map[string]uint64{},
		FollowersLost: s.missed, LastError: s.spillErr}
	failed := time.Time{}
	for name, st := range s.streams {
		if st.lost > 0 {
			out.Dropped[name] = st.lost
		}
		if st.failures > 0 && st.failedAt.After(failed) {
			out.LastError, failed = st.err, st.failedAt
		}
		for _, c := range st.chunks {
			if c.gone {
				continue
			}
			out.Lines += int64(c.count - c.acked)
			out.Bytes += c.text
			if c.seg != nil {
				out.Spilled += int64(c.count - c.acked)
			}
		}
	}
	return out
}

// stream gives a stream by its name, and makes it at first use.
func (s *Spool) stream(name string) *stream {
	st := s.streams[name]
	if st == nil {
		if len(s.streams) >= streamLimit {
			s.forgetIdlest()
		}
		st = &stream{name: name}
		s.streams[name] = st
	}
	return st
}

func (s *Spool) forgetIdlest() {
	idle := slices.DeleteFunc(slices.Collect(maps.Keys(s.streams)), func(name string) bool { return s.streams[name].pending() })
	if len(idle) > 0 {
		delete(s.streams, slices.MinFunc(idle, func(a, b string) int { return s.streams[a].used.Compare(s.streams[b].used) }))
	}
}

// signal makes Run look again.
func (s *Spool) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// progress wakes those who wait in Flush.
func (s *Spool) progress() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// announcer passes each kind of message on at most once in a while.
type announcer struct {
	log  func(format string, args ...any)
	mu   sync.Mutex
	last map[string]time.Time
}

const announceInterval = 10 * time.Second

// say must not be called with the spool's mutex held: what is logged may be appended.
func (a *announcer) say(kind, format string, args ...any) {
	a.mu.Lock()
	last, seen := a.last[kind]
	quiet := seen && time.Since(last) < announceInterval
	if !quiet {
		if a.last == nil {
			a.last = map[string]time.Time{}
		}
		a.last[kind] = time.Now()
	}
	a.mu.Unlock()
	if !quiet {
		a.log(format, args...)
	}
}
