//go:build linux && bench

package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	saveRounds = 21
	savedPage  = "pages/index/main.go"
	askEvery   = 10 * time.Millisecond
)

// rest is how long nothing happens after a save: what a server does then, off the path, is not to fall on what is
// measured next.
const rest = time.Second

// benchSave measures from the write of a page's source until the first answer of the new code, side by side with what
// else builds the same page: compiler and linker alone, the same `go build` alone, and air.
func benchSave(t *testing.T, r *results) {
	lead := [][]string{{"page", "debounce_ms", "save→live", "÷ floor (goal ≤ 1.10)", "its middle half", "÷ `go build`", "÷ air (goal ≤ 0.25)", "requests failed"}}
	beside := [][]string{{"page", "floor: compile and link", "of it link", "`go build`", "÷ floor", "`go build` while asked", "air", "requests failed at each of its saves"}}
	parts := [][]string{{"page", "debounce_ms", "until the build begins", "build", "of it compile", "start, ready, swap"}}
	for _, kind := range []struct {
		name   string
		source func(text string) string
		air    bool
	}{{"net/http", plainPage, true}, {"net/http and sdk/worker", textPage, false}} {
		c := newContest(t, kind.source, kind.air)
		for round := range saveRounds {
			c.round(round, fmt.Sprintf("%s, round %d", kind.name, round))
		}
		for _, l := range c.lives {
			lead, parts = append(lead, c.row(kind.name, l)), append(parts, l.parts(kind.name))
			l.stop()
		}
		beside = append(beside, c.others(kind.name))
	}
	r.table(fmt.Sprintf("Save → live, medians of %d", saveRounds), lead...)
	r.table("What it is measured against", beside...)
	r.table("Where the time goes", parts...)
}

// contest is all that is measured side by side with one page.
type contest struct {
	lives []*live
	floor *floor
	alone *alone
	air   *air // or nil
}

func newContest(t *testing.T, source func(string) string, withAir bool) *contest {
	c := &contest{alone: newAlone(t, source), floor: newFloor(t, source, nil), lives: []*live{newLive(t, source, 50), newLive(t, source, 0)}}
	if withAir {
		c.air = newAir(t, source)
	}
	c.alone.save("warm up")
	for _, l := range c.lives {
		l.save("warmer") // a build after the first may be done otherwise
		l.forget()
		l.check(c.alone)
	}
	return c
}

// round has one save of each, in an order in which each is in each place about equally often.
func (c *contest) round(round int, text string) {
	turns := []func(){
		func() { c.lives[0].save(text); time.Sleep(rest) },
		func() { c.alone.took = append(c.alone.took, c.alone.save(text)) },
		func() { c.floor.save(text) },
		func() { c.lives[1].save(text); time.Sleep(rest) },
		func() {
			c.alone.asked = append(c.alone.asked, c.lives[0].asking(func() time.Duration { return c.alone.save(text + ", asked") }))
		},
	}
	if c.air != nil {
		turns = append(turns, func() { c.air.save(text) })
	}
	for i := range turns {
		turns[(round+i)%len(turns)]()
	}
}

func (c *contest) row(name string, l *live) []string {
	low, high := middleHalf(l.total, c.floor.took)
	row := []string{name, fmt.Sprint(l.debounce), ms(median(l.total)), "**" + ratio(median(l.total), median(c.floor.took)) + "**",
		fmt.Sprintf("%.2f to %.2f", low, high), ratio(median(l.total), median(c.alone.took)), "", "0"} // one that fails ends all
	if c.air != nil {
		row[6] = "**" + ratio(median(l.total), median(c.air.took)) + "**"
	}
	return row
}

func (c *contest) others(name string) []string {
	row := []string{name, ms(median(c.floor.took)), ms(median(c.floor.linked)), ms(median(c.alone.took)), ratio(median(c.alone.took), median(c.floor.took)),
		ms(median(c.alone.asked)), "", ""}
	switch {
	case c.air == nil && findAir() == "":
		row[6] = "not installed"
	case c.air != nil:
		row[6], row[7] = ms(median(c.air.took)), fmt.Sprintf("%.1f", float64(c.air.failed)/float64(len(c.air.took)))
	}
	return row
}

// middleHalf is where half of the ratios of each round lie.
func middleHalf(a, b []time.Duration) (low, high float64) {
	ratios := make([]float64, len(a))
	for i := range ratios {
		ratios[i] = float64(a[i]) / float64(b[i])
	}
	return quantile(ratios, 0.25), quantile(ratios, 0.75)
}

// alone is a site that no server looks after, built by the go command as the builder calls it.
type alone struct {
	*site
	source func(string) string
	env    []string
	took   []time.Duration
	asked  []time.Duration // while a page was asked as during a save
	n      int
}

func newAlone(t *testing.T, source func(string) string) *alone {
	a := &alone{site: newSite(t, map[string]string{savedPage: source("warm up")}), source: source}
	work := t.TempDir()
	a.env = append(os.Environ(), "PWD="+filepath.Dir(a.path(savedPage)), "GOTMPDIR="+work, "TMPDIR="+work, "CGO_ENABLED=0")
	return a
}

func (a *alone) binary() string { return filepath.Join(a.dir, fmt.Sprintf("built-%d", a.n)) }

