package watcher

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// asNobody runs f on a thread for which file permissions count, also when the tests run as root. The thread ends
// with it.
func asNobody(f func()) {
	runtime.LockOSThread()
	if os.Geteuid() == 0 {
		_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
	}
	f()
}

// open lets everybody into the directories above a temporary one.
func open(t *testing.T, dir string) {
	t.Helper()
	for ; dir != filepath.Dir(dir) && dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
}

func TestUnreadable(t *testing.T) {
	for _, mode := range []string{"auto", "poll"} {
		t.Run(mode, func(t *testing.T) {
			root := site(t)
			open(t, root)
			var log strings.Builder
			t.Run("run", func(t *testing.T) {
				w := quick()
				w.config.Mode = mode
				w.SetLogger(hclog.New(&hclog.LoggerOptions{Output: &log}))
				r := start(t, w, asNobody)
				must(t, os.Chmod(root+"/index/main.go", 0))
				must(t, os.Chmod(root+"/api", 0))
				known := disk(t, root) // before
				r.known = known
				if c := r.send(sdk.WatchSet{Roots: []string{root}}); len(c.Changes) != 0 {
					t.Errorf("unreadable is not removed: %+v", c.Changes)
				}
				r.known = map[string]string{}
				r.quiet(root + "/index")
				must(t, os.Chmod(root+"/index/main.go", 0o644))
				must(t, os.Chmod(root+"/api", 0o755))
				write(t, root+"/index/main.go", "package main // readable")
				write(t, root+"/api/users/main.go", "package main // readable")
				r.known = known
				delete(r.known, root+"/index/marker0.go")
				marker, err := sdk.FileDigest(root + "/index/marker0.go")
				must(t, err)
				r.known[root+"/index/marker0.go"] = marker
				r.settle(root)
			})
			if n := strings.Count(log.String(), "[WARN]"); n != 2 {
				t.Errorf("%d warnings:\n%s", n, &log)
			}
			for _, path := range []string{root + "/index/main.go", root + "/api"} {
				if n := strings.Count(log.String(), "path="+path+" "); n != 1 {
					t.Errorf("%d warnings about %s:\n%s", n, path, &log)
				}
			}
		})
	}
}
