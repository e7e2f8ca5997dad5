//go:build linux && bench

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// benchMemory reads the proportional set size (PSS) of each process: what is shared counts in parts.
func benchMemory(t *testing.T, r *results) {
	s := newSite(t, map[string]string{"pages/sdk/main.go": textPage("ok"), "pages/plain/main.go": plainPage("ok")})
	names := append([]string{"kernel"}, allStages...)
	workers := []string{"worker with sdk/worker", "worker with net/http alone"}
	pss, own := map[string][]int64{}, map[string][]int64{}
	for range 3 {
		s.startReal()
		for range 100 {
			s.awaitBody("/sdk", "ok")
			s.awaitBody("/plain", "ok")
		}
		time.Sleep(3 * time.Second) // idle is what is measured, heartbeats included
		pids := map[string]int{"kernel": s.cmd.Process.Pid, workers[0]: s.page("sdk").Workers[0].PID, workers[1]: s.page("plain").Workers[0].PID}
		for _, name := range allStages {
			pids[name] = s.stage(name).PID
		}
		var all, allOwn int64
		for name, pid := range pids {
			p, a := memory(t, pid)
			pss[name], own[name] = append(pss[name], p), append(own[name], a)
			if slices.Contains(names, name) {
				all, allOwn = all+p, allOwn+a
			}
		}
		pss["kernel and plugins"], own["kernel and plugins"] = append(pss["kernel and plugins"], all), append(own["kernel and plugins"], allOwn)
		s.stop()
	}
	rows := [][]string{{"process", "PSS", "of it anonymous"}}
	for _, name := range append(append(names, "kernel and plugins"), workers...) {
		rows = append(rows, []string{name, mib(median(pss[name])), mib(median(own[name]))})
	}
	r.table("Memory, idle after 100 requests to each page, medians of 3 starts", rows...)
}

// memory gives the PSS of a process and the anonymous part of it, in KiB.
func memory(t *testing.T, pid int) (pss, anonymous int64) {
	t.Helper()
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	for name, to := range map[string]*int64{"Pss": &pss, "Pss_Anon": &anonymous} {
		if _, err := fmt.Sscanf(field(path, name), "%d kB", to); err != nil {
			t.Fatalf("read %s of %s: %v", name, path, err)
		}
	}
	return pss, anonymous
}

func mib(kib int64) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }

const (
	stoppedRounds = 20
	roundTime     = 2 * time.Second
	connections   = 8
)

// benchStopped compares rounds of requests while the plugins run with rounds while all five are stopped.
func benchStopped(t *testing.T, r *results) {
	rows := [][]string{{"request log", "plugins", "requests/s", "p50", "p99", "requests", "errors"}}
	for _, c := range []struct{ log, level string }{{"on (info)", "info"}, {"off (warn)", "warn"}} {
		s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
		s.configure("log_level: "+c.level, "", "")
		s.startReal()
		s.ask(roundTime) // warms up
		running, stopped := &rounds{}, &rounds{}
		for i := range stoppedRounds {
			for _, halt := range []bool{i%2 == 0, i%2 != 0} { // neither is always first
				if !halt {
					running.add(s.ask(roundTime))
					continue
				}
				pids := s.haltPlugins()
				stopped.add(s.ask(roundTime))
				s.resumePlugins(pids)
			}
		}
		if n := s.status().Logs.Dropped; n != 0 {
			t.Errorf("%d lines of the log were dropped", n)
		}
		s.stop()
		rows = append(rows, running.row(c.log, "running"), stopped.row(c.log, "stopped"), []string{c.log, "**stopped ÷ running**",
			"**" + ratio(median(stopped.rate), median(running.rate)) + "**", ratio(median(stopped.p50), median(running.p50)),
			"**" + ratio(median(stopped.p99), median(running.p99)) + "**", "", ""})
		if n := running.errors + stopped.errors; n != 0 {
			t.Errorf("%d requests failed", n)
		}
	}
	r.table(fmt.Sprintf("Requests while the plugins run or are stopped, medians of %d rounds of %v each, %d connections", stoppedRounds, roundTime, connections), rows...)
}

// haltPlugins stops all five and waits until they stand still.
func (s *site) haltPlugins() map[string]int {
	s.t.Helper()
	pids := map[string]int{}
	for _, name := range allStages {
		pid := s.running(name).PID
		s.signal(pid, syscall.SIGSTOP)
		pids[name] = pid
		s.await("the "+name+" to stand still", func() error {
			if state := field(fmt.Sprintf("/proc/%d/status", pid), "State"); !strings.HasPrefix(state, "T") {
				return fmt.Errorf("it is %s", state)
			}
			return nil
		})
	}
	return pids
}

// resumePlugins lets them go on, and waits until they have caught up with the log.
func (s *site) resumePlugins(pids map[string]int) {
	s.t.Helper()
	for name, pid := range pids {
		if now := s.stage(name).PID; now != pid {
			s.t.Fatalf("the %s was replaced while it was stopped", name)
		}
		s.signal(pid, syscall.SIGCONT)
	}
	s.await("the log to be written", func() error {
		if l := s.status().Logs; l.Waiting != 0 || l.Spilled != 0 {
			return errors.New("lines wait")
		}
		return nil
	})
}

// ask makes requests for a time, on each connection one after the other.
func (s *site) ask(length time.Duration) (took []time.Duration, failed int) {
	transport := &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	var all sync.WaitGroup
	var mu sync.Mutex
	end := time.Now().Add(length)
	for range connections {
		all.Go(func() {
			mine, wrong := make([]time.Duration, 0, 1<<14), 0
			for start := time.Now(); start.Before(end); start = time.Now() {
				if err := answered(client, s.url("/")); err != nil {
					wrong++
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			took, failed = append(took, mine...), failed+wrong
		})
	}
	all.Wait()
	return took, failed
}

func answered(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || string(b) != "ok\n" {
		return fmt.Errorf("status %d, body %q, %w", resp.StatusCode, b, errors.Join(err, os.ErrInvalid))
	}
	return nil
}

// rounds collects the results of several rounds.
type rounds struct {
	rate             []float64
	p50, p99         []time.Duration
	requests, errors int
}

func (r *rounds) add(took []time.Duration, failed int) {
	r.rate = append(r.rate, float64(len(took)-failed)/roundTime.Seconds())
	r.p50, r.p99 = append(r.p50, quantile(took, 0.5)), append(r.p99, quantile(took, 0.99))
	r.requests, r.errors = r.requests+len(took), r.errors+failed
}

func (r *rounds) row(log, plugins string) []string {
	return []string{log, plugins, fmt.Sprintf("%.0f", median(r.rate)), ms(median(r.p50)), ms(median(r.p99)), fmt.Sprint(r.requests), fmt.Sprint(r.errors)}
}
