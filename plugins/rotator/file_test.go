package rotator

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/tqserver/tqserver/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTestFile(t *testing.T) *File {
	t.Helper()
	f := NewFile()
	f.SetLogger(hclog.New(&hclog.LoggerOptions{Output: testWriter{t}, Level: hclog.Debug}))
	t.Cleanup(func() { f.Close() })
	return f
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

var seq uint64

// batch is of the server, in the kernel's own format.
func batch(file string, at time.Time, texts ...string) sdk.Batch {
	seq++
	b := sdk.Batch{Seq: seq, Stream: "server", File: file}
	for _, text := range texts {
		b.Lines = append(b.Lines, sdk.Line{Time: at, Source: sdk.Kernel, Text: []byte(text)})
	}
	return b
}

func write(t *testing.T, f *File, b sdk.Batch) {
	t.Helper()
	if err := f.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// settle waits for what goes on in the background.
func settle(t *testing.T, f *File) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := f.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// tree reads all files below a directory, unzipped.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		files[name] = content(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(path, ".gz") {
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(r); err != nil {
			t.Fatal(path, err)
		}
	}
	return string(b)
}

func wantTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	if got := tree(t, dir); !maps.Equal(got, want) {
		t.Errorf("files are\n%q\nwant\n%q", got, want)
	}
}

func TestBatchThatSpansMidnightIsSplit(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	midnight := time.Now().AddDate(0, 0, 5)
	midnight = time.Date(midnight.Year(), midnight.Month(), midnight.Day(), 0, 0, 0, 0, time.Local)
	b := batch(dir+"/s_{date}.log", midnight.Add(-time.Nanosecond), "before", "late", "after")
	b.Lines[2].Time = midnight
	write(t, f, b)
	late := batch(b.File, midnight.Add(-time.Second), "later")
	write(t, f, late)
	wantTree(t, dir, map[string]string{
		"s_" + midnight.AddDate(0, 0, -1).Format(time.DateOnly) + ".log": "before\nlate\nlater\n",
		"s_" + midnight.Format(time.DateOnly) + ".log":                   "after\n",
	})
}

func TestDayThatIsOverIsRolledAndCompressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, f := t.TempDir(), newTestFile(t)
		first := time.Now()
		write(t, f, batch(dir+"/s_{date}.log", first, "one"))
		time.Sleep(2 * idleTime)
		synctest.Wait()
		if len(f.open) != 0 {
			t.Error("an idle file stays open")
		}
		base := "s_" + first.Format(time.DateOnly)
		wantTree(t, dir, map[string]string{base + ".log": "one\n"})
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		settle(t, f)
		wantTree(t, dir, map[string]string{base + ".1.log.gz": "one\n"})
	})
}

