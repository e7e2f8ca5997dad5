package builder

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

func TestCgoOnlyWhereItIsNeeded(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no C compiler: ", err)
	}
	page := "package main\n\n// int answer(void) { return ANSWER; }\nimport \"C\"\n\nfunc main() { println(C.answer()) }\n"
	variant := "//go:build %s\n\npackage main\n\nconst mode = %q\n"
	s := newSite(t, "pages/c/main.go", strings.Replace(page, "ANSWER", "42", 1),
		"pages/net/main.go", program("mode, net.FlagUp != 0", `"net"`),
		"pages/net/with.go", fmt.Sprintf(variant, "cgo", "with cgo"), "pages/net/without.go", fmt.Sprintf(variant, "!cgo", "without cgo"))
	first, out := s.good("c")
	if out != "42" {
		t.Errorf("cgo page prints %q", out)
	}
	if !s.matches(first, "pages/c/x.cpp") || !s.matches(first, "pages/c/x.h") {
		t.Errorf("globs %q do not match C files", first.Globs)
	}
	if _, out := s.good("net"); out != "without cgo true" {
		t.Errorf("page that only imports net prints %q", out)
	}
	s.write("pages/net/without.go", fmt.Sprintf(variant, "!cgo", "still without"))
	if _, out := s.good("net"); out != "still without true" {
		t.Errorf("file for builds without cgo edited: prints %q", out)
	}
	s.write("pages/c/main.go", "package main\n\n// int answer(void) { return nothing; }\nimport \"C\"\n\nfunc main() { println(C.answer()) }\n")
	_, found := s.bad("c")
	if d := found[0]; d.File != s.path("pages/c/main.go") || d.Line != 3 || !strings.Contains(d.Message, "nothing") {
		t.Errorf("diagnostics of the C compiler: %v", found)
	}
	s.configure(func(c *GoConfig) { c.Cgo = "on" })
	if _, out := s.good("net"); out != "with cgo true" {
		t.Errorf("cgo on: prints %q", out)
	}
	s.configure(func(c *GoConfig) { c.Cgo = "off" })
	if _, found := s.bad("c"); !strings.Contains(found[0].Message, "build constraints exclude all Go files") {
		t.Errorf("cgo off: %v", found)
	}
}

func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	if err := syscall.Mount("tmpfs", s.out, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("mount a small tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(s.out, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	first, _ := s.good("a")
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.out, &fs); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(s.out, "filler")
	if err := os.WriteFile(filler, make([]byte, int(fs.Bavail)*int(fs.Bsize)-200_000), 0o600); err != nil {
		t.Fatal(err)
	}
	s.write("pages/a/main.go", program(`"two"`))
	_, found := s.bad("a")
	if m := found[0].Message; !strings.Contains(m, "no space left on device") || !strings.Contains(m, s.out) {
		t.Errorf("diagnostics %v", found)
	}
	if _, err := os.Stat(first.Artifact); err != nil {
		t.Errorf("old release: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, out := s.good("a"); out != "two" {
		t.Errorf("with space again: prints %q", out)
	}
}

func TestFullGoCache(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	s := newSite(t, "pages/a/main.go", program(`"one"`))
	cache := t.TempDir()
	if err := syscall.Mount("tmpfs", cache, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("mount a small tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(cache, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.wrapper(`export GOCACHE=` + cache + `; exec "$go" "$@"`)
	_, found := s.bad("a")
	if m := found[0].Message; !strings.Contains(m, "no space left on device") || !strings.Contains(m, cache) {
		t.Errorf("diagnostics %v", found)
	}
}

func TestEndOfContextEndsTheCompiler(t *testing.T) {
	var page strings.Builder
	page.WriteString("package main\n\nfunc main() { println(f0(1)) }\n")
	for i := range 8000 {
		fmt.Fprintf(&page, "func f%d(x int) int { y := map[int]string{x: \"%d\"}; for k := range y { x += k * %d }; return x }\n", i, i, i)
	}
	s := newSite(t, "pages/a/main.go", page.String())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.g.Build(ctx, s.job("a"), func(sdk.Event) {})
		done <- err
	}()
	eventually(t, "the compiler runs", func() bool { return strings.Contains(s.children(), "compile") })
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("error %v", err)
	}
	if left := s.children(); left != "" {
		t.Errorf("still running: %s", left)
	}
	if left, _ := os.ReadDir(s.out); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// children names the processes whose temporary files are in the site's out directory.
func (s *site) children() string {
	var names []string
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range found {
		env, err := os.ReadFile(path)
		if err == nil && bytes.Contains(env, []byte("TMPDIR="+s.out)) {
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "comm"))
			names = append(names, strings.TrimSpace(string(name)))
		}
	}
	return strings.Join(names, " ")
}
