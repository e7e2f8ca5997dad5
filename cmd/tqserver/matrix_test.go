//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

// badPlugin is a way in which a plugin can be bad.
type badPlugin struct {
	name   string
	mode   string                      // what the stand-in does, see testdata/standin/bad.go
	file   func(m *matrix) string      // makes the file; nil: the stand-in itself
	sum    string                      // sha256 to be configured
	takes  bool                        // it passes what a reload looks at, and goes wrong at work
	causes []string                    // one of them is told
	next   []string                    // one of them is told: what to do
	during func(m *matrix, use string) // more to look at while it is configured
}

const otherSum = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var (
	describe = []string{"--describe"}
	badOnes  = []badPlugin{
		{name: "exits at start", mode: "exit", causes: []string{"start: exited with status 3\n"}, next: describe},
		{name: "hangs at start", mode: "hang", causes: []string{"start: no answer within 10s"}, next: describe},
		{name: "wrong cookie", mode: "cookie", causes: []string{"start: exited with status 1\n"}, next: describe},
		{name: "wrong protocol", mode: "protocol", causes: []string{"the plugin speaks protocol 99, this tqserver speaks 1"}, next: []string{"upgrade tqserver"}},
		{name: "garbage on stdout", mode: "garbage", causes: []string{`standard output began with "listening on :8080"`}, next: []string{"logs to stderr"}},
		{name: "grandchild holds stderr", mode: "grandchild", causes: []string{"start: exited with status 4"}, next: describe},
		{name: "crashes in configure", mode: "configure", causes: []string{"configure: exited with status 7\n"}, next: []string{"check config: and env: of plugins."}},
		{name: "wrong checksum", sum: otherSum, causes: []string{"the file's hash is "}, next: []string{"put its hash into sha256"}},
		{name: "not executable", file: notExecutable, causes: []string{"is not executable"}, next: []string{"chmod +x"}},
		{name: "wrong architecture", file: foreignProgram, causes: []string{"exec format error"}, next: []string{"build it for linux/" + runtime.GOARCH}},
		{name: "replaced after the check", file: pinned, sum: "own", takes: true, during: fileReplaced},
		{name: "crashes every second", mode: "crash", takes: true, causes: []string{"exited with status 9\n"}, next: toMend},
		{name: "100 MB message", mode: "big", takes: true, causes: []string{"message larger than max"}, next: append(toMend, "that is mended", "are sent again")},
		{name: "slow stream", mode: "slow", takes: true, during: stillServes},
		{name: "floods stderr", mode: "flood", takes: true, causes: []string{"lines were dropped"}, next: []string{"the plugin writes too much"}},
		{name: "stops itself", mode: "stop", takes: true, causes: []string{"missed 3 heartbeats in a row"}, next: toMend},
	}
	toMend = []string{"mend the plugin, or have plugins."}
)

// TestBadPluginsAtReload has each stage use each bad plugin in a running site: it is refused, or fails at work, and
// that is told once and clearly. Requests never notice, the kernel stays quiet, and nothing is left.
func TestBadPluginsAtReload(t *testing.T) {
	t.Parallel()
	use := standin(t)
	var stages sync.WaitGroup
	defer stages.Wait()
	for _, stage := range allStages {
		m := newMatrix(t, stage, use)
		m.use("builtin", "", "")
		m.start()                                    // one after the other: to start all plugins at once is too much for a loaded machine
		stages.Go(func() { t.Run(stage, m.tryAll) }) // not t.Parallel: they mostly wait, so all of them can at once
	}
}

func (m *matrix) tryAll(t *testing.T) {
	parent := m.t
	defer func() { m.t = parent }()
	m.t = t
	l := m.startLoad(lightLoad("/"), nil)
	for _, c := range badOnes {
		t.Run(c.name, func(one *testing.T) {
			m.t = one
			defer func() { m.t = t }()
			m.try(c)
		})
	}
	m.save() // all that was tried has done no harm
	m.awaitBody("/b", m.text())
	l.mustHold()
	m.leavesNothing()
}

// lightLoad is every kind of quick client, at a pace that leaves the machine to others.
func lightLoad(path string) []client {
	clients := everyKind(path)[:4]
	for i := range clients {
		clients[i].pause = 30 * time.Millisecond
	}
	return clients
}

// matrix is a site on one stage of which bad plugins are tried.
type matrix struct {
	*site
	stage, standin string
	tmp            string // TMPDIR of the server and of all that it starts
	saves          int
}

func newMatrix(t *testing.T, stage, use string) *matrix {
	t.Helper()
	tmp := publicDir(t)
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok"), "pages/b/main.go": textPage("b 0")})
	s.environ = []string{"TMPDIR=" + tmp, "XDG_RUNTIME_DIR="}
	return &matrix{site: s, stage: stage, standin: use, tmp: tmp}
}

// use configures the stage; plugin "builtin" is its default.
func (m *matrix) use(plugin, mode, sum string) {
	m.t.Helper()
	if plugin == "builtin" {
		m.useOn(nil, "", "", "")
	} else {
		m.useOn([]string{m.stage}, plugin, mode, sum)
	}
}

