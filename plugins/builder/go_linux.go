package builder

import (
	"io/fs"
	"syscall"
	"time"
)

// inode gives the number of a file and the time of its last change, of any kind: no program can set that one back.
func inode(info fs.FileInfo) (uint64, time.Time) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino, time.Unix(s.Ctim.Unix())
	}
	return 0, info.ModTime()
}

// full tells whether the file system of dir has next to no space left.
func full(dir string) bool {
	var s syscall.Statfs_t
	return syscall.Statfs(dir, &s) == nil && s.Bavail*uint64(s.Bsize) < 128<<10
}
