package proxy

import "golang.org/x/sys/unix"

// bytesPending returns how much a socket has received that was not read yet.
func bytesPending(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }
