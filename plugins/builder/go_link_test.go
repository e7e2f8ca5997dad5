package builder

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestSavesAreLinkedByTheLinkerThatWaits(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a preloaded linker")
	}
	s, preloaded := newLaneSite(t, "pages/a/main.go", program(`"0"`)), new(counter)
	s.g.SetLogger(hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: preloaded}))
	s.configure(func(c *GoConfig) { c.Linker = "auto" })
	s.lane("a")
	for i := 1; preloaded.n.Load() == 0; i++ { // the first finds out how to preload; building the linker may take long
		if i > 100 {
			t.Fatal("none of 100 saves was linked by a preloaded linker")
		}
		s.write("pages/a/main.go", program(fmt.Sprintf("%q", fmt.Sprint(i))))
		if out, fast := s.lane("a"); out != fmt.Sprint(i) || !fast {
			t.Fatalf("save %d: prints %q, fast lane %v", i, out, fast)
		}
		s.linkers()
	}
	if waits := running(s.out); len(waits) == 0 {
		t.Error("no linker waits for the next save")
	}
	if err := s.g.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := running(s.out); len(left) > 0 {
		t.Errorf("after the end these run on: %q", left)
	}
}

// running lists the command lines of processes that name a directory.
func running(dir string) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		if text, _ := os.ReadFile(path); strings.Contains(string(text), dir) { // one that has ended has none
			found = append(found, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}
