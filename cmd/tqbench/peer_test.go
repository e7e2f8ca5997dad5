//go:build linux

package main

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func testSetup(t *testing.T, routes int) setup {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/tmp", 0o755); err != nil {
		t.Fatal(err)
	}
	return setup{dir: dir, worker: "127.0.0.1:12345", socket: dir + "/worker.sock", procs: 2, routes: routes}
}

// check has a program look at its configuration, where it is installed.
func check(t *testing.T, s setup, name, config string, args ...string) {
	t.Helper()
	if err := s.write(map[string]string{"config": config}); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Logf("%s is not installed: its configuration is not tried", name)
		return
	}
	if out, err := run(t.Context(), time.Minute, command{argv: append([]string{path}, args...), dir: s.dir}); err != nil {
		t.Errorf("%s refuses its configuration: %v\n%s\n%s", name, err, out, config)
	}
}

func wants(t *testing.T, config string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(config, want) {
			t.Errorf("no %q in\n%s", want, config)
		}
	}
	if strings.Contains(config, "%!") {
		t.Errorf("a value is missing in\n%s", config)
	}
}

func TestNginxConfig(t *testing.T) {
	for _, p := range nginxPeers("nginx") {
		s := testSetup(t, 3)
		config := nginxConfig(p, s, 54321, tunedBuffers)
		wants(t, config, "worker_processes 2;", "listen 127.0.0.1:54321 ", "location / {", "location /r1/ {", "location /r2/ {",
			"access_log "+s.dir, "proxy_http_version 1.1;", `Connection "";`, "X-Forwarded-For", "X-Forwarded-Proto", "keepalive 1024;", "proxy_buffers 16 32k;")
		upstream := "server " + s.worker + ";"
		if p.unix {
			upstream = "server unix:" + s.socket + ";"
		}
		wants(t, config, upstream)
		check(t, s, "nginx", config, "-t", "-p", s.dir, "-c", s.path("config"), "-e", s.path("error.log"))
	}
}

func TestHAProxyConfig(t *testing.T) {
	s := testSetup(t, 3)
	config := haproxyConfig(s, 54321)
	wants(t, config, "nbthread 2", "bind 127.0.0.1:54321", "http-reuse", "option forwardfor", "X-Forwarded-Proto", "server worker 127.0.0.1:12345", "map_beg("+s.dir)
	if err := s.write(map[string]string{"routes.map": "/r1/ worker\n/ worker\n"}); err != nil {
		t.Fatal(err)
	}
	check(t, s, "haproxy", config, "-c", "-f", s.path("config"))
}

func TestCaddyConfig(t *testing.T) {
	s := testSetup(t, 3)
	config := caddyConfig(s, 54321, 54322)
	wants(t, config, "admin 127.0.0.1:54322", "http://:54321 {", "bind 127.0.0.1", "import worker /r1/*", "import worker /r2/*", "import worker /*\n", "reverse_proxy 127.0.0.1:12345", "output file "+s.dir+"/access.log")
	check(t, s, "caddy", config, "adapt", "--config", s.path("config"), "--adapter", "caddyfile")
}

func TestTqserverSite(t *testing.T) {
	s := testSetup(t, 3)
	files := tqserver{"tqserver", "/bin/worker", "  fast_lane: true\n", "  default: {endpoint: unix}\n"}.site(s, 54321, 20000)
	wants(t, files["config/server.yaml"], "port: 54321", "  fast_lane: true\n", "port_range_start: 20000\n", "port_range_end: 20022\n", "\n  default: {endpoint: unix}\n", "log_file: access.log")
	wants(t, files["pages/r2/page.yaml"], `run: ["/bin/worker"]`)
	if files["pages/index/main.go"] != workerSource || !strings.Contains(workerSource, `const revision = "0"`) {
		t.Error("the page is not the worker, or has no revision for a save to change")
	}
}

func TestTqserverPeers(t *testing.T) {
	for _, c := range []struct {
		lanes, sockets bool
		names          []string
	}{
		{false, false, []string{laneS}},
		{true, false, []string{laneR, laneS}},
		{true, true, []string{laneR, laneS, laneR + ", unix", laneS + ", unix"}},
	} {
		var names []string
		for _, p := range tqserverPeers("tqserver", "worker", c.lanes, c.sockets) {
			names = append(names, p.name)
			if p.unix != strings.HasSuffix(p.name, "unix") {
				t.Errorf("%s: unix is %v", p.name, p.unix)
			}
		}
		if !slices.Equal(names, c.names) {
			t.Errorf("lanes %v, sockets %v: %q", c.lanes, c.sockets, names)
		}
	}
}

func TestVersionIn(t *testing.T) {
	for out, want := range map[string]string{
		"nginx version: nginx/1.22.1\n":                                  "1.22.1",
		"HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://x.org/\n": "2.6.12-1+deb12u4",
		"v2.11.4 h1:abc=\n":                                              "2.11.4",
		"unknown\n":                                                      "",
	} {
		if got := versionIn(out); got != want {
			t.Errorf("%q is version %q, not %q", out, got, want)
		}
	}
}

func TestTree(t *testing.T) {
	c, err := startChild(context.Background(), command{argv: []string{"/bin/sh", "-c", "sleep 300 & exec sleep 300"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop(time.Minute)
	var pids []int
	if err := c.await(t.Context(), "a grandchild", time.Minute, func() (err error) {
		if pids, err = tree(c.pid(), nil); err == nil && len(pids) != 2 {
			err = os.ErrNotExist
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if s, err := readStat(pids[1]); err != nil || s.parent != c.pid() || pids[0] != c.pid() {
		t.Errorf("%v has parent %d, %v", pids, s.parent, err)
	}
	if all, err := tree(os.Getpid(), pids[:1]); err != nil || slices.Contains(all, pids[0]) || slices.Contains(all, pids[1]) {
		t.Errorf("without %d there is %v, %v", pids[0], all, err)
	}
	if m, err := readMemory(pids); err != nil || m.RSS <= 0 || m.PSS <= 0 || m.PSS > m.RSS {
		t.Errorf("memory is %+v, %v", m, err)
	}
}

func TestUsage(t *testing.T) {
	own := []int{os.Getpid()}
	before := readUsage(own)
	deadline := time.Now().Add(time.Minute)
	for n := 0; readUsage(own).since(before).total() == 0; n++ {
		if time.Now().After(deadline) {
			t.Fatal("reading files for a minute takes no CPU time")
		}
	}
	if spent := (usage{1: 5, 2: 7}).since(usage{1: 2, 3: 100}); spent[1] != 3 || spent.total() != 10 {
		t.Errorf("5-2 and 7 of a new process are %v", spent)
	}
}