// useOn configures a plugin for some stages. The watcher does not see that: a reload tells.
func (m *matrix) useOn(stages []string, plugin, mode, sum string) {
	m.t.Helper()
	yaml := "file_watcher: {ignore: [server.yaml]}\nplugins:\n  defaults: {start_timeout_ms: 10000, rpc_timeout_ms: 4000, restart: {initial_ms: 100, max_ms: 400, budget: 4}}\n"
	for _, stage := range stages {
		yaml += fmt.Sprintf("  %s: {use: %s, sha256: %q, env: {BAD: %q}}\n", stage, plugin, sum, mode)
	}
	m.configure("", "", yaml)
}

// try configures one bad plugin, and where that has an effect the default again.
func (m *matrix) try(c badPlugin) {
	m.t.Helper()
	use, sum := m.standin, c.sum
	if c.file != nil {
		use = c.file(m)
	}
	if sum == "own" {
		sum = sumOf(m.t, use)
	}
	before, mark, cpu := m.site.stage(m.stage), len(m.out.String()), m.cpu()
	began := time.Now()
	m.use(use, c.mode, sum)
	_, stderr, err := m.run("reload")
	switch {
	case err == nil && !c.takes:
		m.t.Fatalf("it is taken")
	case err == nil:
		if m.stage == "builder" { // the others have to do anyway
			m.save()
		}
		if len(c.causes) > 0 {
			m.awaitSaid(c, use, mark)
		}
		if c.during != nil {
			c.during(m, use)
		}
		m.atRest(began, cpu, mark)
		m.recover()
	case c.takes: // found out before it was put to work
		m.refused(badPlugin{causes: append(c.causes, "no answer within"), next: toMend}, use, stderr)
		m.runsOn(before)
	default:
		m.refused(c, use, stderr)
		m.runsOn(before)
	}
}

// runsOn checks that the plugin before was left alone.
func (m *matrix) runsOn(before control.Stage) {
	m.t.Helper()
	if now := m.site.stage(m.stage); now.PID != before.PID || now.State != "running" || now.Plugin != before.Plugin {
		m.t.Errorf("the plugin before does not run on: %+v, it was %+v", now, before)
	}
}

// refused looks at the error of a reload: one, and clear.
func (m *matrix) refused(c badPlugin, use, stderr string) {
	m.t.Helper()
	who := m.stage + " plugin " + use + ": "
	if n := strings.Count(stderr, who); n != 1 {
		m.t.Errorf("the plugin is named %d times", n)
	}
	m.mustSay(c, stderr)
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "tqserver: error: ") && !strings.HasPrefix(line, "tqserver: hint: ") {
			m.t.Errorf("printed: %s", line)
		}
	}
	if r := m.status().Reload; r == nil || !strings.Contains(r.Error, who) {
		m.t.Errorf("the status says %+v", r)
	}
	if m.t.Failed() {
		m.t.Logf("it said:\n%s", stderr)
	}
}

func (m *matrix) mustSay(c badPlugin, text string) {
	m.t.Helper()
	for _, want := range [][]string{c.causes, c.next} {
		if !containsAny(text, want) {
			m.t.Errorf("none of %q is told in:\n%s", want, text)
		}
	}
}

func containsAny(text string, any []string) bool {
	return slices.ContainsFunc(any, func(s string) bool { return strings.Contains(text, s) })
}

// awaitSaid waits until the server has told what is wrong with the plugin.
func (m *matrix) awaitSaid(c badPlugin, use string, mark int) {
	m.t.Helper()
	m.await("the trouble to be told", func() error {
		text := m.said(mark)
		for _, want := range [][]string{{m.stage + " plugin " + use, "plugin=" + use}, c.causes, c.next} {
			if !containsAny(text, want) {
				return fmt.Errorf("none of %q", want)
			}
		}
		return nil
	})
}

// said is what the server tells on the console and in its status.
func (m *matrix) said(mark int) string {
	m.t.Helper()
	st := m.status()
	text := m.out.String()[mark:] + st.Logs.Error
	for _, stage := range st.Stages {
		text += "\n" + stage.Error
	}
	for _, p := range st.Pages {
		text += "\n" + p.Error
	}
	return text
}

// atRest looks at what a bad plugin costs: some seconds of the kernel, and lines of its log.
func (m *matrix) atRest(began time.Time, cpu time.Duration, mark int) {
	m.t.Helper()
	m.await("some seconds of it", func() error {
		if d := time.Since(began); d < 2500*time.Millisecond {
			return errors.New(d.String())
		}
		return nil
	})
	if share := float64(m.cpu()-cpu) / float64(time.Since(began)); share > 0.5 {
		m.t.Errorf("the kernel took %.0f%% of a core", 100*share)
	}
	lines := 0
	for line := range strings.Lines(m.out.String()[mark:]) {
		if !strings.Contains(line, "GET /") && !strings.Contains(line, "POST /") {
			lines++
		}
	}
	if limit := 400 + int(time.Since(began).Seconds())*50; lines > limit {
		m.t.Errorf("%d lines in the log, want less than %d", lines, limit)
	}
}

