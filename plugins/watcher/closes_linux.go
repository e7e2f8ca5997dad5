package watcher

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// closes hears when files in the directories that it is given are complete: who wrote them has closed them, or they
// were moved to their place as they are. That is an event of inotify(7) which fsnotify keeps to itself, so it has an
// instance of its own. It only makes things quicker: nothing depends on its events. All methods are for one goroutine.
type closes struct {
	fd    int
	file  *os.File // of fd, for reads that Close ends
	hints *hints
	done  sync.WaitGroup

	mu    sync.Mutex
	paths map[int32]string // watch -> real path of its directory
	ids   map[string]int32 // and back
}

// openCloses gives nil when there is no further instance of inotify to be had.
func openCloses(h *hints) *closes {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	c := &closes{fd: fd, file: os.NewFile(uintptr(fd), "inotify"), hints: h, paths: map[int32]string{}, ids: map[string]int32{}}
	c.done.Go(c.pump)
	return c
}

// add tells whether the directory is listened to from now on.
func (c *closes) add(dir string) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := unix.InotifyAddWatch(c.fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		return false
	}
	c.paths[int32(id)], c.ids[dir] = dir, int32(id)
	return true
}

// remove ends listening, unless the directory has got another path meanwhile.
func (c *closes) remove(dir string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.ids[dir]
	delete(c.ids, dir)
	if ok && c.paths[id] == dir {
		delete(c.paths, id)
		_, _ = unix.InotifyRmWatch(c.fd, uint32(id)) // a directory that is gone took its watch along
	}
}

func (c *closes) close() {
	if c == nil {
		return
	}
	c.file.Close()
	c.done.Wait()
}

// pump ends when the file is closed.
func (c *closes) pump() {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.file.Read(buf)
		if err != nil {
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			rest = c.event(rest)
		}
	}
}

// event takes the first of some events: watch, mask, cookie, length of the name, name. It gives the others.
func (c *closes) event(b []byte) (rest []byte) {
	id, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
	size := int(binary.NativeEndian.Uint32(b[12:]))
	name, rest := b[unix.SizeofInotifyEvent:][:size], b[unix.SizeofInotifyEvent+size:]
	c.mu.Lock()
	dir, ok := c.paths[id]
	c.mu.Unlock()
	if ok && len(name) > 0 && mask&unix.IN_ISDIR == 0 {
		c.hints.complete(filepath.Join(dir, string(bytes.TrimRight(name, "\x00"))))
	}
	return rest
}
