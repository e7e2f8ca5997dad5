package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tqserver/tqserver/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, o Options) *Spool {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Log == nil {
		o.Log = t.Logf
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// run ships in the background until stop.
func run(t *testing.T, s *Spool, write func(context.Context, sdk.Batch) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, write) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func header(stream string) Header {
	return Header{Stream: stream, File: "/logs/" + stream + "_{date}.log", Page: stream, Release: "r1", Worker: "w1"}
}

func line(text string) sdk.Line { return sdk.Line{Source: sdk.Stdout, Text: []byte(text)} }

// numbered appends lines "0", "1", … padded to about 100 bytes.
func numbered(s *Spool, stream string, from, to int) {
	pad := strings.Repeat(".", 95)
	for i := from; i < to; i++ {
		s.Append(header(stream), line(strconv.Itoa(i)+" "+pad))
	}
}

// store is a rotator in memory, which takes a batch unless refuse says why not.
type store struct {
	mu      sync.Mutex
	lines   map[string][]int
	dropped map[string]uint64
	batches []sdk.Batch // without their lines
	refuse  func(sdk.Batch) error
}

func newStore() *store { return &store{lines: map[string][]int{}, dropped: map[string]uint64{}} }

func (r *store) write(_ context.Context, b sdk.Batch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		if err := r.refuse(b); err != nil {
			return err
		}
	}
	for _, l := range b.Lines {
		n, err := strconv.Atoi(strings.Fields(string(l.Text))[0])
		if err != nil {
			return err
		}
		r.lines[b.Stream] = append(r.lines[b.Stream], n)
	}
	r.dropped[b.Stream] += b.Dropped
	b.Lines = nil
	r.batches = append(r.batches, b)
	return nil
}

func (r *store) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.batches)
}

func (r *store) want(t *testing.T, stream string, from, to int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.lines[stream]
	if len(got) != to-from {
		t.Fatalf("stream %s: %d lines arrived, want %d", stream, len(got), to-from)
	}
	for i, n := range got {
		if n != from+i {
			t.Fatalf("stream %s: line %d is %d, want %d", stream, i, n, from+i)
		}
	}
}

func flush(t *testing.T, s *Spool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func idle(s *Spool) func() bool { return func() bool { return s.Stats().Lines == 0 } }

func block(ctx context.Context, _ sdk.Batch) error { <-ctx.Done(); return ctx.Err() }

func TestAcknowledgedLinesAreNotSentAgainAfterClose(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, MemoryLimit: 64 << 10}
	s := open(t, o)
	numbered(s, "index", 0, 5000)
	flush(t, s) // Run does not run: all to the spill file
	if st := s.Stats(); st.Spilled != 5000 || st.MemoryBytes != 0 {
		t.Fatalf("after a flush: %+v", st)
	}
	r := newStore()
	taken := 0
	r.refuse = func(b sdk.Batch) error {
		if taken += len(b.Lines); taken > 2000 {
			return errors.New("enough")
		}
		return nil
	}
	stop := run(t, s, r.write)
	eventually(t, "refusal", func() bool { return s.Stats().LastError != nil })
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(r.lines["index"]); n == 0 || n == 5000 {
		t.Fatalf("%d lines arrived at first", n)
	}
	r.refuse = nil
	s = open(t, o)
	defer run(t, s, r.write)()
	eventually(t, "replay", idle(s))
	r.want(t, "index", 0, 5000)
}

func TestCrashAndTornTail(t *testing.T) {
	s := open(t, Options{})
	numbered(s, "index", 0, 1000)
	flush(t, s)
	numbered(s, "index", 1000, 1010)
	flush(t, s)
	paths, _ := filepath.Glob(filepath.Join(s.opts.Dir, "spill-*"))
	if len(paths) != 1 {
		t.Fatalf("spill files: %v", paths)
	}
	whole, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	last := len(whole) - int(s.streams["index"].chunks[len(s.streams["index"].chunks)-1].size)
	flipped := slices.Clone(whole)
	flipped[last+50] ^= 1
	for name, tc := range map[string]struct {
		content []byte
		lines   int
	}{
		"whole":     {whole, 1010},
		"one byte":  {whole[:len(whole)-1], 1000},
		"in head":   {whole[:last+7], 1000},
		"in body":   {whole[:last+headSize+3], 1000},
		"at end":    {whole[:last], 1000},
		"bit flip":  {flipped, 1000},
		"zeros":     {append(slices.Clone(whole), make([]byte, 4096)...), 1010},
		"only head": {whole[:headSize], 0},
		"empty":     {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(paths[0])), tc.content, 0o600); err != nil {
				t.Fatal(err)
			}
			r := newStore()
			s := open(t, Options{Dir: dir})
			defer run(t, s, r.write)()
			eventually(t, "replay", idle(s))
			r.want(t, "index", 0, tc.lines)
			numbered(s, "index", tc.lines, 2000)
			eventually(t, "delivery", idle(s))
			r.want(t, "index", 0, 2000)
		})
	}
}

