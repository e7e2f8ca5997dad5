//go:build linux

package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBadPluginsAtStart starts a site that has served before with a bad plugin on all five stages at once: the pages
// are served as they were, each stage tells what is wrong with it, and the next good configuration goes live.
func TestBadPluginsAtStart(t *testing.T) {
	t.Parallel()
	use := standin(t)
	var modes sync.WaitGroup
	defer modes.Wait()
	for _, c := range []badPlugin{
		{name: "hang at start", mode: "hang", causes: []string{"start: no answer within 10s"}, next: describe},
		{name: "crash in configure", mode: "configure", causes: []string{"configure: exited with status 7\n"}, next: []string{"check config: and env: of plugins."}},
		{name: "crash every second", mode: "crash", causes: []string{"exited with status 9\n"}, next: toMend},
		{name: "slow stream", mode: "slow"},
	} {
		m := newMatrix(t, "", use)
		m.serveOnce() // one after the other, as in TestBadPluginsAtReload
		modes.Go(func() { t.Run(c.name, func(t *testing.T) { m.startWith(t, c) }) })
	}
}

// serveOnce leaves releases and routes behind for the next start.
func (m *matrix) serveOnce() {
	m.t.Helper()
	m.useOn(nil, "", "", "")
	m.start()
	m.awaitBody("/", "ok")
	m.stop()
}

// startWith starts the server with a bad plugin on all stages.
func (m *matrix) startWith(t *testing.T, c badPlugin) {
	parent := m.t
	defer func() { m.t = parent }()
	m.t = t
	use := m.standin
	m.useOn(allStages, use, c.mode, "")
	mark := len(m.out.String())
	m.launch()
	m.awaitBody("/", "ok")
	began, cpu := time.Now(), m.cpu()
	l := m.startLoad(lightLoad("/"), nil)
	for _, m.stage = range allStages {
		if len(c.causes) > 0 {
			m.awaitStageSays(c, use)
		}
	}
	m.atRest(began, cpu, mark)
	m.useOn(nil, "", "", "")
	if _, stderr, err := m.run("reload"); err != nil {
		m.t.Fatalf("reload: %v\n%s", err, stderr)
	}
	for _, m.stage = range allStages {
		m.awaitDefault()
	}
	m.save()
	m.awaitBody("/b", m.text())
	l.mustHold()
	m.leavesNothing()
}

// awaitStageSays waits until the status of the stage has what is wrong with its plugin.
func (m *matrix) awaitStageSays(c badPlugin, use string) {
	m.t.Helper()
	m.await("the trouble of the "+m.stage+" in the status", func() error {
		text := m.site.stage(m.stage).Error
		for _, want := range [][]string{{m.stage + " plugin " + use + ": "}, c.causes, c.next} {
			if !containsAny(text, want) {
				return fmt.Errorf("none of %q in %q", want, text)
			}
		}
		return nil
	})
}

// TestUnfitFilesAtStart: a server does not start with a file that is not what it should be.
func TestUnfitFilesAtStart(t *testing.T) {
	m := newMatrix(t, "", standin(t))
	for _, c := range badOnes {
		if c.sum != otherSum && c.name != "not executable" {
			continue
		}
		use := m.standin
		if c.file != nil {
			use = c.file(m)
		}
		m.useOn(allStages, use, "", c.sum)
		_, stderr, err := m.run("run")
		if err == nil {
			t.Fatalf("%s: the server has started and ended well", c.name)
		}
		for _, stage := range allStages {
			if n := strings.Count(stderr, stage+" plugin "+use+": "); n != 1 {
				t.Errorf("%s: the %s is told %d times", c.name, stage, n)
			}
		}
		m.mustSay(c, stderr)
		if t.Failed() {
			t.Logf("it said:\n%s", stderr)
		}
	}
}

// TestFloodsCostLittle has all five plugins write to stderr without end: reading that must not take a core.
func TestFloodsCostLittle(t *testing.T) {
	m := newMatrix(t, "", standin(t))
	m.useOn(allStages, m.standin, "flood", "")
	m.start()
	m.awaitBody("/", "ok")
	m.await("all floods", func() error {
		for _, stage := range allStages {
			if !strings.Contains(m.out.String(), stage+": the plugin writes too much") {
				return fmt.Errorf("not yet that of the %s", stage)
			}
		}
		return nil
	})
	began, cpu, mark := time.Now(), m.cpu(), len(m.out.String())
	m.await("three seconds more", func() error {
		if d := time.Since(began); d < 3*time.Second {
			return fmt.Errorf("%v so far", d)
		}
		return nil
	})
	if share := float64(m.cpu()-cpu) / float64(time.Since(began)); share > 0.5 {
		t.Errorf("the kernel takes %.0f%% of a core", 100*share)
	} else {
		t.Logf("the kernel takes %.0f%% of a core", 100*share)
	}
	if lines := strings.Count(m.out.String()[mark:], "\n"); lines > 5*300 {
		t.Errorf("%d lines in the log", lines)
	}
	m.stop()
}
