package rotator

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a tmpfs of the given size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a small tmpfs needs root: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func TestFullDiskAndRecoveryLoseAndRepeatNothing(t *testing.T) {
	dir, f := smallDisk(t, "64k"), newTestFile(t)
	if err := os.WriteFile(dir+"/filler", make([]byte, 30<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var texts []string
	var want strings.Builder
	for i := range 800 {
		texts = append(texts, fmt.Sprintf("%04d %s", i, strings.Repeat("x", 50)))
		want.WriteString(texts[i] + "\n")
	}
	b := batch(dir+"/s.log", time.Now(), texts...)
	for range 3 {
		err := f.Write(t.Context(), b)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir+"/s.log: no space left on device (free space") {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	part := content(t, dir+"/s.log")
	if part == "" || !strings.HasSuffix(part, "\n") || !strings.HasPrefix(want.String(), part) {
		t.Errorf("on the full disk are %d bytes, ending in %q", len(part), part[max(0, len(part)-10):])
	}
	if err := os.Remove(dir + "/filler"); err != nil {
		t.Fatal(err)
	}
	write(t, f, b)
	if got := content(t, dir+"/s.log"); got != want.String() {
		t.Errorf("after recovery %d bytes, want %d", len(got), want.Len())
	}
}

func TestCompressingOnAFullDiskKeepsTheFile(t *testing.T) {
	dir, f := smallDisk(t, "64k"), newTestFile(t)
	// random enough that gzip does not make it small
	text := make([]byte, 50<<10)
	for i, n := 0, uint32(1); i < len(text); i++ {
		n = n*1664525 + 1013904223
		text[i] = byte(n >> 24)
	}
	if err := os.WriteFile(dir+"/s.1.log", text, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, f, batch(dir+"/s.log", time.Now(), "x"))
	settle(t, f)
	wantTree(t, dir, map[string]string{"s.1.log": string(text), "s.log": "x\n"})
}

// A file takes a part of a line when the disk is full: the rest comes first when there is room again.
func TestStdoutThatIsAFileOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "64k")
	f, err := os.OpenFile(dir+"/out", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(dir+"/filler", make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	s, b := newTestStdout(t, f), numbered("a", 4)
	for len(b.Lines) < 24 {
		b.Lines = append(b.Lines, b.Lines[1])
	}
	for range 2 {
		if err := s.Write(t.Context(), b); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	if part := content(t, dir+"/out"); part == "" || strings.HasSuffix(part, "\n") {
		t.Errorf("on the full disk are %d bytes: no line was torn, so nothing is tested", len(part))
	}
	if err := os.Remove(dir + "/filler"); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if n := len(records(t, []byte(content(t, dir+"/out")))); n != len(b.Lines) {
		t.Errorf("%d lines after recovery, want %d", n, len(b.Lines))
	}
}
