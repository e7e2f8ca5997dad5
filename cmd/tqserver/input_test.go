//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestBadConfigurationAtStart gives one clear error and code 1.
func TestBadConfigurationAtStart(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for name, c := range map[string]struct {
		yaml string
		args []string
		want []string
	}{
		"invalid YAML":     {yaml: "server:\n  port: [1\n", want: []string{"config/server.yaml:"}},
		"unknown key":      {yaml: "server:\n  prot: 8080\n", want: []string{"config/server.yaml:2:3", `"prot"`, `"port"`}},
		"out of range":     {yaml: "server:\n  port: 99999\n", want: []string{"config/server.yaml:2:9", "server.port"}},
		"start after end":  {yaml: "workers:\n  port_range_start: 9500\n  port_range_end: 9400\n", want: []string{"port_range"}},
		"memory":           {yaml: "workers:\n  default:\n    go_mem_limit: lots\n", want: []string{"config/server.yaml:3:19", "go_mem_limit"}},
		"unknown plugin":   {yaml: "plugins:\n  checker: {use: builtin:htpt}\n", want: []string{"config/server.yaml:2:", "htpt", "http"}},
		"plugin is absent": {yaml: "plugins:\n  checker: {use: ./no/such/plugin}\n", want: []string{"config/server.yaml:2:", "no/such/plugin"}},
		"no pages":         {yaml: "pages: {directory: nowhere}\n", want: []string{"pages directory", "nowhere does not exist", "tqserver new"}},
		"pages is a file":  {yaml: "pages: {directory: go.mod}\n", want: []string{"is not a directory"}},
		"port taken":       {yaml: fmt.Sprintf("server: {host: 127.0.0.1, port: %d}\n", port), want: []string{fmt.Sprintf("port %d is taken", port), "server.port"}},
		"missing file":     {args: []string{"--config", "no.yaml"}, want: []string{"no.yaml"}},
		"old flag":         {args: []string{"-config", "no.yaml"}, want: []string{"no.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.yaml != "" {
				s.write("config/server.yaml", c.yaml)
			}
			_, stderr, err := s.run(c.args...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(c.want, "tqserver: error: ") {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in:\n%s", want, stderr)
				}
			}
		})
	}
}

// TestBadConfigurationAtReload leaves the running one in force, shows why, and takes the next good one.
func TestBadConfigurationAtReload(t *testing.T) {
	t.Parallel()
	s := newSite(t, map[string]string{"pages/index/main.go": envPage("GOMAXPROCS")})
	s.start()
	l := s.startLoad([]client{{name: "GET", path: "/"}, {name: "new connection", path: "/", newConn: true}}, nil)
	good, err := os.ReadFile(s.path("config/server.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ yaml, want string }{
		"half-written":    {string(good[:len(good)/2]) + "\n  po", "config/server.yaml:"},
		"empty":           {"", "config/server.yaml:"},
		"unknown key":     {string(good) + "serverr: {}\n", `"serverr"`},
		"other port":      {strings.Replace(string(good), fmt.Sprint(s.port), "1", 1), "server.port"},
		"restart only":    {string(good) + "plugins: {defaults: {rpc_timeout_ms: 9999}}\n", "plugins.defaults"},
		"plugin's config": {string(good) + "plugins:\n  checker: {config: {intervall_ms: 5}}\n", "intervall_ms"},
		"no pages":        {string(good) + "pages: {directory: nowhere}\n", "nowhere does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			s.write("config/server.yaml", c.yaml)
			s.await("the error in the status", func() error {
				if r := s.status().Reload; r == nil || !strings.Contains(r.Error, c.want) {
					return fmt.Errorf("it says %+v", r)
				}
				return nil
			})
			if _, stderr, err := s.run("--config", "config/server.yaml", "reload"); err == nil && c.yaml != "" {
				t.Errorf("reload: no error: %s", stderr)
			}
			if out, stderr, err := s.run("status"); err != nil || !strings.Contains(out, "reload") || !strings.Contains(out, c.want) {
				t.Errorf("status: %v\n%s%s", err, out, stderr)
			}
			if status, body, err := s.get("/"); status != 200 || strings.TrimSpace(body) != "1" {
				t.Errorf("the page answers %d %q, %v", status, body, err)
			}
			s.write("config/server.yaml", string(good))
			s.await("the reload", func() error {
				if r := s.status().Reload; r == nil || r.Error != "" {
					return fmt.Errorf("the status says %+v", r)
				}
				return nil
			})
		})
	}
	s.configure("", "default: {go_max_procs: 2}", "")
	s.awaitBody("/", "2")
	l.mustHold()
}