// cpu is what the kernel has used so far.
func (m *matrix) cpu() time.Duration {
	m.t.Helper()
	return cpuTime(m.t, m.cmd.Process.Pid)
}

func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err := strconv.Atoi(fields[11]) // utime, the 14th of proc_pid_stat(5); the first of these is the 3rd
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
}

// recover goes back to the default.
func (m *matrix) recover() {
	m.t.Helper()
	m.use("builtin", "", "")
	if _, stderr, err := m.run("reload"); err != nil {
		m.t.Fatalf("back to the default: %v\n%s", err, stderr)
	}
	m.awaitDefault()
}

func (m *matrix) awaitDefault() {
	m.t.Helper()
	m.await("the default "+m.stage+" to run", func() error {
		if st := m.site.stage(m.stage); st.State != "running" || !strings.HasPrefix(st.Plugin, "builtin:") {
			return fmt.Errorf("it is %s, %s", st.Plugin, st.State)
		}
		return nil
	})
}

// save gives every stage something to do.
func (m *matrix) save() {
	m.t.Helper()
	m.saves++
	m.write("pages/b/main.go", textPage(m.text()))
}

func (m *matrix) text() string { return fmt.Sprint("b ", m.saves) }

// leavesNothing stops the server and looks for what is left of it and of the plugins.
func (m *matrix) leavesNothing() {
	m.t.Helper()
	m.stop()
	m.await("all processes to be gone", func() error {
		if pids := withVariable("TMPDIR=" + m.tmp); len(pids) > 0 {
			return fmt.Errorf("%q are left", pids)
		}
		return nil
	})
	left := slices.DeleteFunc(listFiles(m.tmp), func(f string) bool { // a C compiler that the go command asks for its version, killed with it
		return strings.HasPrefix(filepath.Base(f), "cc") && filepath.Ext(f) == ".s"
	})
	if len(left) > 0 {
		m.t.Errorf("files are left: %q", left)
	}
	// One copy may be there: of a plugin that was replaced so lately that it could have come back.
	if left := listFiles(m.path(".tqserver/plugins")); len(left) > 1 || slices.ContainsFunc(left, func(f string) bool { return filepath.Base(f) != "plugin" }) {
		m.t.Errorf("files are left: %q", left)
	}
}

// withVariable lists the processes that have an entry in their environment, with their command lines.
func withVariable(entry string) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		environ, _ := os.ReadFile(path) // one that is gone, or a zombie, has none
		if !slices.Contains(strings.Split(string(environ), "\x00"), entry) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		found = append(found, filepath.Base(filepath.Dir(path))+" "+strings.ReplaceAll(string(line), "\x00", " "))
	}
	return found
}

// copyOf is the stand-in in the site, to be changed.
func (m *matrix) copyOf(mode os.FileMode) string {
	m.t.Helper()
	data, err := os.ReadFile(m.standin)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.place(data, mode)
}

// place puts a file where a rename replaces the one before as a whole.
func (m *matrix) place(data []byte, mode os.FileMode) string {
	m.t.Helper()
	path := m.path("plugin.bin")
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Chmod(path+".new", mode), os.Rename(path+".new", path)); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func notExecutable(m *matrix) string { return m.copyOf(0o644) }

func pinned(m *matrix) string { return m.copyOf(0o755) }

// foreignProgram is one for a machine that this is not.
func foreignProgram(m *matrix) string {
	m.t.Helper()
	data, err := os.ReadFile(m.standin)
	if err != nil {
		m.t.Fatal(err)
	}
	const machine = 18 // offset of e_machine in the header, elf(5)
	data[machine], data[machine+1] = byte(elf.EM_S390), 0
	return m.place(data, 0o755)
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// fileReplaced: what was checked is what runs, also after a crash, and a reload refuses the other file. A plugin that
// ends so soon after it was put to work may also be given up for the one before.
func fileReplaced(m *matrix, use string) {
	m.t.Helper()
	m.place([]byte("#!/bin/sh\necho I am another\n"), 0o755)
	old := m.killStage(m.stage)
	m.await("the plugin to be back", func() error {
		if now := m.site.stage(m.stage); now.State != "running" || now.PID == old.PID || now.Plugin == use && now.Version != old.Version {
			return fmt.Errorf("it is %+v", now)
		}
		return nil
	})
	_, stderr, err := m.run("reload")
	if err == nil {
		m.t.Error("the file that was put in its place is taken")
	}
	m.refused(badPlugin{causes: []string{"the file's hash is "}, next: []string{"put its hash into sha256"}}, use, stderr)
	if now := m.site.stage(m.stage); now.State != "running" {
		m.t.Errorf("afterwards the plugin is %+v", now)
	}
}

// stillServes: a plugin that never gets anywhere holds up its own work only.
func stillServes(m *matrix, use string) {
	m.t.Helper()
	if now := m.site.stage(m.stage); now.Plugin != use {
		m.t.Errorf("in use is %+v", now)
	}
	m.awaitBody("/", "ok")
}
