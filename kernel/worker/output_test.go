package worker

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFloodArrivesWholeAndInOrder(t *testing.T) {
	w, out := run(t, "flood")
	mustEnd(t, w)
	w.Kill()
	lines := out.get(Stdout)
	if len(lines) != floodLines {
		t.Fatalf("%d lines, want %d", len(lines), floodLines)
	}
	for i, line := range lines {
		if line != fmt.Sprint("line ", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

func TestLines(t *testing.T) {
	w, out := run(t, "shapes")
	mustEnd(t, w)
	want := slices.Concat(shapes[:4], []string{strings.Repeat("c", maxLine), strings.Repeat("c", maxLine), "ccccc"}, shapes[5:])
	if got := out.get(Stdout); !slices.Equal(got, want) {
		t.Fatalf("got %d lines %.40q, want %d", len(got), got, len(want))
	}
}

// What was printed before the exit arrives even if Output was busy until long after it.
func TestSlowOutputLosesNothing(t *testing.T) {
	release := make(chan struct{})
	var out *printed
	w, out := run(t, "shapes", func(s *Spec) {
		add := s.Output
		s.Output = func(stream Stream, at time.Time, line []byte) {
			<-release
			add(stream, at, line)
		}
		s.Argv[2] = "crash" // fits into the pipe
	})
	mustEnd(t, w) // 250 ms after the exit, with Output still busy
	if got := out.get(Stderr); len(got) != 0 {
		t.Fatalf("delivered already: %q", got)
	}
	close(release)
	w.Kill()
	if got, want := out.get(Stderr), []string{"one", "two", "no newline"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// With the write end open elsewhere the reader must come to its end, with everything that was written in time.
func TestLastWords(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	written := make([]byte, 60_000)
	for i := range written {
		written[i] = byte('a' + i%26)
		if i%100 == 99 {
			written[i] = '\n'
		}
	}
	w.Write(written)
	r.SetReadDeadline(time.Now().Add(-time.Second))
	var got strings.Builder
	worker := &Worker{spec: Spec{Output: func(_ Stream, _ time.Time, line []byte) {
		got.Write(line)
		got.WriteByte('\n')
	}}}
	worker.readLines(Stdout, r)
	if got.String() != string(written) {
		t.Fatalf("%d bytes of %d arrived", got.Len(), len(written))
	}
}

func TestLastWordsAreBounded(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	w.Write(make([]byte, 1000))
	r.SetReadDeadline(time.Now().Add(-time.Second))
	last := &lastWords{file: r, left: 300}
	n, total := 0, 0
	for buf := make([]byte, 128); err == nil; total += n {
		n, err = last.Read(buf)
	}
	if total != 300 {
		t.Fatalf("read %d bytes, want 300", total)
	}
}
