package resolver

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
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

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestUnreadable(t *testing.T) {
	root := tree(t, map[string]string{"a/main.go": main, "b/x/main.go": main, "b/y/src/main.go": main, "c/src/main.go": main, "d/main.go": main})
	for dir := root; dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		chmod(t, dir, 0o755)
	}
	r := start(t, NewFS(), asNobody)
	want := []string{"/a a a", "/b/x b/x b/x", "/b/y b/y b/y/src", "/c c c/src", "/d d d"}
	if got := r.routes(root); !slices.Equal(got, want) {
		t.Fatalf("routes: %q", got)
	}

	// routes outlast it, and are gone when the directory is
	for _, path := range []string{"/b", "/c/src", "/d/main.go"} {
		chmod(t, root+path, 0)
	}
	table := r.resolve(root)
	if got := lines(root, table); !slices.Equal(got, want) {
		t.Errorf("unreadable: %q", got)
	}
	diagnosed(t, root, table, []string{"error: read directory ROOT/b: permission denied", "error: read directory ROOT/c/src: permission denied"})
	if got := r.routes(root); !slices.Equal(got, want) {
		t.Errorf("unreadable for the second time: %q", got)
	}
	if err := os.RemoveAll(root + "/b"); err != nil {
		t.Fatal(err)
	}
	if got := r.routes(root); !slices.Equal(got, []string{"/a a a", "/c c c/src", "/d d d"}) {
		t.Errorf("removed: %q", got)
	}

	chmod(t, root, 0)
	table = r.resolve(root)
	if got := lines(root, table); len(got) != 3 || table.AllowEmpty {
		t.Errorf("unreadable root: %q, allow empty %v", got, table.AllowEmpty)
	}
	diagnosed(t, root, table, []string{"error: pages directory ROOT cannot be read: permission denied"})
	chmod(t, root, 0o755)
	chmod(t, root+"/c/src", 0o755)
	if got := r.routes(root); !slices.Equal(got, []string{"/a a a", "/c c c/src", "/d d d"}) {
		t.Errorf("readable again: %q", got)
	}
}
