package spool

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

var errTooLarge = errors.New("larger than the spill limit")

// disk is the spill files: segments of frames, the oldest of which goes when there is no more room. One goroutine at
// a time may put; all else is safe for concurrent use.
type disk struct {
	dir   string
	limit int64 // bytes of all segments
	lock  *os.File
	left  []leftover // found when opened
	// damage is the first that was found when opened, or nil.
	damage error

	mu       sync.Mutex
	segments []*segment // oldest first
	active   *segment   // the last, while it takes frames
	number   uint64     // of the newest
	total    int64
}

// segment is one spill file. chunks belongs to the spool's mutex, the rest to the disk's.
type segment struct {
	path    string
	file    *os.File
	size    int64
	waiting int // frames not done
	removed bool
	chunks  []*chunk
}

// leftover is a frame of an earlier process.
type leftover struct {
	number       uint64 // of its chunk
	stream       string
	header       *Header // of its last line
	seg          *segment
	off          int64
	size         int
	count, acked int
	text         int64
}

func openDisk(dir string, limit int64) (*disk, error) {
	d := &disk{dir: dir, limit: limit}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	d.lock = lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s, is another tqserver using it?: %w", dir, err)
	}
	if err := d.scan(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// scan finds what waits in the segments that are there, in the order of its chunks. The names sort by age.
func (d *disk) scan() error {
	paths, err := filepath.Glob(filepath.Join(quoteGlob(d.dir), "spill-*.log"))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, path := range paths {
		if _, err := fmt.Sscanf(filepath.Base(path), "spill-%016x.log", &d.number); err != nil {
			continue
		}
		if err := d.scanSegment(path); err != nil {
			return err
		}
	}
	slices.SortStableFunc(d.left, func(a, b leftover) int { return cmp.Compare(a.number, b.number) })
	return nil
}

func (d *disk) scanSegment(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	seg := &segment{path: path, file: file}
	d.segments = append(d.segments, seg)
	info, err := file.Stat()
	if err != nil {
		return err
	}
	seg.size = info.Size()
	d.total += seg.size
	for off := int64(0); off < seg.size; {
		left, err := readLeftover(file, off, seg.size)
		if err != nil {
			d.damage = errors.Join(d.damage, fmt.Errorf("%s at byte %d: %w", path, off, err))
			break
		}
		off += int64(left.size)
		if left.acked < left.count {
			left.seg = seg
			d.left = append(d.left, left)
			seg.waiting++
		}
	}
	if seg.waiting == 0 {
		d.remove(seg)
	}
	return nil
}

// put appends a frame. It says which segments had to go for it.
func (d *disk) put(frame []byte) (seg *segment, off int64, size int, dropped []*segment, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	need := int64(len(frame))
	if need > d.limit {
		return nil, 0, 0, nil, errTooLarge
	}
	for d.total+need > d.limit && len(d.segments) > 0 {
		dropped = append(dropped, d.segments[0])
		d.remove(d.segments[0])
	}
	if d.active == nil || d.active.size+need > d.segmentSize() {
		if err := d.create(); err != nil {
			return nil, 0, 0, dropped, err
		}
	}
	seg, off = d.active, d.active.size
	if _, err := seg.file.WriteAt(frame, off); err != nil {
		_ = seg.file.Truncate(off) // else the next frame overwrites it
		d.removeIdle(seg)
		return nil, 0, 0, dropped, err
	}
	seg.size += need
	d.total += need
	seg.waiting++
	return seg, off, len(frame), dropped, nil
}

// segmentSize is a part of the limit, so that little has to go at once, and few files are open.
func (d *disk) segmentSize() int64 { return max(d.limit/32, 4<<10) }

func (d *disk) create() error {
	path := filepath.Join(d.dir, fmt.Sprintf("spill-%016x.log", d.number+1))
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	d.number++
	previous := d.active
	d.active = &segment{path: path, file: file}
	d.segments = append(d.segments, d.active)
	if previous != nil {
		d.removeIdle(previous)
	}
	return nil
}

// read gives the lines of a chunk.
func (d *disk) read(c *chunk) ([]record, error) {
	frame := make([]byte, c.size)
	if _, err := c.seg.file.ReadAt(frame, c.off); err != nil {
		return nil, err
	}
	_, _, recs, err := decode(frame)
	if err == nil && len(recs) != c.count {
		err = errDamaged
	}
	return recs, err
}

// mark notes that the first lines of a frame are acknowledged, so that a next process does not send them again. If
// that cannot be written it does, which is allowed.
func (d *disk) mark(seg *segment, off int64, acked int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !seg.removed {
		_, _ = seg.file.WriteAt(binary.LittleEndian.AppendUint32(nil, uint32(acked)), off+ackedAt)
	}
}

// done counts a frame of which nothing waits any more. With the last one its segment goes.
func (d *disk) done(seg *segment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seg.waiting--
	d.removeIdle(seg)
}

func (d *disk) removeIdle(seg *segment) {
	if seg.waiting == 0 {
		d.remove(seg)
	}
}

func (d *disk) remove(seg *segment) {
	if seg.removed {
		return
	}
	seg.removed = true
	_ = os.Remove(seg.path) // else the next process finds it, with all of it marked or damaged
	_ = seg.file.Close()
	d.total -= seg.size
	d.segments = slices.DeleteFunc(d.segments, func(s *segment) bool { return s == seg })
	if d.active == seg {
		d.active = nil
	}
}

func (d *disk) size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}

func (d *disk) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, seg := range d.segments {
		errs = append(errs, seg.file.Sync(), seg.file.Close())
	}
	d.segments, d.active = nil, nil
	return errors.Join(append(errs, d.lock.Close())...)
}

func quoteGlob(path string) string {
	var quoted []rune
	for _, r := range path {
		if r == '*' || r == '?' || r == '[' || r == '\\' {
			quoted = append(quoted, '\\')
		}
		quoted = append(quoted, r)
	}
	return string(quoted)
}
