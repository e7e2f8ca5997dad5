//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soakFor is how long the soak goes on after its warm-up: TQSERVER_SOAK, such as 5m, or short.
func soakFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("TQSERVER_SOAK")
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("TQSERVER_SOAK: %v", err)
	}
	return d
}

// TestSoak does to a server under load everything that happens to one, again and again: afterwards it holds no more
// than before. `make soak` does it for minutes.
func TestSoak(t *testing.T) {
	k := newSoak(t, map[string]string{
		"pages/index/main.go": textPage("release 0"),
		"pages/sdk/main.go":   streamFile(t, "sdk/main.go", "one"), "pages/sdk/handler.go": streamFile(t, "handler.go", "one"),
	})
	s := k.site
	s.configure("", "", soakPlugins)
	s.start()
	for range allStages { // each has been replaced once
		k.round()
	}
	before := k.settle(nil)
	for end := time.Now().Add(soakFor(t)); time.Now().Before(end) || k.rounds < 2*len(allStages); {
		k.round()
	}
	after := k.settle(&before)
	t.Logf("%d rounds, %d requests\nbefore: %+v\nafter:  %+v", k.rounds, k.requests, before, after)
	if t.Failed() {
		t.Logf("files: %q", append(listFiles(k.tmp), listFiles(s.path(".tqserver"))...))
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // the output then has all goroutines
		<-s.exited
		s.cmd = nil
		t.Log(tail(s.out.String(), 60000))
	}
}

// soakPlugins lets plugins be killed without end.
const soakPlugins = "plugins: {defaults: {restart: {initial_ms: 20, max_ms: 200, budget: 1000000}}}\n"

// soak is a server on which things happen in rounds.
type soak struct {
	*site
	tmp      string
	rounds   int
	requests int64
}

// newSoak makes a site whose server has a temporary directory of its own.
func newSoak(t *testing.T, files map[string]string) *soak {
	t.Helper()
	tmp, err := os.MkdirTemp("/tmp", "tq") // short: the paths of sockets are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	s := newSite(t, files)
	s.environ = []string{"TMPDIR=" + tmp, "XDG_RUNTIME_DIR="}
	return &soak{site: s, tmp: tmp}
}

// round is one of everything, with requests going on meanwhile.
func (k *soak) round() {
	k.t.Helper()
	k.rounds++
	l := k.startLoad(everyKind("/")[:4], nil)
	defer func() { k.endLoad(l) }()

	text := fmt.Sprint("release ", k.rounds)
	k.write("pages/index/main.go", textPage(text))
	old := k.openSocket("/sdk/ws", "one")
	old.wantMessage("one:one")
	k.abandon()
	k.awaitBody("/", text)

	k.configure(fmt.Sprintf("read_timeout_seconds: %d\nidle_timeout_seconds: %d", 20+k.rounds%2, 60+k.rounds%3), fmt.Sprintf("default: {go_max_procs: %d}", 1+k.rounds%2), soakPlugins)
	k.awaitReplaced("sdk", old.hangUp)
	k.killWorker("sdk")
	k.killPlugin(allStages[k.rounds%len(allStages)])
	if _, stderr, err := k.run("reload"); err != nil {
		k.t.Fatalf("reload: %v: %s", err, stderr)
	}
}

// endLoad ends the clients of a round. No worker of theirs was killed.
func (k *soak) endLoad(l *load) {
	k.t.Helper()
	for _, f := range l.stop() {
		k.t.Errorf("request failed in round %d: %s", k.rounds, f)
	}
	k.requests += l.requests.Load()
	if k.t.Failed() {
		k.t.FailNow()
	}
}

