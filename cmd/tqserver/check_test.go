//go:build linux

package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/kernel/control"
)

// TestChecksLeaveNothing runs the commands that look at plugins beside a server under load: afterwards no process and
// no socket is there that was not before, and the server has noticed nothing.
func TestChecksLeaveNothing(t *testing.T) {
	const hangs = "#!/bin/sh\nsleep 1000 &\nwait\n"
	s := newSite(t, map[string]string{"pages/index/main.go": plainPage("ok"),
		"bin/lines": fmt.Sprintf("#!/bin/sh\nexec %s plugin run rotator/file \"$@\"\n", testBinary(t)),
		"bin/hangs": hangs,
	})
	for _, name := range []string{"bin/lines", "bin/hangs"} {
		if err := os.Chmod(s.path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	hash := sha256.Sum256([]byte(hangs))
	for name, plugins := range map[string]string{
		"good":     "{rotator: {use: ./bin/lines}}",
		"unknown":  "{rotator: {use: ./bin/lines, config: {keeep: 3}}}",
		"unlocked": "{rotator: {use: ././bin/lines}, checker: {use: ././bin/hangs}}",
		"hangs":    fmt.Sprintf(`{rotator: {use: ./bin/hangs, sha256: "%x"}, defaults: {start_timeout_ms: 500}}`, hash),
	} {
		s.write("config/"+name+".yaml", "plugins: "+plugins+"\n")
	}
	s.start("run", "--quiet")
	s.awaitBody("/", "ok")
	before, stages := processesIn(t, s.dir), s.status().Stages
	l := s.startLoad(everyKind("/")[:2], nil)
	for _, c := range []struct{ config, command, want string }{
		{"good", "plugin lock", ""},
		{"good", "config check", ""},
		{"good", "plugin verify", ""},
		{"good", "plugin describe rotator", ""},
		{"unknown", "config check", `config/unknown.yaml:1:48: plugins.rotator.config.keeep: unknown key "keeep"`},
		{"unlocked", "config check", "plugins.checker.use: checker plugin ././bin/hangs: it is not in config/plugins.lock"},
		{"unlocked", "config check", "plugins.rotator.use: rotator plugin ././bin/lines: it is not in config/plugins.lock"},
		{"hangs", "config check", "rotator plugin ./bin/hangs: start: no answer within 500ms"},
	} {
		_, stderr, err := s.run(append(strings.Fields(c.command), "--config", "config/"+c.config+".yaml")...)
		if (err != nil) != (c.want != "") || !strings.Contains(stderr, c.want) {
			t.Errorf("%s with %s.yaml: %v\n%s\nwant %s", c.command, c.config, err, stderr, c.want)
		}
		if now := processesIn(t, s.dir); !slices.Equal(now, before) {
			t.Errorf("%s with %s.yaml: processes %v before, %v after", c.command, c.config, before, now)
		}
		if left := toolSockets(t, s); len(left) > 0 {
			t.Errorf("%s with %s.yaml: left are %v", c.command, c.config, left)
		}
	}
	l.mustHold()
	for i, now := range s.status().Stages {
		if now.PID != stages[i].PID || now.State != "running" && now.State != "idle" || now.Restarts != stages[i].Restarts {
			t.Errorf("before %+v\nafter  %+v", stages[i], now)
		}
	}
}

// processesIn lists the processes that work in a directory, as all of a site do.
func processesIn(t *testing.T, dir string) (pids []string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil || len(links) == 0 {
		t.Fatalf("no process is seen, %v", err)
	}
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && cwd == dir {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	if len(pids) < len(stages)+1 {
		t.Fatalf("only %v work in %s: are they still found?", pids, dir)
	}
	return pids
}

// toolSockets lists what is left in the runtime directories that tools have beside a server's, and sockets in them.
func toolSockets(t *testing.T, s *site) []string {
	t.Helper()
	client, err := control.Find(s.path(".tqserver"))
	if err != nil {
		t.Fatal(err)
	}
	prefix := filepath.Dir(client.Socket) + "-"
	left, err := filepath.Glob(prefix + "*")
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	own := false
	for line := range strings.Lines(string(sockets)) {
		own = own || strings.HasSuffix(strings.TrimSpace(line), client.Socket)
		if strings.Contains(line, prefix) {
			left = append(left, strings.TrimSpace(line))
		}
	}
	if !own {
		t.Fatalf("the server's own socket is not seen in\n%s", sockets)
	}
	return left
}
