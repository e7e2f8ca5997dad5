//go:build linux && bench

package main

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	saveRounds = 21
	savedPage  = "pages/index/main.go"
	askEvery   = time.Millisecond
)

// benchSave measures from the write of a page's source until the first answer of the new code, side by side with the
// same `go build` alone.
func benchSave(t *testing.T, r *results) {
	rows := [][]string{{"page", "`go build` alone", "debounce_ms", "save→live", "ratio", "ratio, middle half of the rounds", "until the build begins", "build", "start, ready, swap"}}
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
			for i := range 3 { // each of the three is first, second and last equally often
				switch who := (round + i) % 3; who {
				case 2:
					alone.took = append(alone.took, alone.save(text))
				default:
					lives[who].save(text)
				}
			}
		}
		for _, l := range lives {
			rows = append(rows, l.row(kind.name, alone))
		}
		for _, l := range lives {
			l.stop()
		}
	}
	r.table(fmt.Sprintf("Save → live, medians of %d", saveRounds), rows...)
}

// alone is a site that no server looks after, built by the go command as the builder calls it.
type alone struct {
	*site
	source func(string) string
	env    []string
	took   []time.Duration
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
	build, known := time.Duration(b.DurationMS)*time.Millisecond, time.Duration(b.LiveMS)*time.Millisecond
	l.total = append(l.total, total)
	l.before = append(l.before, total-known)
	l.build = append(l.build, build)
	l.after = append(l.after, known-build)
}

func (l *live) ask() string {
	resp, err := l.client.Get(l.url("/"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		l.t.Fatalf("the page answers %d %q, %v", resp.StatusCode, b, err)
	}
	return strings.TrimSpace(string(b))
}

func (l *live) row(name string, a *alone) []string {
	ratios := make([]float64, len(l.total))
	for i := range ratios {
		ratios[i] = float64(l.total[i]) / float64(a.took[i])
	}
	return []string{name, ms(median(a.took)), fmt.Sprint(l.debounce), ms(median(l.total)), "**" + ratio(median(l.total), median(a.took)) + "**",
		fmt.Sprintf("%.2f to %.2f", quantile(ratios, 0.25), quantile(ratios, 0.75)),
		ms(median(l.before)), ms(median(l.build)), ms(median(l.after))}
}
