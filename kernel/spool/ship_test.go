package spool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

func TestBurstWhileWriterIsBlockedIsKeptForTheNextStart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, MemoryLimit: 1 << 20})
	stop := run(t, s, block)
	numbered(s, "index", 0, 100_000)
	if st := s.Stats(); st.Lines != 100_000 || st.MemoryBytes > 1<<20+spillSlack || len(st.Dropped) != 0 {
		t.Errorf("after the burst: %+v", st)
	}
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := newStore()
	s = open(t, Options{Dir: dir})
	defer run(t, s, r.write)()
	numbered(s, "index", 100_000, 100_010)
	eventually(t, "replay", idle(s))
	r.want(t, "index", 0, 100_010)
}

func TestBurstWhileWriterFailsArrivesOnceInOrder(t *testing.T) {
	s := open(t, Options{MemoryLimit: 1 << 20})
	r := newStore()
	failures := 3
	seqs := map[uint64]int{}
	r.refuse = func(b sdk.Batch) error {
		if n, ok := seqs[b.Seq]; ok && n != len(b.Lines) {
			t.Errorf("batch %d has %d lines at first, then %d", b.Seq, n, len(b.Lines))
		}
		seqs[b.Seq] = len(b.Lines)
		if failures--; failures >= 0 {
			return errors.New("no space left on device")
		}
		return nil
	}
	defer run(t, s, r.write)()
	numbered(s, "index", 0, 100_000)
	eventually(t, "delivery", idle(s))
	r.want(t, "index", 0, 100_000)
	if st := s.Stats(); st.MemoryBytes != 0 || st.SpilledBytes != 0 || st.Spilled != 0 || st.Bytes != 0 || st.LastError != nil {
		t.Errorf("afterwards: %+v", st)
	}
	if left, _ := filepath.Glob(filepath.Join(s.opts.Dir, "spill-*")); len(left) > 0 {
		t.Errorf("spill files are left: %v", left)
	}
	for i := range len(r.batches) - 1 {
		if r.batches[i].Seq >= r.batches[i+1].Seq {
			t.Fatalf("batch %d comes before %d", r.batches[i].Seq, r.batches[i+1].Seq)
		}
	}
}

func TestManyAppendersAndUnsteadyWriter(t *testing.T) {
	s := open(t, Options{MemoryLimit: 256 << 10})
	r := newStore()
	r.refuse = func(sdk.Batch) error {
		if rand.N(40) == 0 {
			return errors.New("bad moment")
		}
		return nil
	}
	defer run(t, s, r.write)()
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() { numbered(s, fmt.Sprint("page", i), 0, 2000) })
	}
	readers, stopReaders := context.WithCancel(t.Context())
	all.Go(func() {
		for range s.Follow(readers, "page3") {
		}
	})
	all.Go(func() {
		for range 50 {
			s.Stats()
			s.Recent("", 10)
		}
	})
	eventually(t, "delivery", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		n := 0
		for _, lines := range r.lines {
			n += len(lines)
		}
		return n == 16*2000
	})
	stopReaders()
	all.Wait()
	for i := range 16 {
		r.want(t, fmt.Sprint("page", i), 0, 2000)
	}
}

func TestLinesOfSeveralWorkersKeepTheirOrderAndHeader(t *testing.T) {
	s := open(t, Options{MemoryLimit: 32 << 10}) // so that some take the way over the disk
	r := newStore()
	for i := range 3000 {
		h := header("api")
		h.Worker = fmt.Sprint("w", i%2)
		s.Append(h, line(strconv.Itoa(i)))
	}
	defer run(t, s, func(ctx context.Context, b sdk.Batch) error {
		for _, l := range b.Lines {
			if n, _ := strconv.Atoi(string(l.Text)); b.Worker != fmt.Sprint("w", n%2) {
				t.Errorf("line %d is said to be of %s", n, b.Worker)
			}
		}
		return r.write(ctx, b)
	})()
	eventually(t, "delivery", idle(s))
	r.want(t, "api", 0, 3000)
}

func TestFailingStreamStarvesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{})
		r := newStore()
		bad := 0
		r.refuse = func(b sdk.Batch) error {
			if b.Stream == "bad" {
				bad++
				return errors.New("no space left on device")
			}
			return nil
		}
		stop := run(t, s, r.write)
		numbered(s, "bad", 0, 5000)
		for i := range 100 {
			numbered(s, "good", i*10, i*10+10)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		r.want(t, "good", 0, 1000)
		if bad < 4 || bad > 20 {
			t.Errorf("the failing stream was tried %d times in 10 s", bad)
		}
		if err := s.Stats().LastError; err == nil || !strings.Contains(err.Error(), "bad: no space left") {
			t.Errorf("LastError = %v", err)
		}
		r.mu.Lock()
		r.refuse = nil
		r.mu.Unlock()
		time.Sleep(6 * time.Second)
		synctest.Wait()
		r.want(t, "bad", 0, 5000)
		stop()
		s.Close()
	})
}

func TestLinesWaitForOthersForTheFlushInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{FlushInterval: 50 * time.Millisecond})
		r := newStore()
		stop := run(t, s, r.write)
		numbered(s, "index", 0, 10)
		time.Sleep(49 * time.Millisecond)
		synctest.Wait()
		if n := r.count(); n != 0 {
			t.Errorf("%d batches after 49 ms", n)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if n := r.count(); n != 1 {
			t.Errorf("%d batches after 51 ms, want 1", n)
		}
		r.want(t, "index", 0, 10)
		stop()
		s.Close()
	})
}

func TestHangingWriteEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{})
		r, hangs := newStore(), true
		stop := run(t, s, func(ctx context.Context, b sdk.Batch) error {
			if hangs {
				hangs = false
				return block(ctx, b)
			}
			return r.write(ctx, b)
		})
		numbered(s, "index", 0, 10)
		time.Sleep(writeLimit + time.Second)
		synctest.Wait()
		r.want(t, "index", 0, 10)
		stop()
		s.Close()
	})
}
