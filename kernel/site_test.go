package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRuntimeBaseIsShort: the paths of sockets have a limit, whatever the environment says.
func TestRuntimeBaseIsShort(t *testing.T) {
	short, long := t.TempDir(), filepath.Join(t.TempDir(), strings.Repeat("x", 40))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(short, fmt.Sprintf("/tmp/tq%d", os.Getpid())); err != nil {
		t.Fatal(err)
	}
	short = fmt.Sprintf("/tmp/tq%d", os.Getpid())
	defer os.Remove(short)
	own := fmt.Sprintf("/tqserver-%d", os.Getuid())
	for _, c := range []struct{ xdg, tmp, want string }{
		{short, long, short + "/tqserver"},
		{"", short, short + own},
		{long, short, short + own},
		{filepath.Join(short, "missing"), short, short + own},
		{long, long, "/tmp" + own},
	} {
		t.Setenv("XDG_RUNTIME_DIR", c.xdg)
		t.Setenv("TMPDIR", c.tmp)
		if got := runtimeBase(); got != c.want {
			t.Errorf("XDG_RUNTIME_DIR=%s TMPDIR=%s: %s, want %s", c.xdg, c.tmp, got, c.want)
		}
	}
}