// abandon begins requests of every kind and leaves.
func (k *soak) abandon() {
	k.t.Helper()
	for _, text := range []string{
		"GET /sdk/endless HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /sdk/sse?gap=10 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /sdk/status?code=200&ms=60000 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"POST /sdk/sum HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nonly this",
		"POST /sdk/sum HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nonly",
		"POST /sdk/refuse HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
		"GET /sdk/status?code=200 HTTP/1.1\r\nHost: loc",
		"\x16\x03\x01", "",
	} {
		k.dial(text).Close()
	}
	ws := k.openSocket("/sdk/ws", "left")
	ws.wantMessage("one:left")
	ws.Close()
	k.await("the abandoned requests to be in flight no more", func() error {
		n := int64(-1) // the WebSocket that is open
		for _, w := range k.page("sdk").Workers {
			n += w.InFlight
		}
		if n != 0 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}

// awaitReplaced waits until a page has a worker other than the one that serves now, which is let go by release.
func (k *soak) awaitReplaced(page string, release func()) {
	k.t.Helper()
	k.await("the configuration to be applied", func() error {
		for _, w := range k.page(page).Workers {
			if w.State == "draining" {
				return nil
			}
		}
		return errors.New("no worker was replaced")
	})
	release()
	k.awaitWorkers(page, "serving 0")
}

func (k *soak) killWorker(page string) {
	k.t.Helper()
	pid := k.page(page).Workers[0].PID
	k.signal(pid, syscall.SIGKILL)
	k.await("another worker", func() error {
		if w := k.page(page).Workers; len(w) != 1 || w[0].PID == pid || w[0].State != "serving" {
			return fmt.Errorf("workers: %+v", w)
		}
		return nil
	})
}

func (k *soak) killPlugin(stage string) {
	k.t.Helper()
	pid := k.killStage(stage).PID
	k.await("another "+stage, func() error {
		if st := k.stage(stage); st.PID == pid || st.State != "running" {
			return fmt.Errorf("it is %s", st.State)
		}
		return nil
	})
}

// holdings is what a kernel can leak.
type holdings struct {
	Goroutines, Files, Threads int
	MiB                        int // resident
	Children                   int // processes, zombies included
	Sockets, State             int // files in the runtime and temporary directory, and in the state directory
}

// settle measures when nothing goes on any more and, given a level, when it is kept.
func (k *soak) settle(level *holdings) (h holdings) {
	k.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		h = k.holdings()
		excess := k.excess(h, level)
		if excess == "" {
			return h
		}
		if time.Now().After(deadline) {
			k.t.Errorf("the kernel holds more than it needs: %s", excess)
			return h
		}
		time.Sleep(20 * time.Millisecond) // between two looks at another process
	}
}

// excess says what is too much: processes are counted exactly; the rest may differ by what the runtime keeps. Memory
// says nothing under the race detector, which remembers more and more of what it saw.
func (k *soak) excess(h holdings, level *holdings) string {
	want, warm := 0, 0
	st := k.status()
	for _, p := range st.Pages {
		want += len(p.Workers)
		for _, w := range p.Workers {
			if w.State == "warm" { // one per page at most
				warm++
			}
		}
	}
	for _, stage := range st.Stages {
		if stage.PID != 0 {
			want++
		}
	}
	if pages := len(st.Pages); want-warm != pages+len(allStages) || warm > pages || h.Children != want {
		return fmt.Sprintf("%d child processes, %d workers, of them %d warm, and plugins, for %d pages and %d stages", h.Children, want, warm, pages, len(allStages))
	}
	if level == nil {
		return ""
	}
	memory := 12
	if raceDetector() {
		memory = 1 << 20
	}
	more := max(h.Children-level.Children, 0) // warm workers: each has its pipes, and goroutines that read them
	for _, c := range []struct {
		what             string
		now, then, slack int
	}{
		{"goroutines", h.Goroutines, level.Goroutines, 3 + 10*more}, {"open files", h.Files, level.Files, 3 + 5*more}, {"threads", h.Threads, level.Threads, 12},
		{"MiB", h.MiB, level.MiB, memory}, {"files in the runtime directory", h.Sockets, level.Sockets, 0}, {"files in the state directory", h.State, level.State, 0},
	} {
		if c.now > c.then+c.slack {
			return fmt.Sprintf("%d %s, before %d", c.now, c.what, c.then)
		}
	}
	return ""
}

// raceDetector reports whether this binary, and so the server, has it.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}

func (k *soak) holdings() holdings {
	k.t.Helper()
	pid := k.cmd.Process.Pid
	proc := fmt.Sprintf("/proc/%d/", pid)
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		k.t.Fatal(err)
	}
	h := holdings{Goroutines: k.status().Routines, Files: len(files), Children: children(pid), Sockets: len(listFiles(k.tmp)), State: len(listFiles(k.path(".tqserver")))}
	h.Threads = procStatus(k.t, proc, "Threads")
	h.MiB = procStatus(k.t, proc, "VmRSS") / 1024
	return h
}

// procStatus reads a number from /proc/PID/status.
func procStatus(t *testing.T, proc, key string) int {
	t.Helper()
	text, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n"+key+":")
	n, err := strconv.Atoi(strings.Fields(rest + " x")[0])
	if err != nil {
		t.Fatalf("%s in %sstatus: %v", key, proc, err)
	}
	return n
}

// children counts the processes that a process has started and not yet waited for.
func children(pid int) (n int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, _ := os.ReadFile(path) // one that has gone meanwhile is no child
		_, rest, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			n++
		}
	}
	return n
}

func listFiles(dir string) (files []string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return nil
	})
	return files
}
