//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/proxy"
)

// suite is packages of a module whose tests use net/http/httptest.
type suite struct {
	module   string // "" for the standard library, else path@version
	packages []string
}

// quickSuites are run by `make test`, the others by `make suites`: they need the module proxy and minutes.
var (
	quickSuites = []suite{{packages: []string{"net/http/httputil", "net/http/cookiejar", "net/rpc", "compress/gzip"}}}
	otherSuites = []suite{
		{packages: []string{"net/http/httptest", "net/http/pprof", "net/http/cgi", "encoding/json", "expvar"}},
		{module: "github.com/go-chi/chi/v5@v5.5.0", packages: []string{"./..."}},
		{module: "github.com/gorilla/websocket@v1.5.3", packages: []string{"./..."}},
		{module: "github.com/coder/websocket@v1.8.15", packages: []string{"."}},
		{module: "github.com/gorilla/handlers@v1.5.2", packages: []string{"./..."}},
		{module: "github.com/gorilla/mux@v1.8.1", packages: []string{"./..."}},
		{module: "github.com/julienschmidt/httprouter@v1.3.0", packages: []string{"./..."}},
		{module: "github.com/labstack/echo/v4@v4.16.0", packages: []string{"./..."}},
	}
)

// TestSuites runs tests of others with each of their httptest servers behind a proxy of ours. What passes without the
// proxy must pass with it, except the cases in testdata/suites.txt, which says why. TQSERVER_SUITES=all runs all suites,
// another value those whose name has it, in both lanes; else the fast one has to do.
func TestSuites(t *testing.T) {
	which := os.Getenv("TQSERVER_SUITES")
	if which == "" {
		runSuites(t, quickSuites, which, true)
		return
	}
	suites := append(slices.Clone(quickSuites), otherSuites...)
	t.Run("standard", func(t *testing.T) { runSuites(t, suites, which, false) })
	t.Run("fast", func(t *testing.T) { runSuites(t, suites, which, true) })
}

func runSuites(t *testing.T, suites []suite, which string, fast bool) {
	f := startFronts(t, fast)
	overlay := overlayHTTPTest(t)
	known := knownCases(t)
	for _, s := range suites {
		name := s.module
		if name == "" {
			name = strings.Join(s.packages, "+")
		}
		if which == "" || which == "all" || strings.Contains(name, which) {
			t.Run(name, func(t *testing.T) { s.compare(t, overlay, f.lis.Addr().String(), known) })
		}
	}
	t.Logf("%d servers were put behind a proxy, whose fast lane has served %d requests", f.served, f.fastRequests.Load())
	if f.served == 0 || fast != (f.fastRequests.Load() > 0) {
		t.Error("no server was put behind a proxy, or not in this lane")
	}
}

// compare runs a suite without the proxy and with it.
func (s suite) compare(t *testing.T, overlay, fronts string, known map[string]string) {
	dir := s.source(t)
	direct := s.run(t, dir, overlay, "^$", "")
	proxied := s.run(t, dir, overlay, fatal(known), fronts)
	passed, differ := 0, []string{}
	for test, r := range direct {
		switch {
		case r.action != "pass":
		case proxied[test].action == "pass":
			passed++
		default:
			differ = append(differ, test)
		}
	}
	slices.Sort(differ)
	explained := 0
	for _, test := range differ {
		if slices.ContainsFunc(differ, func(other string) bool { return strings.HasPrefix(other, test+"/") }) {
			continue // a part of it says so
		}
		if reason := known[test]; reason != "" {
			explained++
			t.Logf("known: %s: %s", test, reason)
			continue
		}
		t.Errorf("%s passes without the proxy; with it: %s\n%s", test, proxied[test].action, tail(proxied[test].output, 2000))
	}
	t.Logf("%d tests pass without the proxy, %d of them with it, %d differ for a known reason", passed+len(differ), passed, explained)
	if passed == 0 {
		t.Error("no test passes at all")
	}
}

