package kernel

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/kernel/proxy"
)

func testEntry() *proxy.Entry {
	return &proxy.Entry{Time: time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.Local), Method: "GET", Path: "/api/users", Host: "example.org",
		Page: "api", Release: "0123456789abcdef", Worker: "api#12", RequestID: "0123456789abcdef0123456789abcdef", Client: "192.0.2.7",
		Status: 200, Bytes: 1024, Duration: 1_234_567 * time.Nanosecond}
}

// testAccessLog is one whose lines can be read from the spool.
func testAccessLog(t testing.TB, k *Kernel) *accessLog {
	t.Helper()
	k.log.SetLevel(hclog.Info)
	return newAccessLog(k)
}

// TestAccessLogHasTheFormatOfTheLogger: what reads the log cannot tell that its lines come from elsewhere.
func TestAccessLogHasTheFormatOfTheLogger(t *testing.T) {
	k := testKernel(t)
	a := testAccessLog(t, k)
	for _, change := range []func(e *proxy.Entry){
		func(*proxy.Entry) {},
		func(e *proxy.Entry) { e.Page, e.Worker, e.Status = "", "", 404 },
		func(e *proxy.Entry) {
			e.Error, e.Client = "dial: connect: \"refused\" \\ ü \x1b\x7f\a\t\u2028\U000e0001 \xff", "::1"
		},
		func(e *proxy.Entry) { e.Error, e.Page, e.Attempts = "hold_timeout", "a b", 3 },
		func(e *proxy.Entry) { e.Error, e.Page, e.Attempts = "caf\xff", "größe", 1 },
	} {
		e := testEntry()
		change(e)
		a.write(e)
		var want bytes.Buffer
		log := hclog.New(&hclog.LoggerOptions{Output: &want, TimeFormat: time.RFC3339Nano, TimeFn: func() time.Time { return e.Time.Add(e.Duration) }})
		log.Info(fmt.Sprintf("%s %s - %d %v", e.Method, e.Path, e.Status, e.Duration.Round(time.Microsecond)), parts(e)...)
		recs := k.spool.Recent(serverStream, 1)
		if got := string(recs[0].Text) + "\n"; got != want.String() {
			t.Errorf("got  %swant %s", got, want.String())
		}
		if !recs[0].Time.Equal(e.Time.Add(e.Duration)) || recs[0].File == "" {
			t.Errorf("got %+v", recs[0].Header)
		}
	}
}

func TestDurationsInTheAccessLog(t *testing.T) {
	for _, d := range []time.Duration{-1, 0, 1, time.Microsecond, 999 * time.Microsecond, time.Millisecond, 1001 * time.Microsecond, 10 * time.Millisecond,
		1500 * time.Microsecond, 999999 * time.Microsecond, time.Second, 1000001 * time.Microsecond, 59999990 * time.Microsecond, time.Minute, time.Hour + time.Millisecond} {
		if got := string(appendDuration(nil, d)); got != d.String() {
			t.Errorf("got %s, want %v", got, d)
		}
	}
}

func TestAccessLogFollowsLevelAndFile(t *testing.T) {
	k := testKernel(t)
	a := testAccessLog(t, k)
	k.log.SetLevel(hclog.Warn)
	a.write(testEntry())
	if got := k.spool.Recent(serverStream, 0); len(got) != 0 {
		t.Fatalf("below the level: %d lines", len(got))
	}
	k.log.SetLevel(hclog.Info)
	a.write(testEntry())
	c := *k.config()
	c.Server.LogFile = ""
	k.cfg.Store(&c)
	a.write(testEntry())
	files := []bool{}
	for _, r := range k.spool.Recent(serverStream, 0) {
		files = append(files, r.File != "")
	}
	if !slices.Equal(files, []bool{true, false}) {
		t.Errorf("stored: %v", files)
	}
}

func TestAccessLogOnTheConsole(t *testing.T) {
	k := testKernel(t)
	var out bytes.Buffer
	k.console = newConsole(&out, false)
	k.console.sink = hclog.NewSinkAdapter(k.console.options(hclog.Info))
	testAccessLog(t, k).write(testEntry())
	if got := out.String(); !strings.Contains(got, "[INFO]  GET /api/users - 200 1.235ms: page=api worker=\"api#12\" bytes=1024 client=192.0.2.7 id=0123456789abcdef0123456789abcdef\n") {
		t.Errorf("got %q", got)
	}
}

// TestAccessLogAllocatesNothing: texts and records come in blocks, which is far less than one allocation per line.
func TestAccessLogAllocatesNothing(t *testing.T) {
	k := testKernel(t)
	k.console = newConsole(nil, false)
	a, e := testAccessLog(t, k), testEntry()
	for range 5000 {
		a.write(e)
	}
	if n := testing.AllocsPerRun(5000, func() { a.write(e) }); n > 0 {
		t.Errorf("%v allocations for a line", n)
	}
}

func BenchmarkAccessLog(b *testing.B) {
	k := testKernel(b)
	k.console = newConsole(nil, false)
	a, e := testAccessLog(b, k), testEntry()
	c := *k.config()
	c.Server.LogFile = "" // else it measures how fast the disk takes what nobody ships
	k.cfg.Store(&c)
	b.ReportAllocs()
	for b.Loop() {
		a.write(e)
	}
}
