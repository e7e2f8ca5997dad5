//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

// serving gives the process IDs of the workers of a page that serve.
func (s *site) serving(page string) (pids []int) {
	s.t.Helper()
	for _, w := range s.page(page).Workers {
		if w.State == "serving" {
			pids = append(pids, w.PID)
		}
	}
	return pids
}

// awaitSet waits until so many workers of a page serve, and gives their process IDs.
func (s *site) awaitSet(page string, n int) (pids []int) {
	s.t.Helper()
	s.await(fmt.Sprintf("%d workers of %s", n, page), func() error {
		p := s.page(page)
		if pids = s.serving(page); len(pids) != n || p.Wanted != n {
			return fmt.Errorf("%d serve, %d are wanted, error %q", len(pids), p.Wanted, p.Error)
		}
		return nil
	})
	return pids
}

// reinstance has a page's workers be so many, by a reload.
func (s *site) reinstance(instances string) {
	s.t.Helper()
	s.configure("", "default: {instances: "+instances+"}", "")
	if _, errs, err := s.run("reload"); err != nil {
		s.t.Fatalf("reload: %v, %s", err, errs)
	}
}

// common are the process IDs that are in both.
func common(a, b []int) (both []int) {
	for _, pid := range a {
		if slices.Contains(b, pid) {
			both = append(both, pid)
		}
	}
	return both
}

// TestSeveralWorkers is the life of a page with three workers: all of them answer, a save and a rollback replace them
// under load, one that is killed is replaced while the others serve on, and a reload changes how many there are and
// leaves alone those that stay.
func TestSeveralWorkers(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.configure("", "default: {instances: 3}", "")
	s.start()
	first := s.awaitSet("index", 3)

	l := s.startLoad(everyKind("/"), nil)
	s.await("all workers to answer", func() error {
		for _, w := range s.page("index").Workers {
			if w.Requests == 0 {
				return fmt.Errorf("worker %s has had no request", w.ID)
			}
		}
		return nil
	})
	s.write("pages/index/main.go", textPage("two"))
	s.awaitBody("/", "two")
	second := s.awaitSet("index", 3)
	if both := common(first, second); len(both) > 0 {
		t.Errorf("workers %v of the old release serve", both)
	}
	s.await("the old workers to be warm or gone", func() error {
		for _, w := range s.page("index").Workers {
			if w.State == "draining" || w.State == "stopping" {
				return fmt.Errorf("worker %s is %s", w.ID, w.State)
			}
		}
		return nil
	})
	s.rollback("index")
	s.awaitBody("/", "one")
	s.awaitSet("index", 3)
	l.mustHold()
}

// TestOneOfSeveralKilled: requests go on with the others, so only what is in flight on the one can fail.
func TestOneOfSeveralKilled(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.configure("", "default: {instances: 3}", "")
	s.start()
	clients := everyKind("/")[:4]
	l := s.startLoad(clients, nil)
	const kills = 5
	for range kills {
		pids := s.awaitSet("index", 3)
		s.signal(pids[0], syscall.SIGKILL)
		s.await("another worker", func() error {
			if now := s.serving("index"); len(now) != 3 || slices.Contains(now, pids[0]) || len(common(pids, now)) != 2 {
				return fmt.Errorf("serving are %v, before %v", now, pids)
			}
			return nil
		})
	}
	failures := l.stop()
	if len(failures) > kills*len(clients) {
		t.Errorf("%d requests failed, at most %d can have been in flight", len(failures), kills*len(clients))
	}
	for _, f := range failures {
		if strings.Contains(f, "status 50") && !strings.Contains(f, "status 502") || strings.Contains(f, "status 404") {
			t.Errorf("request failed: %s", f)
		}
	}
	t.Logf("%d requests, %d failed in flight, %d kills", l.requests.Load(), len(failures), kills)
	if p := s.page("index"); p.Crashes != kills || len(p.Workers) != 3 {
		t.Errorf("the status has %d crashes and %d workers, want %d and 3", p.Crashes, len(p.Workers), kills)
	}
}

