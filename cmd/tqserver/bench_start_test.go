//go:build linux && bench

package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// benchStart measures from the start of the process until every page of this repository has answered 200, and how
// long each plugin takes to be ready.
func benchStart(t *testing.T, r *results) {
	s := newSite(t, nil)
	if err := os.CopyFS(s.path("pages"), os.DirFS("../../pages")); err != nil {
		t.Fatal(err)
	}
	s.timeStart() // fills the cache
	plugins := map[string][]time.Duration{}
	rows := [][]string{{"Go build cache", "built pages", "starts", "median", "slowest"}}
	for _, c := range []struct {
		cache, releases string
		starts          int
		before          func()
	}{
		{"warm", "kept", 20, func() {}},
		{"warm", "none", 7, s.forgetReleases},
		{"empty", "none", 1, func() { s.forgetReleases(); s.environ = []string{"GOCACHE=" + t.TempDir()} }},
	} {
		var took []time.Duration
		for range c.starts {
			c.before()
			all, ready := s.timeStart()
			took = append(took, all)
			if c.releases == "kept" {
				for name, d := range ready {
					plugins[name] = append(plugins[name], d)
				}
			}
		}
		rows = append(rows, []string{c.cache, c.releases, fmt.Sprint(c.starts), ms(median(took)), ms(quantile(took, 1))})
	}
	r.table("Start → all four pages of `pages/` have answered", rows...)
	rows = [][]string{{"plugin", "median", "slowest"}}
	for _, name := range allStages {
		rows = append(rows, []string{name, ms(median(plugins[name])), ms(quantile(plugins[name], 1))})
	}
	r.table("Kernel's start → plugin ready, 20 starts, all five at once", rows...)
}

// forgetReleases removes what was built, and what the server remembers of it.
func (s *site) forgetReleases() {
	s.t.Helper()
	for _, dir := range []string{filepath.Join(filepath.Dir(s.dir), "bin"), s.path(".tqserver")} {
		if err := os.RemoveAll(dir); err != nil {
			s.t.Fatal(err)
		}
	}
}

// timeStart starts the server and stops it. It gives how long it took until all pages had answered, and until each
// plugin was ready.
func (s *site) timeStart() (all time.Duration, ready map[string]time.Duration) {
	s.t.Helper()
	start := time.Now()
	s.launchReal()
	var pages sync.WaitGroup
	var mu sync.Mutex
	for _, path := range []string{"/", "/api", "/events", "/plain"} {
		pages.Go(func() {
			err := s.untilAnswered(path)
			mu.Lock()
			defer mu.Unlock()
			if all = time.Since(start); err != nil {
				s.t.Errorf("%s: %v", path, err)
			}
		})
	}
	pages.Wait()
	s.awaitServing()
	st, ready := s.status(), map[string]time.Duration{}
	for _, stage := range st.Stages {
		if stage.Restarts != 0 {
			s.t.Errorf("the %s was restarted", stage.Stage)
		}
		ready[stage.Stage] = stage.Since.Sub(st.Started)
	}
	s.stop()
	return all, ready
}

// untilAnswered asks until the answer is 200.
func (s *site) untilAnswered(path string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for start := time.Now(); ; time.Sleep(askEvery) { // between two looks at another process
		resp, err := client.Get(s.url(path))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it answers %d", resp.StatusCode)
		}
		if time.Since(start) > 2*patience {
			return err
		}
	}
}
