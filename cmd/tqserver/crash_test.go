//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

// TestWorkerKilledUnderLoad kills the worker again and again: only requests in flight on it may fail, none is answered
// with 503.
func TestWorkerKilledUnderLoad(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.start()
	clients := everyKind("/")[:4]
	l := s.startLoad(clients, nil)
	const kills = 7
	for range kills {
		pid := s.page("index").Workers[0].PID
		s.signal(pid, syscall.SIGKILL)
		s.await("another worker", func() error {
			for _, w := range s.page("index").Workers {
				if w.State == "serving" && w.PID != pid {
					return nil
				}
			}
			return errors.New("none yet")
		})
		s.awaitBody("/", "ok")
	}
	failures := l.stop()
	if len(failures) > kills*len(clients) {
		t.Errorf("%d requests failed, at most %d can have been in flight", len(failures), kills*len(clients))
	}
	for _, f := range failures {
		if strings.Contains(f, "status 503") || strings.Contains(f, "status 504") || strings.Contains(f, "status 404") {
			t.Errorf("request failed: %s", f)
		}
	}
	t.Logf("%d requests, %d failed in flight, %d kills", l.requests.Load(), len(failures), kills)
	if p := s.page("index"); p.Crashes != kills {
		t.Errorf("the status counts %d crashes, want %d", p.Crashes, kills)
	}
}

// TestCrashingHandler restarts a page that ends itself, and says what it said last.
func TestCrashingHandler(t *testing.T) {
	page := strings.Replace(textPage("ok"), `	http.HandleFunc("/", `, "\thttp.HandleFunc(\"/exit\", func(http.ResponseWriter, *http.Request) { log.Fatal(\"out of luck\") })\n\thttp.HandleFunc(\"/\", ", 1)
	s := newSite(t, map[string]string{"pages/index/main.go": page})
	s.start()
	for range 3 {
		if status, _, err := s.get("/exit"); status != 502 {
			t.Errorf("request to a page that ends: %d, %v, want 502", status, err)
		}
		s.awaitBody("/", "ok")
	}
	s.awaitLog("out of luck")
}

// TestKernelKilled: nothing is left of it, and the next start works with the same ports and sockets.
func TestKernelKilled(t *testing.T) {
	s := newSite(t, map[string]string{"pages/a/main.go": textPage("a"), "pages/b/main.go": plainPage("b")})
	s.start()
	var pids []int
	st := s.status()
	for _, p := range st.Pages {
		for _, w := range p.Workers {
			pids = append(pids, w.PID)
		}
	}
	for _, stage := range st.Stages {
		if stage.State != "idle" {
			pids = append(pids, stage.PID)
		}
	}
	if len(pids) != 7 {
		t.Fatalf("%d processes, want 2 workers and 5 plugins", len(pids))
	}
	s.kill()
	start := time.Now()
	s.await("all processes to be gone", func() error {
		for _, pid := range pids {
			if alive(pid) {
				if time.Since(start) > 10*time.Second {
					t.Fatalf("process %d outlives the kernel", pid)
				}
				return fmt.Errorf("process %d lives", pid)
			}
		}
		return nil
	})
	if _, _, err := s.run("status"); err == nil {
		t.Error("status of a server that was killed: no error")
	}
	s.start()
	s.awaitBody("/a", "a")
	s.awaitBody("/b", "b")
}

// alive tells whether a process exists and is no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

var allStages = []string{"resolver", "builder", "watcher", "checker", "rotator"}

// TestPluginsKilledUnderLoad kills each plugin: no request notices, and a save goes live soon after.
func TestPluginsKilledUnderLoad(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("release 0")})
	s.start()
	l := s.startLoad(everyKind("/")[:4], nil)
	for i, name := range allStages {
		t.Run(name, func(t *testing.T) {
			old := s.killStage(name)
			text := fmt.Sprintf("release %d", i+1)
			s.write("pages/index/main.go", textPage(text)) // also while the watcher is down
			s.awaitBody("/", text)
			s.await("the plugin to be back", func() error {
				if now := s.stage(name); now.State != "running" || now.PID == old.PID {
					return fmt.Errorf("it is %s", now.State)
				}
				return nil
			})
		})
	}
	l.mustHold()
}