// TestNumberOfWorkers: a reload changes it, and so does the load; workers that stay are not replaced.
func TestNumberOfWorkers(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.configure("", "default: {instances: 3}", "")
	s.start()
	three := s.awaitSet("index", 3)
	l := s.startLoad(everyKind("/"), nil)
	s.reinstance("1")
	one := s.awaitSet("index", 1)
	s.reinstance("2")
	two := s.awaitSet("index", 2)
	if len(common(three, one)) != 1 || len(common(one, two)) != 1 {
		t.Errorf("workers were replaced: %v, then %v, then %v", three, one, two)
	}
	out, errs, err := s.run("status")
	if err != nil || !strings.Contains(out, fmt.Sprint(two[0])) || !strings.Contains(out, fmt.Sprint(two[1])) {
		t.Errorf("status does not show both workers: %v, %s\n%s", err, errs, out)
	}
	l.mustHold()

	s.reinstance("1-3") // two are as good as one: what serves stays
	if now := s.awaitSet("index", 2); len(common(two, now)) != 2 {
		t.Errorf("workers were replaced: %v, then %v", two, now)
	}
	var busy []client
	for range 20 {
		busy = append(busy, client{name: "busy", path: "/?ms=400"})
	}
	l = s.startLoad(busy, nil)
	s.awaitSet("index", 3)
	s.reinstance("1-2")
	s.awaitSet("index", 2)
	l.mustHold()
	if p := s.page("index"); p.Instances != "1-2" {
		t.Errorf("the status says %q", p.Instances)
	}
}

// TestWorkersFollowTheLoad: much to do brings a worker, and a minute with little to do takes it away again, while it has
// requests. None fails on the way.
func TestWorkersFollowTheLoad(t *testing.T) {
	if os.Getenv("TQSERVER_SCALE") == "" {
		t.Skip("takes the minute that a page has to be quiet: run make scale")
	}
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.configure("", "default: {instances: 1-2, go_max_procs: 2}", "") // eight requests are enough for one
	s.start()
	first := s.awaitSet("index", 1)
	little := s.startLoad([]client{ // three at a time are no more than one worker should have
		{name: "slow GET", path: "/?ms=2000"},
		{name: "slow POST", path: "/?ms=1500", post: 8 << 10},
		{name: "quick GET", path: "/", newConn: true, pause: 30 * time.Millisecond},
	}, nil)
	var busy []client
	for range 12 { // a second each: the way to the next request is short against it, also where that is slow
		busy = append(busy, client{name: "busy", path: "/?ms=1000"})
	}
	much := s.startLoad(busy, nil)
	two := s.awaitSet("index", 2)
	if len(common(first, two)) != 1 {
		t.Errorf("worker %v was replaced by %v", first, two)
	}
	much.mustHold()
	one := s.awaitQuiet(two)
	little.mustHold()
	if len(common(two, one)) != 1 {
		t.Errorf("workers %v were replaced by %v", two, one)
	}
	s.await("the worker that is too many to be gone", func() error {
		if n := len(s.page("index").Workers); n != 1 {
			return fmt.Errorf("there are %d workers", n)
		}
		return nil
	})
	if p := s.page("index"); p.Crashes != 0 || p.Error != "" || p.Wanted != 1 {
		t.Errorf("the status is %+v", p)
	}
}

// awaitQuiet waits, for longer than for anything else, until one worker of the page index serves, and gives its process
// ID. Until then none of those that serve may be another one.
func (s *site) awaitQuiet(pids []int) []int {
	s.t.Helper()
	for deadline := time.Now().Add(3 * patience); time.Now().Before(deadline); time.Sleep(time.Second) { // between two looks, each by a process
		out, errs, err := s.run("status", "--json")
		var st control.Status
		if err == nil {
			err = json.Unmarshal([]byte(out), &st)
		}
		if err != nil || len(st.Pages) != 1 {
			s.t.Fatalf("status: %v, %s\n%s", err, errs, out)
		}
		now := s.serving("index")
		if len(common(pids, now)) != len(now) {
			s.t.Fatalf("serving are %v, before %v", now, pids)
		}
		if p := st.Pages[0]; p.Wanted == 1 && p.Instances == "1-2" && len(now) == 1 {
			return now
		}
	}
	s.t.Fatalf("there is little to do, and %v still serve", s.serving("index"))
	return nil
}

