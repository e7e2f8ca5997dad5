//go:build linux

package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const vhostYAML = "plugins:\n  resolver: {use: builtin:vhost, config: {aliases: [www.example.org=example.org]%s}}\n"

// TestVirtualHosts: one server, two hosts, each with its pages, workers, logs and reloads.
func TestVirtualHosts(t *testing.T) {
	api := strings.Replace(textPage("org api"), "runtime, err :=", "fmt.Println(\"api is here\")\n\truntime, err :=", 1)
	s := newSite(t, map[string]string{"pages/example.org/index/main.go": textPage("org"), "pages/example.org/api/main.go": api,
		"pages/example.net/index/main.go": textPage("net"), "pages/Bad_Name/index/main.go": textPage("bad")})
	s.configure("", "paths:\n  \"/api\": {log_file: \"logs/{path}/api_{date}.log\"}", fmt.Sprintf(vhostYAML, ""))
	s.start()
	s.awaitHost("example.org", "/", "200 org")
	s.awaitHost("EXAMPLE.org:8080", "/api/x", "200 org api")
	s.awaitHost("example.net.", "/", "200 net")
	s.awaitHost("example.net", "/api", "200 net") // it has no such page; its index takes all below /
	s.awaitHost("www.example.org", "/api", "200 org api")
	s.awaitHost("nobody.example", "/", "404 ")
	s.awaitLog("Bad_Name is not served")
	if got := s.askHost("nobody.example", "/", "X-Forwarded-Host", "example.org", "Forwarded", "host=example.org"); !strings.HasPrefix(got, "404 ") {
		t.Errorf("a client chooses the host with X-Forwarded-Host: %s", got)
	}
	s.await("the log that the path has for every host", func() error {
		if text := readAll(t, s.path("logs/example.org/api")); !strings.Contains(text, "api is here") {
			return fmt.Errorf("it has %q", text)
		}
		return nil
	})
	if n := len(s.page("example.org/api").Workers); n != 1 {
		t.Errorf("%d workers of a page with an alias, want 1", n)
	}

	s.write("pages/example.org/index/main.go", textPage("org two"))
	s.awaitHost("example.org", "/", "200 org two")
	s.awaitHost("www.example.org", "/", "200 org two")
	s.awaitHost("example.net", "/", "200 net")
	s.write("pages/sub.example.net/index/main.go", textPage("sub"))
	s.awaitHost("sub.example.net", "/any", "200 sub")

	// an alias comes and goes without a new worker
	before := s.page("example.net/index").Workers[0].PID
	s.configure("", "", fmt.Sprintf(vhostYAML, ", default: example.net"))
	s.awaitHost("nobody.example", "/", "200 net")
	s.configure("", "", fmt.Sprintf(vhostYAML, ""))
	s.awaitHost("nobody.example", "/", "404 ")
	if after := s.page("example.net/index").Workers[0].PID; after != before {
		t.Errorf("a change of the hosts replaced worker %d by %d", before, after)
	}
	s.checkHostCommands()
}

// checkHostCommands: a page of a host is named on the command line as in its directory.
func (s *site) checkHostCommands() {
	s.t.Helper()
	for _, c := range []struct{ args, want string }{
		{"routes", "example.org/api"}, {"status", "example.org/api"}, {"build", "example.org/index"}, {"logs example.org/api", "api is here"},
	} {
		out, stderr, err := s.run(strings.Fields(c.args)...)
		if c.args == "build" { // a directory that is no host is an error of the site
			err = nil
		}
		if err != nil || !strings.Contains(out, c.want) || c.args == "build" && strings.Count(out, "example.org/index") != 1 {
			s.t.Errorf("tqserver %s: %v\n%s%s", c.args, err, out, stderr)
		}
	}
}

func (s *site) awaitHost(host, path, want string) {
	s.t.Helper()
	s.await(host+path+" to answer "+want, func() error {
		if got := s.askHost(host, path); got != want && !(strings.HasSuffix(want, " ") && strings.HasPrefix(got, want)) {
			return fmt.Errorf("it answers %q", got)
		}
		return nil
	})
}

// askHost asks once for a path of a host, and gives status and body.
func (s *site) askHost(host, path string, header ...string) string {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url(path), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Host = host
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(b)))
}
