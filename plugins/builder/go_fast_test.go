package builder

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestDrainEndsWhatIsDoneInTheBackground(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program("1"))
	dir := s.wrapper(`case "$*" in *-export*) sleep 1000 & echo $! >"$dir/part" && mv "$dir/part" "$dir/pid"; wait ;; esac
exec "$go" "$@"`)
	if r, _ := s.build("a"); !r.OK {
		t.Fatal("build failed")
	}
	eventually(t, "the lane is being prepared", func() bool { return isFile(filepath.Join(dir, "pid")) })
	s.drain()
	s.checkEnded(filepath.Join(dir, "pid"))
	if left, _ := filepath.Glob(filepath.Join(s.out, ".go-back-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCheckTurnsOffALaneThatCompilesSomethingElse(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program(`"0"`))
	var log bytes.Buffer
	s.g.SetLogger(hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: &log}))
	s.lane("a")
	s.compiler("a", `exec "$tool" -N "$@"`)
	s.follow("a", edit{"pages/a/main.go", program(`"1"`), "1", true})
	f := &s.source("a").fast
	if !f.off || !strings.Contains(log.String(), "the fast lane compiles the page other than the go command does") || !strings.Contains(log.String(), "packages=site/pages/a") {
		t.Errorf("off %v, log %q", f.off, log.String())
	}
	if r, ev := s.build("a"); r.Cached || ev.fast() {
		t.Errorf("release of the wrong compiler is kept: cached %v, steps %q", r.Cached, ev.steps)
	}
	s.follow("a", edit{"pages/a/main.go", program(`"2"`), "2", false})
}

func TestCheckThatFindsNothing(t *testing.T) {
	s := newLaneSite(t, "pages/a/main.go", program("shared.X", `"site/shared"`), "shared/x.go", "package shared\n\nconst X = 1\n")
	dir := s.wrapper(`echo "$1" >>"$dir/calls"; exec "$go" "$@"`)
	s.lane("a")
	s.calls(dir)
	s.follow("a", edit{"shared/x.go", "package shared\n\nconst X = 2\n", "2", true})
	if got := s.calls(dir); !strings.Contains(got, "list") {
		t.Errorf("ran go %q: the first build on the lane is not checked", got)
	}
	f := &s.source("a").fast
	if f.off || f.checked.IsZero() {
		t.Errorf("off %v, checked %v", f.off, f.checked)
	}
	s.follow("a", edit{"shared/x.go", "package shared\n\nconst X = 3\n", "3", true})
	if got := s.calls(dir); strings.Contains(got, "list") {
		t.Errorf("ran go %q: a check so soon after another", got)
	}
}

func TestStoreIsSwept(t *testing.T) {
	s := newStore(t.TempDir(), nil)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"used", "unused"} {
		if err := os.WriteFile(s.path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.hold("a", map[string]bool{"used": true})
	s.sweep(time.Now().Add(sweepEvery + time.Second))
	if !s.has("unused") {
		t.Error("a file that another process may have made just now is removed")
	}
	s.sweep(time.Now().Add(2*sweepEvery + storeKeep))
	if !s.has("used") || s.has("unused") {
		t.Errorf("used %v, unused %v", s.has("used"), s.has("unused"))
	}
}