// source gives the directory to run a suite in: a copy of the module, for which nothing is read-only.
func (s suite) source(t *testing.T) string {
	t.Helper()
	if s.module == "" {
		return "."
	}
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", s.module).Output()
	var module struct{ Dir, Error string }
	if json.Unmarshal(out, &module) != nil || module.Dir == "" {
		t.Fatalf("get %s: %v %s", s.module, err, module.Error)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(module.Dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); errors.Is(err, os.ErrNotExist) {
		path, _, _ := strings.Cut(s.module, "@")
		err = os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module "+path+"\n\ngo 1.20\n"), 0o644)
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// result is how one test ended: pass, fail, skip, or "" when it has not.
type result struct{ action, output string }

// run runs the tests of a suite, behind the proxy if fronts are given, and gives the results by package and name.
func (s suite) run(t *testing.T, dir, overlay, skip, fronts string) map[string]result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	args := append([]string{"test", "-json", "-short", "-count=1", "-timeout=3m", "-overlay=" + overlay, "-skip=" + skip}, s.packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TQ_FRONTS="+fronts)
	if s.module != "" {
		cmd.Env = append(cmd.Env, "GOFLAGS=-mod=mod", "GOWORK=off")
	}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &stderr, 10*time.Second
	if err := cmd.Run(); err != nil && out.Len() == 0 {
		t.Fatalf("run the suite: %v\n%s", err, tail(stderr.String(), 2000))
	}
	results := map[string]result{}
	for in := json.NewDecoder(&out); ; {
		var e struct{ Action, Package, Test, Output string }
		if err := in.Decode(&e); err != nil {
			return results
		}
		if strings.HasPrefix(e.Output, "panic: ") || strings.HasPrefix(e.Output, "fatal error: ") || strings.Contains(e.Output, "[recovered") {
			t.Logf("%s ends in %s: %s", e.Package, e.Test, e.Output)
		}
		if e.Test == "" {
			continue
		}
		key := e.Package + " " + e.Test
		r := results[key]
		switch e.Action {
		case "pass", "fail", "skip":
			r.action = e.Action
		}
		r.output += e.Output
		results[key] = r
	}
}

// fatal is a pattern of the known cases that end their whole test program, so that they are not run behind a proxy.
func fatal(known map[string]string) string {
	names := []string{"^$"}
	for test, reason := range known {
		if _, name, _ := strings.Cut(test, " "); strings.Contains(reason, "(not run)") {
			names = append(names, "^"+name+"$")
		}
	}
	return strings.Join(names, "|")
}

// knownCases reads testdata/suites.txt: a line has a package, a test, and after a colon the reason. With "(not run)" in
// it the test would end the whole test program.
func knownCases(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/suites.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		test, reason, ok := strings.Cut(line, ": ")
		if !ok {
			t.Fatalf("testdata/suites.txt: %q has no reason", line)
		}
		known[test] = reason
	}
	return known
}

// overlayHTTPTest writes an overlay for the go command in which each httptest server that speaks HTTP/1.1 in clear asks
// for a front, and gives the front's address as its URL.
func overlayHTTPTest(t *testing.T) string {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src/net/http/httptest/server.go")
	text, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for _, edit := range [][2]string{
		{"\tListener net.Listener\n", "\tListener net.Listener\n\n\tfront     net.Conn\n\tfrontAddr string\n"},
		{"\t\t\t\taddr = s.Listener.Addr().String()\n\t\t\t}\n\t\t\treturn dialer.DialContext(ctx, network, addr)\n\t\t}\n\t\ts.client = ", "\t\t\t\taddr = s.frontAddr\n\t\t\t}\n\t\t\treturn dialer.DialContext(ctx, network, addr)\n\t\t}\n\t\ts.client = "},
		{"\ts.URL = \"http://\" + s.Listener.Addr().String()\n\ts.wrap()\n\ts.goServe()\n", "\ts.wrap()\n\ts.goServe()\n\ts.askForFront()\n\ts.URL = \"http://\" + s.frontAddr\n"},
		{"func (s *Server) Close() {\n", "func (s *Server) Close() {\n\tif s.front != nil {\n\t\tdefer s.front.Close()\n\t}\n"},
	} {
		if strings.Count(changed, edit[0]) != 1 {
			t.Fatalf("%s is not what it was: it has not one %q", original, edit[0])
		}
		changed = strings.Replace(changed, edit[0], edit[1], 1)
	}
	dir := t.TempDir()
	replaced, overlay := filepath.Join(dir, "server.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{original: replaced}})
	if err == nil {
		err = errors.Join(os.WriteFile(replaced, []byte(changed+askForFront), 0o644), os.WriteFile(overlay, list, 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	return overlay
}

const askForFront = `
func (s *Server) askForFront() {
	s.frontAddr = s.Listener.Addr().String()
	fronts := os.Getenv("TQ_FRONTS")
	_, tcp := s.Listener.Addr().(*net.TCPAddr)
	if p := s.Config.Protocols; fronts == "" || !tcp || p != nil && p.UnencryptedHTTP2() {
		return
	}
	c, err := net.Dial("tcp", fronts)
	if err == nil {
		_, err = fmt.Fprintln(c, s.frontAddr)
	}
	if err == nil {
		_, err = fmt.Fscanln(c, &s.frontAddr)
	}
	if err != nil {
		panic(err)
	}
	s.front = c
}
`

// fronts gives proxies to who connects and names a worker; each lasts as long as the connection.
type fronts struct {
	t      *testing.T
	fast   bool // with a fast lane
	lis    net.Listener
	all    sync.WaitGroup
	mu     sync.Mutex
	served int
	conns  map[net.Conn]bool

	fastRequests atomic.Uint64
}

func startFronts(t *testing.T, fast bool) *fronts {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fronts{t: t, fast: fast, lis: lis, conns: map[net.Conn]bool{}}
	f.all.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[c] = true
			f.served++
			f.mu.Unlock()
			f.all.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		lis.Close()
		f.mu.Lock()
		for c := range f.conns {
			c.Close()
		}
		f.mu.Unlock()
		f.all.Wait()
	})
	return f
}

// serve puts a proxy in front of the worker that c names until c ends.
func (f *fronts) serve(c net.Conn) {
	defer func() {
		c.Close()
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
	}()
	in := bufio.NewReader(c)
	addr, err := in.ReadString('\n')
	if err != nil {
		return
	}
	e := proxy.NewEndpoint(proxy.EndpointOptions{Addr: strings.TrimSpace(addr)})
	defer e.Close()
	backend := proxy.NewBackend("suite", proxy.BackendOptions{})
	backend.Set(e)
	p := proxy.New(proxy.Options{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		err = p.SetRoutes([]proxy.Route{{Path: "/", Backend: backend}})
	}
	if err != nil {
		f.t.Error(err)
		return
	}
	stop := f.front(p, lis)
	fmt.Fprintln(c, lis.Addr())
	_, _ = io.Copy(io.Discard, in)
	stop()
}

// front serves what comes to lis until stop is called.
func (f *fronts) front(p *proxy.Proxy, lis net.Listener) (stop func()) {
	srv := p.Server("", func() (time.Duration, time.Duration) { return 0, 0 })
	in := &handedOver{Listener: lis, conns: make(chan net.Conn), closed: make(chan struct{})}
	var serving, inLane sync.WaitGroup
	limit := func() time.Duration { return 0 }
	lane := p.NewLane(proxy.LaneOptions{ReadHeader: limit, Idle: limit, HandOver: in.give})
	serving.Go(func() { _ = srv.Serve(in) })
	serving.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			if f.fast {
				inLane.Go(func() { lane.Serve(conn) })
			} else {
				in.give(conn, nil)
			}
		}
	})
	return func() {
		close(in.closed)
		srv.Close()
		lis.Close()
		serving.Wait()
		lane.Close()
		inLane.Wait()
		f.fastRequests.Add(lane.Stats().Requests)
	}
}

// handedOver is the listener of net/http's server, which gets what the lane does not serve.
type handedOver struct {
	net.Listener
	conns  chan net.Conn
	closed chan struct{}
}

func (h *handedOver) give(c net.Conn, early []byte) {
	c = proxy.Strict(c, early)
	select {
	case h.conns <- c:
	case <-h.closed:
		c.Close()
	}
}

func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}
