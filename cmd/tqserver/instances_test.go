//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
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

// TestNumberOfWorkers: a reload changes it, and so does the load; workers that stay are not replaced. That there are
// fewer when there is little to do is tested where no minute has to pass.
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