// TestPluginsStoppedUnderLoad is the proof of the microkernel: all five plugins hang, and no request notices. After
// they go on, a save goes live.
func TestPluginsStoppedUnderLoad(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one"), "pages/b/main.go": textPage("b")})
	s.start()
	l := s.startLoad(append(everyKind("/"), everyKind("/b")...), nil)
	before := map[string]int{}
	for _, name := range allStages {
		before[name] = s.running(name).PID
		s.signal(before[name], syscall.SIGSTOP)
	}
	from := l.requests.Load()
	s.await("2000 requests without plugins", func() error {
		if n := l.requests.Load() - from; n < 2000 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	s.write("pages/index/main.go", textPage("two")) // nobody sees it yet, or the replaced plugins do
	for _, name := range allStages {
		_ = syscall.Kill(before[name], syscall.SIGCONT) // one that was replaced meanwhile is gone
	}
	s.awaitBody("/", "two")
	s.write("pages/index/main.go", textPage("three"))
	s.awaitBody("/", "three")
	l.mustHold()
}

// TestHungPluginIsReplaced waits for the heartbeat to find a plugin that hangs for good.
func TestHungPluginIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.start()
	old := s.running("builder").PID
	s.signal(old, syscall.SIGSTOP)
	s.write("pages/index/main.go", textPage("two"))
	s.awaitBody("/", "two")
	if now := s.stage("builder"); now.PID == old || now.Restarts == 0 || alive(old) {
		t.Errorf("the builder is %+v, the hung one lives: %v", now, alive(old))
	}
}

// TestUnhealthyWorkerIsReplaced: the checker finds a worker that lives but is not well.
func TestUnhealthyWorkerIsReplaced(t *testing.T) {
	page := strings.Replace(textPage("ok"), `	http.HandleFunc("/", `, `	sick := false
	http.HandleFunc("/sick", func(w http.ResponseWriter, r *http.Request) { sick = true; fmt.Fprintln(w, "sick") })
	http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if sick {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	http.HandleFunc("/", `, 1)
	s := newSite(t, map[string]string{"pages/index/main.go": page})
	s.configure("", "", "plugins:\n  checker: {config: {interval_ms: 50, failures: 3}}\n")
	s.start()
	s.await("the first report of the checker", func() error {
		if h := s.page("index").Workers[0].Healthy; h == nil || !*h {
			return errors.New("none yet")
		}
		return nil
	})
	pid := s.page("index").Workers[0].PID
	l := s.startLoad(everyKind("/")[:4], nil)
	s.awaitBody("/sick", "sick")
	s.await("another worker", func() error {
		if w := s.page("index").Workers; len(w) != 1 || w[0].PID == pid {
			return errors.New("not yet")
		}
		return nil
	})
	s.awaitLog("is unhealthy")
	l.mustHold()
}

// TestForeignProcessOnAPort: the range's first port is held by a stranger, who never gets a request.
func TestForeignProcessOnAPort(t *testing.T) {
	s := newSite(t, map[string]string{"pages/a/main.go": textPage("a"), "pages/b/main.go": plainPage("b")})
	lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.pool[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	strangers := make(chan string, 1)
	go func() {
		if c, err := lis.Accept(); err == nil {
			strangers <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	s.start()
	s.awaitBody("/a", "a")
	s.awaitBody("/b", "b")
	select {
	case addr := <-strangers:
		t.Errorf("the stranger got a connection from %s", addr)
	default:
	}
}

// TestShutdownLetsRequestsEnd stops the server during a slow request.
func TestShutdownLetsRequestsEnd(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.start()
	result := make(chan string, 1)
	go func() {
		status, body, err := s.get("/?ms=1500")
		result <- fmt.Sprint(status, strings.TrimSpace(body), err)
	}()
	s.await("the request to be in flight", func() error {
		if w := s.page("index").Workers; len(w) == 0 || w[0].InFlight == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	client, err := control.Find(s.path(".tqserver"))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := <-result; got != "200ok<nil>" {
		t.Errorf("the request in flight ended with %s", got)
	}
	<-s.exited
	s.stop()
}