func TestDayBeforeTheStartIsRolled(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	day := time.Now().AddDate(0, 0, -3)
	base := "s_" + day.Format(time.DateOnly)
	for name, text := range map[string]string{base + ".log": "left\n", "s_x.log": "other\n", base + ".log.gz": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(filepath.Join(dir, base+".log.gz"))
	now := time.Now()
	write(t, f, batch(dir+"/s_{date}.log", now, "new"))
	settle(t, f)
	wantTree(t, dir, map[string]string{base + ".1.log.gz": "left\n", "s_x.log": "other\n", "s_" + now.Format(time.DateOnly) + ".log": "new\n"})
}

func TestRollsBySizeAndNeverOverwrites(t *testing.T) {
	for _, compress := range []bool{true, false} {
		t.Run(fmt.Sprint("compress ", compress), func(t *testing.T) {
			dir, f := t.TempDir(), newTestFile(t)
			f.config.Compress, f.maxSize = compress, 10
			if err := os.WriteFile(dir+"/s.2.log", []byte("old\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			write(t, f, batch(dir+"/s.log", time.Now(), "1234", "1234", "5678", "longer than the limit", "x"))
			settle(t, f)
			gz := map[bool]string{true: ".gz"}[compress]
			wantTree(t, dir, map[string]string{"s.2.log" + gz: "old\n", "s.3.log" + gz: "1234\n1234\n", "s.4.log" + gz: "5678\n",
				"s.5.log" + gz: "longer than the limit\n", "s.log": "x\n"})
		})
	}
}

func TestRetentionByCountTouchesOnlyItsOwn(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	f.config.Keep, f.maxSize = 3, 1
	others := map[string]string{"s.log.gz": "", "s.x.log": "a", "s.1.log.bak": "a", "ss.1.log": "a", "s.01.log": "a", "s.1.txt": "a", "sub/s.1.log": "a"}
	delete(others, "s.log.gz")
	for name, text := range others {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir+"/s.x.log", dir+"/s.7.log"); err != nil {
		t.Fatal(err)
	}
	write(t, f, batch(dir+"/s.log", time.Now(), "0", "1", "2", "3", "4", "5", "6", "7"))
	settle(t, f)
	want := maps.Clone(others)
	maps.Copy(want, map[string]string{"s.log": "7\n", "s.5.log.gz": "4\n", "s.6.log.gz": "5\n", "s.8.log.gz": "6\n", "s.7.log": "a"})
	wantTree(t, dir, want)
}

func TestRetentionByAge(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	now := time.Now()
	for i, age := range []int{31, 29, 40} {
		day := now.AddDate(0, 0, -age)
		path := filepath.Join(dir, day.Format(time.DateOnly), fmt.Sprintf("s.%d.log", i+1))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600), os.Chtimes(path, day, day)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, f, batch(dir+"/{date}/s.log", now, "new"))
	settle(t, f)
	kept := now.AddDate(0, 0, -29).Format(time.DateOnly)
	wantTree(t, dir, map[string]string{kept + "/s.2.log.gz": "x", now.Format(time.DateOnly) + "/s.log": "new\n"})
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("empty directories are left: %v", left)
	}
	if info, err := os.Stat(filepath.Join(dir, kept, "s.2.log.gz")); err != nil || time.Since(info.ModTime()) < 28*24*time.Hour {
		t.Errorf("compressing made the file young again: %v", err)
	}
}

func TestPageNamedLikeARolledFileIsLeftAlone(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	f.maxSize = 1
	f.config.Keep = 1
	for i, page := range []string{"a.1", "a", "a", "a"} {
		b := batch(dir+"/{path}.log", time.Now(), page)
		b.Page, b.Stream, b.Lines[0].Source, b.Seq = page, page, sdk.Stdout, uint64(i+1)
		write(t, f, b)
	}
	settle(t, f)
	if !strings.HasSuffix(content(t, dir+"/a.1.log"), "| a.1\n") {
		t.Error("the page's log is gone")
	}
}

// A process that is killed while it compresses leaves one of these states.
func TestCrashWhileCompressing(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	for name, text := range map[string]string{
		"s.1.log": "one\n", "s.1.log.gz.tmp": "\x1f\x8b torn", // killed before the rename
		"s.2.log": "two\n", "s.2.log.gz": "whole, in truth", // after it
		"s.3.log.gz.tmp": "stale", // its source was removed since
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(t, f, batch(dir+"/s.log", time.Now(), "new"))
	settle(t, f)
	wantTree(t, dir, map[string]string{"s.1.log.gz": "one\n", "s.2.log.gz": "two\n", "s.log": "new\n"})
}

func TestCompressionOfAnotherProcessIsLeftAlone(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	for _, name := range []string{"s.1.log", "s.1.log.gz.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held, err := lock(dir + "/s.1.log")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	write(t, f, batch(dir+"/s.log", time.Now(), "new"))
	settle(t, f)
	wantTree(t, dir, map[string]string{"s.1.log": "x", "s.1.log.gz.tmp": "x", "s.log": "new\n"})
}

func TestMovedAndRemovedFilesAreMadeAnew(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	path := dir + "/a/s.log"
	for i, outside := range []func() error{
		func() error { return nil },
		func() error { return os.Rename(path, dir+"/moved") },
		func() error { return os.Remove(path) },
		func() error { return os.RemoveAll(dir + "/a") },
		func() error { return os.Truncate(path, 0) },
		func() error { return os.WriteFile(path, []byte("torn"), 0o600) },
	} {
		if err := outside(); err != nil {
			t.Fatal(err)
		}
		write(t, f, batch(path, time.Now(), fmt.Sprint(i)))
		if got := content(t, path); !strings.HasSuffix(got, fmt.Sprintf("%d\n", i)) {
			t.Errorf("%d: the file has %q", i, got)
		}
	}
	if got := content(t, dir+"/moved"); got != "0\n" {
		t.Errorf("the moved file has %q", got)
	}
}

func TestTornTailIsEnded(t *testing.T) {
	path, f := t.TempDir()+"/s.log", newTestFile(t)
	if err := os.WriteFile(path, []byte("whole\nto"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, f, batch(path, time.Now(), "new"))
	if got := content(t, path); got != "whole\nto\nnew\n" {
		t.Errorf("the file has %q", got)
	}
}

func TestManyLinesAndManyFiles(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	f.maxSize = 1 << 20
	f.config.Keep = 0
	const lines = 100_000
	texts := make([]string, 1000)
	for i := range lines / len(texts) {
		for j := range texts {
			texts[j] = fmt.Sprintf("%06d %s", i*len(texts)+j, strings.Repeat("x", 40))
		}
		write(t, f, batch(dir+"/s.log", time.Now(), texts...))
	}
	for i := range 2 * openLimit {
		b := batch(dir+"/{path}/w.log", time.Now(), "x")
		b.Page = fmt.Sprint("page", i)
		write(t, f, b)
	}
	if len(f.open) > openLimit {
		t.Errorf("%d files are open", len(f.open))
	}
	settle(t, f)
	var all []string
	for name, text := range tree(t, dir) {
		if strings.HasPrefix(name, "s.") {
			all = append(all, strings.Split(strings.TrimSuffix(text, "\n"), "\n")...)
		}
	}
	slices.Sort(all)
	if len(all) != lines || len(slices.Compact(all)) != lines || !strings.HasPrefix(all[lines-1], "099999 ") {
		t.Errorf("%d lines are stored", len(all))
	}
}

func TestSameSeqIsStoredOnce(t *testing.T) {
	path, f := t.TempDir()+"/s.log", newTestFile(t)
	b := batch(path, time.Now(), "x")
	b.Dropped = 12
	write(t, f, b)
	write(t, f, b)
	if got := strings.Split(content(t, path), "\n"); len(got) != 3 || !strings.Contains(got[0], " kernel - - - | 12 lines before this one are lost") || got[1] != "x" {
		t.Errorf("the file has %q", got)
	}
	lost := batch(path, time.Now())
	lost.Dropped = 1
	write(t, f, lost)
	if got := content(t, path); !strings.Contains(got, "| 1 lines before") {
		t.Errorf("the file has %q", got)
	}
}

func TestErrorsNameFileAndCause(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	if err := errors.Join(os.WriteFile(dir+"/plain", nil, 0o600), os.Mkdir(dir+"/dir", 0o700), syscall.Mkfifo(dir+"/fifo", 0o600),
		os.Symlink("/etc/motd", dir+"/link")); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		dir + "/plain/s.log":                 "/plain: not a directory (change log_file)",
		dir + "/dir":                         "/dir: is a directory",
		dir + "/fifo":                        "/fifo: not a regular file",
		dir + "/link":                        "symbolic link",
		dir + "/" + strings.Repeat("x", 300): "file name too long",
		"relative.log":                       `"relative.log" is not absolute`,
		dir + "/plain/\xff.log":              "not a directory",
	} {
		err := f.Write(t.Context(), batch(file, time.Now(), "x"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.ToValidUTF8(err.Error(), "") != err.Error() {
			t.Errorf("%s: error is %v, want %s", file, err, want)
		}
	}
	write(t, f, batch(dir+"/good.log", time.Now(), "x"))
	settle(t, f)
	if err := f.Write(t.Context(), batch(dir+"/good.log", time.Now(), "x")); !errors.Is(err, errClosed) {
		t.Errorf("after Drain: %v", err)
	}
}

func TestModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir, f := t.TempDir(), newTestFile(t)
	write(t, f, batch(dir+"/a/s.log", time.Now(), "x"))
	for path, want := range map[string]os.FileMode{"/a": 0o750 | os.ModeDir, "/a/s.log": 0o640} {
		if info, err := os.Stat(dir + path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestCloseEndsCompression(t *testing.T) {
	dir, f := t.TempDir(), newTestFile(t)
	if err := os.WriteFile(dir+"/s.1.log", []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range compressors { // nothing is compressed for now
		f.slots <- struct{}{}
	}
	write(t, f, batch(dir+"/s.log", time.Now(), "x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	drained := make(chan error)
	go func() { drained <- f.Drain(ctx) }()
	<-f.stop
	for range compressors {
		<-f.slots
	}
	if err := <-drained; !errors.Is(err, context.Canceled) {
		t.Errorf("Drain = %v", err)
	}
	wantTree(t, dir, map[string]string{"s.1.log": "one\n", "s.log": "x\n"})
}
