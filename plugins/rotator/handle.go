package rotator

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"time"
)

// handle is an open log file.
type handle struct {
	family    *family
	day       string
	path      string
	file      *os.File
	info      os.FileInfo // when it was opened
	size      int64       // when it was last looked at
	torn      bool        // it ends within a line
	used      time.Time
	rollAfter time.Time
}

// handle gives the open file of a day. One that was moved or removed meanwhile, as logrotate does, is made anew.
func (f *File) handle(fam *family, day string) (*handle, error) {
	if !fam.dated {
		day = ""
	}
	path := fam.path(day)
	h := f.open[path]
	if h != nil && !h.current() {
		f.close(h)
		h = nil
	}
	if h == nil {
		if len(f.open) >= openLimit {
			f.closeOldest()
		}
		var err error
		if h, err = openHandle(path); err != nil {
			return nil, err
		}
		h.family, h.day = fam, day
		f.open[path] = h
	}
	h.used = time.Now()
	return h, nil
}

// openHandle opens a regular file only: not a symbolic link, which somebody who may write to the directory could have
// put there, and not a pipe, which would block.
func openHandle(path string) (*handle, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, err
	}
	h := &handle{path: path, file: file}
	if h.info, err = file.Stat(); err == nil && !h.info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: not a regular file", path)
	}
	if err == nil {
		h.size = h.info.Size()
		err = h.checkTail()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return h, nil
}

// checkTail finds out whether a crash left a part of a line at the end.
func (h *handle) checkTail() error {
	if h.size == 0 {
		return nil
	}
	last := make([]byte, 1)
	if _, err := h.file.ReadAt(last, h.size-1); err != nil {
		return err
	}
	h.torn = last[0] != '\n'
	return nil
}

func (h *handle) current() bool {
	info, err := os.Lstat(h.path)
	if err != nil || !os.SameFile(info, h.info) {
		return false
	}
	h.size = info.Size()
	return true
}

// write appends lines, which end at the given offsets, and tells how many are in the file. A part of a line is taken
// back.
func (h *handle) write(lines []byte, ends []int) (int, error) {
	if h.torn {
		n, err := h.file.Write([]byte{'\n'})
		h.size += int64(n)
		if err != nil {
			return 0, err
		}
		h.torn = false
	}
	n, err := h.file.Write(lines)
	if err == nil {
		h.size += int64(n)
		return len(ends), nil
	}
	whole := sort.SearchInts(ends, n+1)
	kept := 0
	if whole > 0 {
		kept = ends[whole-1]
	}
	if n > kept {
		_ = h.file.Truncate(h.size + int64(kept)) // else checkTail sees to it
	}
	return whole, err
}

// close gives a file back. One of a day that is over is then ready to be rolled.
func (f *File) close(h *handle) {
	if err := h.file.Close(); err != nil {
		f.log.Warn("close log file", "file", h.path, "error", err)
	}
	delete(f.open, h.path)
	if h.day != "" && h.day < today() {
		f.tidy(h.family)
	}
}

func (f *File) closeOldest() {
	var oldest *handle
	for _, h := range f.open {
		if oldest == nil || h.used.Before(oldest.used) {
			oldest = h
		}
	}
	f.close(oldest)
}

// roll gives a file its number and makes way for a new one. If that cannot be done, it goes on growing for a while:
// lines come before limits.
func (f *File) roll(h *handle) bool {
	if err := h.family.rename(h.day); err != nil {
		f.log.Warn("roll log file; it grows on for a minute", "file", h.path, "error", err)
		h.rollAfter = time.Now().Add(time.Minute)
		return false
	}
	f.close(h)
	f.tidy(h.family)
	return true
}

// keepHouse closes idle files, and rolls and removes what midnight makes old, until Drain or Close.
func (f *File) keepHouse() {
	tick := time.NewTicker(idleTime)
	defer tick.Stop()
	for day := today(); ; {
		select {
		case <-f.drained:
			return
		case <-tick.C:
		}
		f.mu.Lock()
		for _, h := range f.open {
			if time.Since(h.used) >= idleTime {
				f.close(h)
			}
		}
		if now := today(); now != day {
			day = now
			for _, fam := range f.families {
				f.tidy(fam)
			}
		}
		f.mu.Unlock()
	}
}

func today() string { return time.Now().Format(time.DateOnly) }

// rename gives the file of a day the next free number.
func (fam *family) rename(day string) error {
	files, err := fam.list()
	if err != nil {
		return err
	}
	n := 0
	for _, file := range files {
		if file.day == day {
			n = max(n, file.number)
		}
	}
	for n++; exists(fam.rolled(day, n)) || exists(fam.rolled(day, n)+".gz"); n++ { // what list leaves out, a link or a directory
	}
	return os.Rename(fam.path(day), fam.rolled(day, n))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
