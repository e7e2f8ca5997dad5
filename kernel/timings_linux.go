package kernel

import (
	"io/fs"
	"syscall"
	"time"
)

// inodeChanged is when a file was written or renamed. A rename, with which many editors save, leaves the time of the
// last writing as it was.
func inodeChanged(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix())
	}
	return info.ModTime()
}