// counted checks that each line either arrived, in order, or was counted as lost, to the rotator and in Stats.
func counted(t *testing.T, s *Spool, r *store, stream string, n int) {
	t.Helper()
	eventually(t, "word of lost lines", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.dropped[stream] == s.Stats().Dropped[stream]
	})
	lost := s.Stats().Dropped[stream]
	if lost == 0 || int(lost)+len(r.lines[stream]) != n {
		t.Errorf("%d lines arrived and %d are lost, of %d", len(r.lines[stream]), lost, n)
	}
	if !slices.IsSorted(r.lines[stream]) {
		t.Error("lines are out of order")
	}
	if got := r.lines[stream]; len(got) == 0 || got[len(got)-1] != n-1 {
		t.Error("the newest line did not arrive")
	}
}

func TestFullSpillDropsOldestAndCounts(t *testing.T) {
	for _, writer := range []string{"none", "failing", "blocked"} {
		t.Run(writer, func(t *testing.T) {
			s := open(t, Options{MemoryLimit: 64 << 10, SpillLimit: 256 << 10})
			r := newStore()
			stop := func() {}
			switch writer {
			case "failing":
				stop = run(t, s, func(context.Context, sdk.Batch) error { return errors.New("no") })
			case "blocked":
				stop = run(t, s, block)
			}
			numbered(s, "index", 0, 5_000)
			eventually(t, "memory within its limit", func() bool { return s.Stats().MemoryBytes <= 64<<10 })
			if st := s.Stats(); st.SpilledBytes > 256<<10 {
				t.Errorf("beyond the limit: %+v", st)
			}
			stop()
			defer run(t, s, r.write)()
			eventually(t, "delivery", idle(s))
			counted(t, s, r, "index", 5_000)
		})
	}
}

func TestUnwritableSpillDropsOldestAndCounts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spill")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Dir: dir, MemoryLimit: 64 << 10})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	numbered(s, "index", 0, 5_000)
	s.work.Wait()
	if st := s.Stats(); st.MemoryBytes > 64<<10+spillSlack || !errors.Is(st.LastError, os.ErrNotExist) {
		t.Errorf("with no spill file: %+v", st)
	}
	if err := s.Flush(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Flush = %v", err)
	}
	r := newStore()
	defer run(t, s, r.write)()
	eventually(t, "delivery", idle(s))
	counted(t, s, r, "index", 5_000)
}

func TestLostLinesAreToldWhenNothingElseIsLeft(t *testing.T) {
	s := open(t, Options{MemoryLimit: 8 << 10, SpillLimit: 4 << 10})
	s.Append(header("index"), line(strings.Repeat("x", 20_000)))
	flush(t, s)
	r := newStore()
	defer run(t, s, r.write)()
	eventually(t, "word of it", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.batches) == 1 && r.batches[0].Dropped == 1 && r.batches[0].File == header("index").File
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{FlushInterval: time.Hour})
		r := newStore()
		stop := run(t, s, r.write)
		synctest.Wait()
		numbered(s, "a", 0, 10)
		flush(t, s) // long before the interval ends
		r.want(t, "a", 0, 10)
		r.mu.Lock()
		r.refuse = func(b sdk.Batch) error { return errors.New("refused") }
		r.mu.Unlock()
		numbered(s, "a", 10, 20)
		flush(t, s)
		if st := s.Stats(); st.Spilled != 10 {
			t.Errorf("after a flush with a rotator that refuses: %+v", st)
		}
		stop()
		stop = run(t, s, block)
		numbered(s, "b", 0, 10)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("flush with a rotator that hangs = %v", err)
		}
		stop()
		s.Close()
	})
}

func TestSecondSpoolOnOneDirectoryIsRefused(t *testing.T) {
	s := open(t, Options{})
	if _, err := New(Options{Dir: s.opts.Dir}); err == nil || !strings.Contains(err.Error(), "another tqserver") {
		t.Errorf("second New = %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: s.opts.Dir})
}

func TestClosedSpool(t *testing.T) {
	s := open(t, Options{})
	lines := s.Follow(t.Context(), "")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	numbered(s, "index", 0, 10)
	if st := s.Stats(); st.Lines != 0 {
		t.Errorf("a closed spool took lines: %+v", st)
	}
	if err := s.Run(t.Context(), block); !errors.Is(err, ErrClosed) {
		t.Errorf("Run = %v", err)
	}
	if _, ok := <-lines; ok {
		t.Error("a follower outlives the spool")
	}
}

func TestLongLineIsCut(t *testing.T) {
	s := open(t, Options{})
	text := strings.Repeat("x", lineLimit) + strings.Repeat("y", 10)
	s.Append(header("index"), line(text))
	s.Append(header("index"), line(""))
	var got []string
	stop := run(t, s, func(_ context.Context, b sdk.Batch) error {
		for _, l := range b.Lines {
			got = append(got, string(l.Text))
		}
		return nil
	})
	eventually(t, "delivery", idle(s))
	stop()
	if len(got) != 3 || strings.Join(got, "") != text || len(got[1]) != 10 || got[2] != "" {
		t.Errorf("%d lines", len(got))
	}
}

func TestLogMayAppend(t *testing.T) {
	var s *Spool
	told := make(chan string, 100)
	s = open(t, Options{Log: func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		s.Append(Header{Stream: "server"}, line(text))
		told <- text
	}})
	defer run(t, s, func(context.Context, sdk.Batch) error { return errors.New("disk full") })()
	numbered(s, "index", 0, 3)
	if text := <-told; !strings.Contains(text, "refuses lines of index: disk full; 3 lines") {
		t.Errorf("message: %s", text)
	}
	if len(s.Recent("server", 0)) != 1 {
		t.Error("the message is not in the log")
	}
}
