//go:build !linux

package watcher

import "io/fs"

// device takes all directories for one local file system: network file systems are for mode: poll here.
func device(string, fs.FileInfo) (number uint64, remote string) { return 0, "" }
