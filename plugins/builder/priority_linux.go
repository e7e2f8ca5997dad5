package builder

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// buildSlice is the shortest time slice there is, see sched(7) on SCHED_OTHER: a thread that wakes up to serve a request
// waits for the end of the slice of the one that runs, which is 3 ms otherwise. Linux before 6.12 takes no notice.
const buildSlice = 100 * time.Microsecond

// giveWay has this process, and all that it starts from now on, leave the CPUs to the server and its workers where they
// want them: builds are long, and requests short. What the system refuses is left as it is.
func giveWay() {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: buildNice, Runtime: uint64(buildSlice)}
	seen := map[int]bool{}
	for more := true; more; { // a thread that starts meanwhile has what its creator had
		more = false
		threads, _ := os.ReadDir("/proc/self/task")
		for _, t := range threads {
			if id, err := strconv.Atoi(t.Name()); err == nil && !seen[id] {
				seen[id], more = true, true
				if now, err := unix.SchedGetAttr(id, 0); err == nil && now.Policy == unix.SCHED_NORMAL && now.Nice <= buildNice {
					if unix.SchedSetAttr(id, &attr, 0) != nil { // as a sandbox may have it
						_ = unix.Setpriority(unix.PRIO_PROCESS, id, buildNice)
					}
				}
			}
		}
	}
}
