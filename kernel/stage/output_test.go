package stage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

func testOutput(level hclog.Level) (*output, *syncBuffer) {
	buffer := &syncBuffer{}
	return newOutput(hclog.New(&hclog.LoggerOptions{Output: buffer, Level: level, DisableTime: true}), nil), buffer
}

func TestLevelsOfStderrSurvive(t *testing.T) {
	for line, want := range map[string]string{
		`{"@level":"warn","@message":"disk is full","@timestamp":"2026-01-02T03:04:05.000000Z","@module":"x","path":"/a","n":3}`: "[WARN]  disk is full: module=x n=3 path=/a\n",
		`{"@level":"debug","@message":"detail"}`:  "[DEBUG] detail\n",
		`{"@level":"error","@message":"no"}`:      "[ERROR] no\n",
		`{"@level":"trace","@message":"hidden"}`:  "",
		`{"@level":"error","@message":17}`:        `[INFO]  {"@level":"error","@message":17}` + "\n",
		`{"@level":7,"@message":"x"}`:             `[INFO]  {"@level":7,"@message":"x"}` + "\n",
		`{"@message":"no level"}`:                 `[INFO]  {"@message":"no level"}` + "\n",
		`{"level":"info"`:                         `[INFO]  {"level":"info"` + "\n",
		`plain text`:                              "[INFO]  plain text\n",
		`[WARN] mind the gap`:                     "[WARN]  [WARN] mind the gap\n",
		"panic: oh no\n\ngoroutine 1 [running]:":  "[ERROR] panic: oh no\n[ERROR] goroutine 1 [running]:\n",
		"  \xff\xfe  ":                            "[INFO]  ?\n",
		"":                                        "",
		strings.Repeat("x", maxLine) + "y\nshort": "[INFO]  " + strings.Repeat("x", maxLine) + "\n[INFO]  y\n[INFO]  short\n",
	} {
		o, log := testOutput(hclog.Debug)
		for half := range 2 { // a line may come in parts
			part := line[:len(line)/2]
			if half == 1 {
				part = line[len(line)/2:]
			}
			o.stderr.Write([]byte(part))
		}
		o.flush()
		if got := log.String(); got != want {
			t.Errorf("%.80q gave %.200q, want %.200q", line, got, want)
		}
	}
}

func TestLastWords(t *testing.T) {
	o, _ := testOutput(hclog.Off)
	if got := o.lastWords(); got != nil {
		t.Errorf("at first: %q", got)
	}
	for i := range 5000 {
		fmt.Fprintf(&o.stderr, "%d %s\n", i, strings.Repeat("x", 100))
	}
	o.stderr.Write([]byte(`{"@level":"warn","@message":"low on memory","free":"3 MB"}` + "\nunfinished"))
	o.flush()
	got := o.lastWords()
	if len(got) != 20 || got[19] != "unfinished" || got[18] != "[WARN] low on memory free=3 MB" || !strings.HasPrefix(got[0], "4982 ") {
		t.Errorf("%d lines, from %.20q to %.20q", len(got), got[0], got[len(got)-1])
	}
	if cap(o.tail) > 4*tailSize {
		t.Errorf("%d bytes are kept", cap(o.tail))
	}
}

func TestLimiterCountsWhatItDrops(t *testing.T) {
	var l limiter
	now := time.Now()
	passed := 0
	for range 1000 {
		if ok, lost := l.allow(now); ok {
			passed++
		} else if lost != 0 {
			t.Fatalf("reported %d too early", lost)
		}
	}
	if passed != linesPerSecond {
		t.Errorf("%d passed", passed)
	}
	if ok, lost := l.allow(now.Add(time.Second)); !ok || lost != 1000-linesPerSecond {
		t.Errorf("a second later: %v, %d lost", ok, lost)
	}
	if ok, lost := l.allow(now.Add(time.Second)); !ok || lost != 0 {
		t.Errorf("then: %v, %d lost", ok, lost)
	}
	passed = 0
	for at := time.Duration(0); at < muted; at += muted / 1000 {
		if ok, _ := l.allow(now.Add(time.Second + at)); ok {
			passed++
		}
	}
	if passed != linesPerSecond-2 {
		t.Errorf("%d passed in the %v after too many", passed, muted)
	}
	quiet := now.Add(time.Second + muted)
	if ok, lost := l.allow(quiet); !ok || lost != 1000-passed {
		t.Errorf("after that: %v, %d lost", ok, lost)
	}
	l.allow(quiet.Add(muted))
	if l.span != time.Second {
		t.Errorf("after %v with a single line, lines are still counted for %v", muted, l.span)
	}
}

func TestOutputOfARealPlugin(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, _ := b.run(fakeSpec("builder", "good", ""))
	b.mustBuild(s, sdk.Job{Page: "stderr", Source: `{"@level":"warn","@message":"careful","n":1}` + "\nplain words\n"})
	b.logged("[WARN]", "builder: careful", "plugin=builtin:good", "n=1")
	b.logged("[INFO]", "builder: plain words", "plugin=builtin:good")
	b.mustBuild(s, sdk.Job{Page: "stdout", Source: "noise\n" + strings.Repeat("y", 3*maxLine) + "\n"})
	b.logged("[DEBUG]", "builder: noise", "from=stdout")
	b.mustBuild(s, sdk.Job{Page: "fmt"})
	b.logged("[DEBUG]", "from fmt.Println")
	b.logged("[INFO]", "from os.Stderr")
	if got := s.Status(); got.State != Running || got.Restarts != 0 {
		t.Errorf("status %+v", got)
	}
}

func TestFloodOfStderrBlocksNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, stop := b.run(fakeSpec("builder", "good", ""))
	b.mustBuild(s, sdk.Job{Page: "flood"})
	stop()
	b.logged("[WARN]", "lines were dropped", "lines=")
	if n := strings.Count(b.log.String(), "nobody needs to read"); n == 0 || n > 20*linesPerSecond {
		t.Errorf("%d of 50000 lines are in the log", n)
	}
}
