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

// benchSave measures from the write of a page's source until the first answer of the new code, side by side with the
// same `go build` alone.
func benchSave(t *testing.T, r *results) {
	rows := [][]string{{"page", "debounce_ms", "save→live", "`go build` alone", "ratio", "its middle half", "`go build` while asked", "ratio"}}
	parts := [][]string{{"page", "debounce_ms", "until the build begins", "build", "of it compile", "start, ready, swap"}}
	for _, kind := range []struct {
		name   string
		source func(text string) string
	}{{"net/http", plainPage}, {"net/http and sdk/worker", textPage}} {
		alone := newAlone(t, kind.source)
		lives := []*live{newLive(t, kind.source, 50), newLive(t, kind.source, 0)}
		alone.save("warm up")
		lives[0].check(alone)
		for round := range saveRounds {
			text := fmt.Sprintf("%s, round %d", kind.name, round)
			for i := range 4 { // each of the four is in each place about equally often
				switch who := (round + i) % 4; who {
				case 2:
					alone.took = append(alone.took, alone.save(text))
				case 3:
					alone.asked = append(alone.asked, lives[0].asking(func() time.Duration { return alone.save(text + ", asked") }))
				default:
					lives[who].save(text)
				}
			}
		}
		for _, l := range lives {
			rows, parts = append(rows, l.row(kind.name, alone)), append(parts, l.parts(kind.name))
		}
		for _, l := range lives {
			l.stop()
		}
	}
	r.table(fmt.Sprintf("Save → live, medians of %d", saveRounds), rows...)
	r.table("Where the time goes", parts...)
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
	source   func(string) string
	debounce int
	client   *http.Client
	total    []time.Duration
	before   []time.Duration // from the write until the kernel knows of it, and from the swap to the answer
	build    []time.Duration
	compile  []time.Duration // the part of build that is in the release's record
	after    []time.Duration // from the end of the build to the swap
}

func newLive(t *testing.T, source func(string) string, debounce int) *live {
	l := &live{site: newSite(t, map[string]string{savedPage: source("warm up")}), source: source, debounce: debounce}
	l.configure("", "", fmt.Sprintf("file_watcher:\n  debounce_ms: %d\n", debounce))
	l.startReal()
	l.client = &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: patience}
	t.Cleanup(l.client.CloseIdleConnections)
	return l
}

// check makes sure that the builder builds as the go command alone does.
func (l *live) check(a *alone) {
	l.t.Helper()
	ours, err := buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", l.page("index").Workers[0].PID))
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
	for tick := time.NewTicker(askEvery); l.ask() != text; <-tick.C {
		if time.Since(start) > patience {
			tick.Stop()
			l.t.Fatalf("%q is not live after %v:\n%s", text, patience, tail(l.out.String(), 4000))
		}
	}
	total := time.Since(start)
	l.await("the old worker to be gone", func() error {
		if p := l.page("index"); len(p.Workers) != 1 || p.Build.LiveMS == 0 {
			return fmt.Errorf("it has %d workers", len(p.Workers))
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

// compiled is how long the compilation took of what serves.
func (l *live) compiled() time.Duration {
	l.t.Helper()
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", l.page("index").Workers[0].PID))
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

func (l *live) ask() string {
	l.t.Helper()
	text, err := l.answer()
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

func (l *live) answer() (string, error) {
	resp, err := l.client.Get(l.url("/"))
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

func (l *live) row(name string, a *alone) []string {
	ratios := make([]float64, len(l.total))
	for i := range ratios {
		ratios[i] = float64(l.total[i]) / float64(a.took[i])
	}
	return []string{name, fmt.Sprint(l.debounce), ms(median(l.total)), ms(median(a.took)), "**" + ratio(median(l.total), median(a.took)) + "**",
		fmt.Sprintf("%.2f to %.2f", quantile(ratios, 0.25), quantile(ratios, 0.75)), ms(median(a.asked)), ratio(median(l.total), median(a.asked))}
}

func (l *live) parts(name string) []string {
	return []string{name, fmt.Sprint(l.debounce), ms(median(l.before)), ms(median(l.build)), ms(median(l.compile)), ms(median(l.after))}
}