// save writes the page and gives how long its build takes.
func (a *alone) save(text string) time.Duration {
	a.t.Helper()
	a.write(savedPage, a.source(text))
	_ = os.Remove(a.binary())
	a.n++ // a fresh file each time
	start := time.Now()
	cmd := exec.CommandContext(a.t.Context(), "go", "build", "-o", a.binary(), "-buildvcs=false", "-ldflags=-s -w", ".")
	cmd.Dir, cmd.Env = filepath.Dir(a.path(savedPage)), a.env
	if out, err := cmd.CombinedOutput(); err != nil {
		a.t.Fatalf("go build: %v\n%s", err, out)
	}
	return time.Since(start)
}

// live is a site that a server serves.
type live struct {
	*site
	asker
	source   func(string) string
	debounce int
	total    []time.Duration
	before   []time.Duration // from the write until the kernel knows of it, and from the swap to the answer
	build    []time.Duration
	compile  []time.Duration // the part of build that is in the release's record
	after    []time.Duration // from the end of the build to the swap
}

func newLive(t *testing.T, source func(string) string, debounce int) *live {
	l := &live{site: newSite(t, map[string]string{savedPage: source("warm up")}), source: source, debounce: debounce}
	l.configure("", "keep_warm_ms: 0", fmt.Sprintf("file_watcher:\n  debounce_ms: %d\n", debounce))
	l.startReal()
	l.asker = newAsker(t, l.url("/"))
	return l
}

// forget drops what was measured so far.
func (l *live) forget() { l.total, l.before, l.build, l.compile, l.after = nil, nil, nil, nil, nil }

// check makes sure that the builder builds as the go command alone does.
func (l *live) check(a *alone) {
	l.t.Helper()
	ours, err := buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", l.servingPID("index")))
	if err != nil {
		l.t.Fatal(err)
	}
	theirs, err := buildinfo.ReadFile(a.binary())
	if err != nil {
		l.t.Fatal(err)
	}
	if !reflect.DeepEqual(ours.Settings, theirs.Settings) || ours.GoVersion != theirs.GoVersion {
		l.t.Fatalf("the builder does not build as `go build` alone does:\n%v\n%v", ours, theirs)
	}
}

// save writes the page and asks until the new code answers.
func (l *live) save(text string) {
	l.t.Helper()
	start := time.Now()
	l.write(savedPage, l.source(text))
	l.until(text, askEvery)
	total := time.Since(start)
	l.await("the old worker to serve no more", func() error {
		p := l.page("index")
		for _, w := range p.Workers {
			if w.State != "serving" && w.State != "warm" || p.Build.LiveMS == 0 {
				return fmt.Errorf("a worker is %s", w.State)
			}
		}
		return nil
	})
	b := l.page("index").Build
	l.compile = append(l.compile, l.compiled())
	build, known := time.Duration(b.DurationMS)*time.Millisecond, time.Duration(b.LiveMS)*time.Millisecond
	l.total = append(l.total, total)
	l.before = append(l.before, total-known)
	l.build = append(l.build, build)
	l.after = append(l.after, known-build)
}

// servingPID is the process that gets the requests of a page.
func (s *site) servingPID(page string) int {
	s.t.Helper()
	for _, w := range s.page(page).Workers {
		if w.State == "serving" {
			return w.PID
		}
	}
	s.t.Fatalf("no worker of %s serves", page)
	return 0
}

// compiled is how long the compilation took of what serves.
func (l *live) compiled() time.Duration {
	l.t.Helper()
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", l.servingPID("index")))
	if err != nil {
		l.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "release.json"))
	if err != nil {
		l.t.Fatal(err)
	}
	var record struct {
		DurationMS int64 `json:"duration_ms"`
	}
	if err := json.Unmarshal(text, &record); err != nil {
		l.t.Fatal(err)
	}
	return time.Duration(record.DurationMS) * time.Millisecond
}

// asking asks the page as save does, for as long as f takes.
func (l *live) asking(f func() time.Duration) time.Duration {
	ctx, stop := context.WithCancel(l.t.Context())
	var asks sync.WaitGroup
	asks.Go(func() {
		tick := time.NewTicker(askEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			if _, err := l.answer(); err != nil {
				l.t.Error(err)
				return
			}
			<-tick.C
		}
	})
	defer asks.Wait()
	defer stop()
	return f()
}

// until asks until the new code answers. It is a fault of the server when a request fails.
func (l *live) until(text string, every time.Duration) {
	l.t.Helper()
	start, tick := time.Now(), time.NewTicker(every)
	defer tick.Stop()
	for ; ; <-tick.C {
		got, err := l.answer()
		if err != nil {
			l.t.Fatal(err)
		}
		if got == text {
			return
		}
		if time.Since(start) > patience {
			l.t.Fatalf("%q is not live after %v:\n%s", text, patience, tail(l.out.String(), 4000))
		}
	}
}

// asker asks one URL over one kept connection.
type asker struct {
	client *http.Client
	target string
}

func newAsker(t *testing.T, target string) asker {
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: patience}
	t.Cleanup(client.CloseIdleConnections)
	return asker{client, target}
}

// answer gives what is answered with 200.
func (a asker) answer() (string, error) {
	resp, err := a.client.Get(a.target)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the page answers %d %q", resp.StatusCode, b)
	}
	return strings.TrimSpace(string(b)), err
}

func (l *live) parts(name string) []string {
	return []string{name, fmt.Sprint(l.debounce), ms(median(l.before)), ms(median(l.build)), ms(median(l.compile)), ms(median(l.after))}
}
