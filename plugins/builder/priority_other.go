//go:build !linux

package builder

import "syscall"

// giveWay has this process, and all that it starts from now on, leave the CPUs to the server and its workers where they
// want them. What the system refuses is left as it is.
func giveWay() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, buildNice) }
