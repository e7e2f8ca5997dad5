//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

// workerSource is the program behind every proxy, and the page of tqserver.
//
//go:embed worker/main.go
var workerSource string

// tqserverPeers gives one for each way that this tqserver can be run in. lanes and sockets tell whether it knows
// server.fast_lane and workers.endpoint.
func tqserverPeers(binary, worker string, lanes, sockets bool) (all []*peer) {
	add := func(name, about, inServer, inWorkers string) {
		start := func(ctx context.Context, p *peer, s setup) (*server, error) {
			return startTqserver(ctx, p, s, tqserver{binary, worker, inServer, inWorkers})
		}
		all = append(all, &peer{name: name, about: about, unix: inWorkers != "", start: start})
	}
	endpoints := []string{""}
	if sockets {
		endpoints = append(endpoints, "unix")
	}
	for _, endpoint := range endpoints {
		suffix, about, workers := "", "", ""
		if endpoint != "" {
			suffix, about, workers = ", unix", ", endpoint: unix", "  default: {endpoint: unix}\n"
		}
		if lanes {
			add(laneR+suffix, "fast_lane: true"+about, "  fast_lane: true\n", workers)
			add(laneS+suffix, "fast_lane: false"+about, "  fast_lane: false\n", workers)
			continue
		}
		add(laneS+suffix, "net/http.Server and its own client"+about, "", workers)
	}
	return all
}

const (
	laneR = "tqserver, lane R"
	laneS = "tqserver, lane S"
)

// tqserver is how it is started.
type tqserver struct {
	binary, worker  string
	server, workers string // more lines of these sections
}

func startTqserver(ctx context.Context, p *peer, s setup, t tqserver) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	ports, err := freeRange(s.routes + 20)
	if err != nil {
		return nil, err
	}
	if err := s.write(t.site(s, port, ports)); err != nil {
		return nil, err
	}
	sv, err := launch(ctx, p, s, local(port), command{
		argv: []string{t.binary, "-C", s.dir, "--quiet"},
		env:  []string{fmt.Sprintf("GOMAXPROCS=%d", s.procs)},
	})
	if err != nil {
		return nil, err
	}
	sv.except = func() ([]int, error) { return workersOf(ctx, s.dir) }
	sv.names = func() (map[int]string, error) { return stagesOf(ctx, s.dir) }
	sv.reloads = map[string]func(context.Context, int) error{
		"save":     func(ctx context.Context, i int) error { return savePage(ctx, sv.child, s, i) },
		"rollback": func(ctx context.Context, _ int) error { return rollback(ctx, s) },
	}
	if err := sv.await(ctx, p.name+" to serve all pages", startLimit, func() error { return serving(ctx, s) }); err != nil {
		sv.stop(stopLimit)
		return nil, err
	}
	return sv, nil
}

// site gives the files of a site. The page of "/" is built by tqserver; the others run the same program as it is.
func (t tqserver) site(s setup, port, ports int) map[string]string {
	files := map[string]string{
		"go.mod":              "module bench\n\ngo 1.26\n",
		"pages/index/main.go": workerSource,
		"config/server.yaml": fmt.Sprintf(`server:
  host: 127.0.0.1
  port: %d
  log_file: access.log
%sworkers:
  temp_dir: %s
  port_range_start: %d
  port_range_end: %d
%s`, port, t.server, s.path("bin"), ports, ports+s.routes+19, t.workers),
	}
	for _, prefix := range s.prefixes() {
		files[filepath.Join("pages", prefix, "page.yaml")] = fmt.Sprintf("# the program behind every proxy\nrun: [%q]\n", t.worker)
	}
	return files
}

// freeRange finds ports below those that the system gives to clients, of which the first is free. Where a stranger
// has one of the others, the server skips it.
func freeRange(n int) (int, error) {
	for range 100 {
		start := 10000 + rand.IntN(max(1, (32000-10000-n)/100))*100
		if l, err := net.Listen("tcp", local(start)); err == nil {
			return start, l.Close()
		}
	}
	return 0, errors.New("no free range of ports for workers: free some of 10000 to 32000")
}

func status(ctx context.Context, dir string) (st control.Status, err error) {
	client, err := control.Find(filepath.Join(dir, ".tqserver"))
	if err != nil {
		return st, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return client.Status(ctx)
}

func serving(ctx context.Context, s setup) error {
	st, err := status(ctx, s.dir)
	if err != nil {
		return err
	}
	if st.State != "serving" || len(st.Pages) < s.routes {
		return fmt.Errorf("state is %s with %d pages", st.State, len(st.Pages))
	}
	for _, p := range st.Pages {
		if p.State != "serving" {
			return fmt.Errorf("page %s is %s: %s", p.Name, p.State, p.Error)
		}
	}
	return nil
}

// workersOf gives the processes of the pages.
func workersOf(ctx context.Context, dir string) (pids []int, err error) {
	st, err := status(ctx, dir)
	for _, p := range st.Pages {
		for _, w := range p.Workers {
			pids = append(pids, w.PID)
		}
	}
	return pids, err
}

// stagesOf names the kernel and the plugins by their processes.
func stagesOf(ctx context.Context, dir string) (map[int]string, error) {
	st, err := status(ctx, dir)
	names := map[int]string{st.PID: "kernel"}
	for _, stage := range st.Stages {
		if stage.PID != 0 {
			names[stage.PID] = stage.Stage
		}
	}
	return names, err
}

// savePage changes the source of the page, and waits until what was built of it is live.
func savePage(ctx context.Context, c *child, s setup, i int) error {
	before, err := liveRelease(ctx, s.dir)
	if err != nil {
		return err
	}
	changed := strings.Replace(workerSource, `const revision = "0"`, fmt.Sprintf("const revision = \"%d-%d\"", i, time.Now().UnixNano()), 1)
	if err := s.write(map[string]string{"pages/index/main.go": changed}); err != nil {
		return err
	}
	return c.await(ctx, "the saved page to be live", reloadLimit, func() error {
		now, err := liveRelease(ctx, s.dir)
		if err == nil && now == before {
			err = errors.New("the release is that of before")
		}
		return err
	})
}

func liveRelease(ctx context.Context, dir string) (string, error) {
	st, err := status(ctx, dir)
	if err != nil {
		return "", err
	}
	for _, p := range st.Pages {
		if p.Name == "index" {
			return p.Release, nil
		}
	}
	return "", errors.New("no page index in the status")
}

// rollback makes the release before live again: a swap of workers without a build.
func rollback(ctx context.Context, s setup) error {
	client, err := control.Find(s.path(".tqserver"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	_, err = client.Rollback(ctx, "index", "")
	return err
}
