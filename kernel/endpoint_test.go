package kernel

import (
	"os"
	"path/filepath"
	"testing"
)

// No path is given out twice, and the directory is private.
func TestNewSocket(t *testing.T) {
	s := &site{run: t.TempDir()}
	seen := map[string]bool{}
	for range 100 {
		path, err := s.newSocket()
		if err != nil || seen[path] || filepath.Dir(path) != filepath.Join(s.run, "w") {
			t.Fatalf("got %s, %v after %d others", path, err, len(seen))
		}
		seen[path] = true
	}
	if info, err := os.Stat(filepath.Join(s.run, "w")); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("the directory is %v, %v", info.Mode(), err)
	}
	s.run = filepath.Join(s.run, "missing")
	if _, err := s.newSocket(); err == nil {
		t.Error("a socket in a directory that is missing")
	}
}
