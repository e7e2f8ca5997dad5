package worker

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/process"
)

func TestStartReportsItsError(t *testing.T) {
	for _, argv := range [][]string{nil, {"/nonexistent/page"}} {
		_, err := Start(Spec{ID: "api#3", Argv: argv})
		if err == nil || !strings.HasPrefix(err.Error(), "start worker api#3: ") {
			t.Errorf("argv %q: got %v", argv, err)
		}
	}
}

func TestFacts(t *testing.T) {
	before := time.Now()
	w, _ := run(t, "byte", func(s *Spec) { s.ID, s.Port = "api#3", 9003 })
	if w.ID() != "api#3" || w.Port() != 9003 || w.PID() <= 1 || w.Started().Before(before) || w.Err() != nil {
		t.Fatalf("id %s, port %d, pid %d, started %v, error %v", w.ID(), w.Port(), w.PID(), w.Started(), w.Err())
	}
}

func TestErrSaysHowItEnded(t *testing.T) {
	for _, c := range []struct {
		role, want string
		end        func(*Worker)
	}{
		{"crash", "exited with status 3", func(w *Worker) {}},
		{"orphaner", "exited with status 0", func(w *Worker) {}},
		{"byte", "exited with status 0", func(w *Worker) { w.Stop(10 * time.Second) }},
		{"silent", "ended by SIGTERM, as asked", func(w *Worker) { w.Stop(10 * time.Second) }},
		{"silent", "was killed", func(w *Worker) { w.Kill() }},
		{"silent", "was killed by SIGKILL from outside", func(w *Worker) { syscall.Kill(w.PID(), syscall.SIGKILL) }},
		{"silent", "was ended by SIGTERM (terminated)", func(w *Worker) { syscall.Kill(w.PID(), syscall.SIGTERM) }},
	} {
		w, _ := run(t, c.role)
		if c.role == "byte" {
			mustBeReady(t, w)
		}
		c.end(w)
		mustEnd(t, w)
		want := fmt.Sprintf("worker %s (pid %d) %s", w.ID(), w.PID(), c.want)
		if got := w.Err().Error(); !strings.HasPrefix(got, want) || c.want == "was killed" && got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestStopLetsTheGroupFinish(t *testing.T) {
	w, out := run(t, "family")
	mustBeReady(t, w)
	out.line(t, 1) // the pid and, whichever comes first, that it is up
	if err := w.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if lines := out.get(Stdout); !slices.Contains(lines, "grandchild is done") {
		t.Errorf("the grandchild did not finish: %q", lines)
	}
	if process.GroupAlive(w.PID()) {
		t.Error("the grandchild lives on")
	}
	if err := w.Stop(time.Second); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestStopKillsWhatIgnoresSIGTERM(t *testing.T) {
	for _, role := range []string{"stubborn", "clan"} {
		w, _ := run(t, role)
		mustBeReady(t, w)
		if role == "clan" { // the grandchild is ready to ignore SIGTERM when it has closed its ready pipe
			eventually(t, 10*time.Second, "the grandchild's signal handling", func() bool { return ignoresTerm(w.PID()) })
		}
		const grace = 150 * time.Millisecond
		before := time.Now()
		err := w.Stop(grace)
		if took := time.Since(before); took < grace || took > grace+5*time.Second {
			t.Errorf("%s: stop took %v", role, took)
		}
		if !errors.Is(err, ErrKilled) {
			t.Errorf("%s: got %v, want ErrKilled", role, err)
		}
		if process.GroupAlive(w.PID()) {
			t.Errorf("%s: something lives on", role)
		}
		if err := w.Stop(time.Second); !errors.Is(err, ErrKilled) {
			t.Errorf("%s: second stop: %v", role, err)
		}
	}
}

// ignoresTerm tells whether a grandchild of the group ignores SIGTERM.
func ignoresTerm(pid int) bool {
	members, _ := process.Members(pid)
	for _, member := range members {
		status, _ := os.ReadFile("/proc/" + strconv.Itoa(member) + "/status")
		_, ignored, _ := strings.Cut(string(status), "SigIgn:\t")
		ignored, _, _ = strings.Cut(ignored, "\n")
		mask, _ := strconv.ParseUint(ignored, 16, 64)
		if member != pid && mask&(1<<(syscall.SIGTERM-1)) != 0 {
			return true
		}
	}
	return false
}

func TestStopOfAStoppedProcess(t *testing.T) {
	w, _ := run(t, "byte")
	mustBeReady(t, w)
	syscall.Kill(w.PID(), syscall.SIGSTOP)
	if err := w.Stop(50 * time.Millisecond); !errors.Is(err, ErrKilled) {
		t.Fatalf("got %v, want ErrKilled", err)
	}
}

func TestStopConcurrently(t *testing.T) {
	w, _ := run(t, "once")
	mustBeReady(t, w)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			if err := w.Stop(10 * time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if got := w.Err().Error(); !strings.HasSuffix(got, "exited with status 0") {
		t.Errorf("more than one SIGTERM: %s", got)
	}
}

func TestStopWithoutGraceKills(t *testing.T) {
	w, _ := run(t, "byte")
	mustBeReady(t, w)
	if err := w.Stop(0); err != nil {
		t.Fatal(err)
	}
	if got := w.Err().Error(); !strings.HasSuffix(got, "was killed") {
		t.Fatal(got)
	}
}

func TestGroupDiesWithACrashedWorker(t *testing.T) {
	w, out := run(t, "orphaner")
	mustEnd(t, w)
	if grandchild := out.pid(t); process.GroupAlive(w.PID()) {
		t.Fatalf("the grandchild %d lives on", grandchild)
	}
}

// A daemon that left the group and holds the output must not keep the worker from being over.
func TestDoneDoesNotWaitForTheOutputOfADaemon(t *testing.T) {
	w, out := run(t, "daemon")
	daemon := out.pid(t)
	defer syscall.Kill(daemon, syscall.SIGKILL)
	mustEnd(t, w)
	before := time.Now()
	w.Kill() // waits for the goroutines
	if took := time.Since(before); took > 2*time.Second {
		t.Fatalf("it took %v to let go of the output", took)
	}
	if syscall.Kill(daemon, 0) != nil {
		t.Fatal("the daemon is gone: nothing was tested")
	}
}

func TestWorkerDiesWithTheServer(t *testing.T) {
	exe, _ := os.Executable()
	server := exec.Command(exe, "child", "middle")
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	alive := err == nil && process.GroupAlive(pid)
	server.Process.Kill()
	server.Wait()
	if !alive {
		t.Fatalf("no worker: %q, %v", line, readErr)
	}
	eventually(t, time.Second, "end of the worker after kill -9 of the server", func() bool { return !process.GroupAlive(pid) })
}
