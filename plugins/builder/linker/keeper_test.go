//go:build linux

package linker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestSpareLinksAndIsReplaced(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{})
	l.Prepare("page", s)
	first := awaitSpare(t, l, "page")
	preloaded, output, err := l.Link(t.Context(), "page", s, "main.a", "out")
	if !preloaded || err != nil || string(output) != "a word of the linker\n" {
		t.Fatal(preloaded, string(output), err)
	}
	if got := read(t, filepath.Join(s.Dir, "out")); got != "main" {
		t.Errorf("output is %q", got)
	}
	if preloaded, _, err := l.Link(t.Context(), "page", s, "main.a", "out"); preloaded || err != nil {
		t.Error("a spare linked twice", err)
	}
	l.Prepare("page", s)
	if second := awaitSpare(t, l, "page"); second == first {
		t.Error("the spare is the one that has linked")
	}
	await(t, "exit of the first spare", func() bool { return gone(first) })
}

func TestFirstLinkTellsHowToPreload(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{})
	s.Main = ""
	l.Prepare("page", s)
	await(t, "the keeper at rest", func() bool { return idle(l) })
	if preloaded, _, err := l.Link(t.Context(), "page", s, "main.a", "out"); preloaded || err != nil {
		t.Fatal(preloaded, err)
	}
	if err := os.Remove(filepath.Join(s.Dir, "main.a")); err != nil { // as the caller may
		t.Fatal(err)
	}
	l.Prepare("page", s)
	awaitSpare(t, l, "page")
}

func TestNothingStartsDuringLinks(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{})
	l.begin()
	l.Prepare("page", s)
	l.nudge()
	if next := l.step(time.Now()); next < time.Second {
		t.Errorf("the keeper looks again in %v", next)
	}
	if idle(l) {
		t.Error("the keeper has worked during a link")
	}
	l.finish()
	awaitSpare(t, l, "page")
}

func TestStockLinkerDecides(t *testing.T) {
	cases := map[string]struct {
		mode   string
		change func(t *testing.T, l *Linker, s *Spec)
	}{
		"spare was killed": {"good", func(t *testing.T, l *Linker, s *Spec) {
			pid := sparePid(l, "page")
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			await(t, "its end", func() bool { return gone(pid) })
		}},
		"archive has changed": {"good", func(t *testing.T, l *Linker, s *Spec) {
			write(t, filepath.Join(s.Dir, "dep.a"), "dip")
		}},
		"archive is another file": {"good", func(t *testing.T, l *Linker, s *Spec) {
			dep := filepath.Join(s.Dir, "dep.a")
			info, err := os.Stat(dep)
			write(t, dep+"2", "dip")
			if err = errors.Join(err, os.Chtimes(dep+"2", info.ModTime(), info.ModTime()), os.Rename(dep+"2", dep)); err != nil {
				t.Fatal(err)
			}
		}},
		"flag is another":          {"good", func(t *testing.T, l *Linker, s *Spec) { s.Flags = []string{"-w"} }},
		"environment is another":   {"good", func(t *testing.T, l *Linker, s *Spec) { s.Env = append(s.Env, "GOAMD64=v3") }},
		"preloaded linker fails":   {"fail", func(t *testing.T, l *Linker, s *Spec) {}},
		"path with a line break":   {"good", func(t *testing.T, l *Linker, s *Spec) { s.Dir = moved(t, s.Dir, "a\nb") }},
		"importcfg says otherwise": {"good", func(t *testing.T, l *Linker, s *Spec) { write(t, s.ImportCfg, read(t, s.ImportCfg)+"modinfo \"x\"\n") }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l, s := fakeLinker(t, c.mode, Options{})
			l.trust(t, s)
			l.Prepare("page", s)
			pid := awaitSpare(t, l, "page")
			c.change(t, l, &s)
			preloaded, _, err := l.Link(t.Context(), "page", s, "main.a", "out")
			if preloaded || err != nil {
				t.Fatal(preloaded, err)
			}
			if got := read(t, filepath.Join(s.Dir, "out")); got != "main" {
				t.Errorf("output is %q", got)
			}
			await(t, "end of the useless spare", func() bool { return gone(pid) })
		})
	}
}

// moved gives a directory of that name with the main package of dir.
func moved(t *testing.T, dir, name string) string {
	write(t, filepath.Join(dir, name, "main.a"), "main")
	return filepath.Join(dir, name)
}

func TestErrorIsThatOfTheStockLinker(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{})
	l.Prepare("page", s)
	awaitSpare(t, l, "page")
	write(t, filepath.Join(s.Dir, "main.a"), "broken")
	preloaded, output, err := l.Link(t.Context(), "page", s, "main.a", "out")
	var exit *exec.ExitError
	if preloaded || !errors.As(err, &exit) || exit.ExitCode() != 2 || string(output) != "undefined: broken\n" {
		t.Error(preloaded, string(output), err)
	}
}