// TestTornConfiguration is written in pieces, renamed over, and flipped through links: each time the last whole one
// goes live.
func TestTornConfiguration(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": envPage("GOMAXPROCS")})
	s.start()
	s.configure("", "default: {go_max_procs: 2}", "")
	whole, err := os.ReadFile(s.path("config/server.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.path("config/server.yaml"), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := range strings.Lines(strings.Replace(string(whole), "procs: 2", "procs: 3", 1)) {
		if _, err := f.WriteString(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.awaitBody("/", "3")
	s.write("config/new.yaml", strings.Replace(string(whole), "procs: 2", "procs: 4", 1))
	if err := os.Rename(s.path("config/new.yaml"), s.path("config/server.yaml")); err != nil {
		t.Fatal(err)
	}
	s.awaitBody("/", "4")
}

// TestSecondServer for one site is refused.
func TestSecondServer(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.start()
	_, stderr, err := s.run("run")
	if err == nil || !strings.Contains(stderr, "a server already runs for this site") {
		t.Errorf("second server: %v\n%s", err, stderr)
	}
	s.awaitBody("/", "ok")
}

// TestSymlinkLoopAndUnreadableFiles do no harm to the other pages.
func TestSymlinkLoopAndUnreadableFiles(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok"), "pages/deep/x/main.go": textPage("x")})
	if err := os.Symlink(s.path("pages"), s.path("pages/deep/loop")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("self", s.path("pages/self")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(s.path("pages/index/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.awaitBody("/", "ok")
	s.awaitBody("/deep/x", "x")
	s.write("pages/deep/x/main.go", textPage("y"))
	s.awaitBody("/deep/x", "y")
}

// mountSmall puts a small file system at a directory, for filling it up.
func mountSmall(t *testing.T, dir, size string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a small file system can be mounted by root only")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestDiskFullForBinaries: the old release serves on and the message names the place; when there is room, the save
// goes live.
func TestDiskFullForBinaries(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	bin := filepath.Join(filepath.Dir(s.dir), "bin")
	mountSmall(t, bin, "64m")
	s.start()
	l := s.startLoad(everyKind("/")[:4], nil)
	filler := filepath.Join(bin, "filler")
	fill(t, filler)
	s.write("pages/index/main.go", textPage("two"))
	s.await("the error in the status", func() error {
		if e := s.page("index").Error; !strings.Contains(e, "no space left on device") || !strings.Contains(e, bin) {
			return fmt.Errorf("it says %q", e)
		}
		return nil
	})
	s.awaitBody("/", "one")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := s.run("reload"); err != nil {
		t.Errorf("reload: %v: %s", err, stderr)
	}
	s.awaitBody("/", "two")
	l.mustHold()
}

// fill takes all the room that is left.
func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<16); ; {
		if _, err := f.Write(block); err != nil {
			return
		}
	}
}

// TestDiskFullForLogs: requests go on, the trouble is shown, and when there is room again no line is missing.
func TestDiskFullForLogs(t *testing.T) {
	page := strings.Replace(plainPage("ok"), `fmt.Fprintln(w, "ok")`, `log.Println("line", r.FormValue("n")); fmt.Fprintln(w, "ok")`, 1)
	s := newSite(t, map[string]string{"pages/index/main.go": page})
	logs := s.path("logs")
	mountSmall(t, logs, "1m")
	s.start()
	filler := filepath.Join(logs, "filler")
	s.awaitBody("/?n=first", "ok")
	fill(t, filler)
	const lines = 500
	for n := range lines {
		if status, _, err := s.get(fmt.Sprintf("/?n=%d", n)); status != 200 {
			t.Fatalf("request with a full disk: %d, %v", status, err)
		}
	}
	s.await("the trouble in the status", func() error {
		if l := s.status().Logs; !strings.Contains(l.Error, "no space left on device") || l.Waiting == 0 {
			return fmt.Errorf("it says %+v", l)
		}
		return nil
	})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.await("all lines in the log", func() error {
		text := readAll(t, filepath.Join(logs, "index"))
		for n := range lines {
			if c := strings.Count(text, fmt.Sprintf("line %d\n", n)); c != 1 {
				return fmt.Errorf("line %d is there %d times", n, c)
			}
		}
		return nil
	})
}

// readAll joins the files of a directory.
func readAll(t *testing.T, dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		data, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		b.Write(data)
	}
	return b.String()
}