// lonelyPage fails a request that comes while another one is being answered.
func lonelyPage() string {
	page := strings.Replace(textPage("ok"), "\t\tn, err :=", "\t\tdefer inFlight.Add(-1)\n\t\tif inFlight.Add(1) > 1 {\n\t\t\thttp.Error(w, \"not alone\", 500)\n\t\t\treturn\n\t\t}\n\t\tn, err :=", 1)
	page = strings.Replace(page, "\t\"strconv\"\n", "\t\"strconv\"\n\t\"sync/atomic\"\n", 1)
	return strings.Replace(page, "func main() {", "var inFlight atomic.Int32\n\nfunc main() {", 1)
}

// TestWorkersHaveTheirLimit: requests beyond the limit of all workers wait in line, across a save, and when there is no
// line they are told so.
func TestWorkersHaveTheirLimit(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": lonelyPage()})
	s.configure("", "default: {instances: 2, max_in_flight: 1}", "")
	s.start()
	s.awaitSet("index", 2)
	var clients []client
	for range 4 {
		clients = append(clients, client{name: "GET", path: "/?ms=20"}, client{name: "POST", path: "/?ms=10", post: 1 << 10, newConn: true})
	}
	l := s.startLoad(clients, nil)
	s.await("a queue", func() error {
		if p := s.page("index"); p.Queued == 0 {
			return fmt.Errorf("%d wait for a worker", p.Held)
		}
		return nil
	})
	s.write("pages/index/main.go", strings.Replace(lonelyPage(), `"ok"`, `"two"`, 1))
	s.awaitBody("/", "two")
	l.mustHold()

	s.configure("", "default: {instances: 1, max_in_flight: 1, queue_requests: 0}", "")
	if _, errs, err := s.run("reload"); err != nil {
		t.Fatalf("reload: %v, %s", err, errs)
	}
	s.awaitSet("index", 1)
	l = s.startLoad(clients, nil)
	s.await("a request to be refused", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.failures) == 0 {
			return fmt.Errorf("%d requests were answered", l.requests.Load())
		}
		return nil
	})
	for _, f := range l.stop() {
		if !strings.Contains(f, "status 503 (queue_full)") {
			t.Errorf("request failed: %s", f)
		}
	}
}

// TestWorkerEndsWhileAReleaseHangs: the last good release is there again at once, not when the new one has had all the
// time that it may take.
func TestWorkerEndsWhileAReleaseHangs(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.configure("", "ready_timeout_ms: 3600000", "")
	s.start()
	hangs := strings.Replace(textPage("two"), "func main() {\n", "func main() {\n\tif os.WriteFile(\"hangs\", nil, 0o600) == nil {\n\t\ttime.Sleep(time.Hour)\n\t}\n", 1)
	s.write("pages/index/main.go", strings.Replace(hangs, "\t\"net/http\"\n", "\t\"net/http\"\n\t\"os\"\n", 1))
	s.await("the release to hang", func() error {
		_, err := os.Stat(s.path("hangs"))
		return err
	})
	l := s.startLoad([]client{{name: "POST", path: "/", post: 1 << 10, newConn: true, pause: 5 * time.Millisecond}}, nil)
	for range 2 {
		pid := s.serving("index")[0]
		s.signal(pid, syscall.SIGKILL)
		s.await("another worker", func() error {
			if now := s.serving("index"); len(now) != 1 || now[0] == pid {
				return errors.New("not yet")
			}
			return nil
		})
		s.awaitBody("/", "one")
	}
	if failures := l.stop(); len(failures) > 2 {
		t.Errorf("more requests failed than can have been in flight: %v", failures)
	}
	s.write("pages/index/main.go", textPage("three"))
	s.awaitBody("/", "three")
	s.await("the status to be well", func() error {
		if p := s.page("index"); p.Crashes != 2 || p.Error != "" {
			return fmt.Errorf("it has %d crashes, error %q", p.Crashes, p.Error)
		}
		return nil
	})
}