func TestCancelEndsTheSpare(t *testing.T) {
	l, s := fakeLinker(t, "hang", Options{})
	l.trust(t, s)
	l.Prepare("page", s)
	pid := awaitSpare(t, l, "page")
	reason := errors.New("superseded")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		await(t, "the link", func() bool { return sparePid(l, "page") == 0 })
		cancel(reason)
	}()
	if preloaded, _, err := l.Link(ctx, "page", s, "main.a", "out"); preloaded || !errors.Is(err, reason) {
		t.Error(preloaded, err)
	}
	if !gone(pid) {
		t.Error("the process outlives the call")
	}
}

func TestDifferenceIsFoundBeforeItCounts(t *testing.T) {
	var log buffer
	l, s := fakeLinker(t, "differ", Options{Log: logTo(&log)})
	l.Prepare("page", s)
	await(t, "a warning", func() bool { return strings.Contains(log.String(), "[WARN]  the preloaded linker's output differs") })
	l.Prepare("page", s)
	l.Prepare("another", s)
	await(t, "the keeper at rest", func() bool { return idle(l) })
	if preloaded, _, err := l.Link(t.Context(), "page", s, "main.a", "out"); preloaded || err != nil {
		t.Error(preloaded, err)
	}
	if n := strings.Count(log.String(), "WARN"); n != 1 {
		t.Errorf("warned %d times", n)
	}
}

func TestFailuresEndTheAttempts(t *testing.T) {
	var log buffer
	l, s := fakeLinker(t, "fail", Options{Log: logTo(&log)})
	l.trust(t, s)
	for range maxFailures {
		l.Prepare("page", s)
		awaitSpare(t, l, "page")
		if preloaded, _, err := l.Link(t.Context(), "page", s, "main.a", "out"); preloaded || err != nil {
			t.Fatal(preloaded, err)
		}
	}
	l.Prepare("page", s)
	await(t, "a reason", func() bool { return strings.Contains(log.String(), "it failed too often") })
	if sparePid(l, "page") != 0 {
		t.Error("there is a spare")
	}
	if !strings.Contains(log.String(), "[INFO]  a page is linked with the stock linker until it imports other packages: page=page") {
		t.Error(log.String())
	}
}

func TestNumberOfSparesIsBounded(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{Spares: 2})
	l.trust(t, s)
	pids := make(map[string]int)
	for _, key := range []string{"a", "b", "c"} {
		l.Prepare(key, s)
		pids[key] = awaitSpare(t, l, key)
	}
	if sparePid(l, "a") != 0 || !gone(pids["a"]) {
		t.Error("the oldest of three is still there")
	}
	if sparePid(l, "b") != pids["b"] || gone(pids["b"]) || gone(pids["c"]) {
		t.Error("more than the oldest is gone")
	}
}

func TestMemoryOfSparesIsBounded(t *testing.T) {
	var log buffer
	l, s := fakeLinker(t, "good", Options{Memory: 1, Log: logTo(&log)})
	l.trust(t, s)
	l.Prepare("page", s)
	await(t, "a reason", func() bool { return strings.Contains(log.String(), "MiB of memory, of 0 MiB for all") })
	if n := len(l.spares()); n != 0 {
		t.Errorf("%d spares", n)
	}
}

func TestIdleSpareIsEnded(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{Idle: 2 * time.Second})
	l.trust(t, s)
	l.Prepare("page", s)
	pid := awaitSpare(t, l, "page")
	await(t, "its end", func() bool { return gone(pid) })
}

func TestCloseLeavesNothing(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{})
	l.trust(t, s)
	l.Prepare("page", s)
	pid := awaitSpare(t, l, "page")
	l.Close()
	if !gone(pid) {
		t.Error("the spare is still there")
	}
	if left, _ := filepath.Glob(filepath.Join(l.o.Dir, "run-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	l.Prepare("page", s)
	if preloaded, _, err := l.Link(t.Context(), "page", s, "main.a", "out"); preloaded || err != nil {
		t.Error(preloaded, err)
	}
	l.Close()
}

func TestLinkAtTheSameTime(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{})
	l.trust(t, s)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 5 {
				l.Prepare("page", s)
				out := "out" + string(rune('a'+i))
				if _, _, err := l.Link(t.Context(), "page", s, "main.a", out); err != nil {
					t.Error(err)
				} else if got := read(t, filepath.Join(s.Dir, out)); got != "main" {
					t.Errorf("output is %q", got)
				}
			}
		})
	}
	wg.Wait()
}

func TestRunDirectoriesOfTheDeadAreRemoved(t *testing.T) {
	l, s := fakeLinker(t, "good", Options{})
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(l.o.Dir, "run-"+strconv.Itoa(dead.Process.Pid)+"-1")
	other := filepath.Join(l.o.Dir, "run-"+strconv.Itoa(os.Getppid())+"-1")
	write(t, filepath.Join(old, "x"), "")
	write(t, filepath.Join(other, "x"), "")
	if _, _, err := l.Link(t.Context(), "page", s, "main.a", "out"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Error("files of a process that is gone are still there")
	}
	if _, err := os.Stat(other); err != nil {
		t.Error("files of another process are gone")
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*buffer)(nil)

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
