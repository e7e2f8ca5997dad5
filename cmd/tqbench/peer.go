//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// peer is a proxy with a configuration, as it is compared.
type peer struct {
	name  string // in tables
	about string // what is particular about its configuration
	unix  bool   // it reaches its worker over a unix socket
	start func(ctx context.Context, p *peer, s setup) (*server, error)
}

// setup is what a peer is to serve.
type setup struct {
	dir    string // its own, there and empty
	worker string // host:port of the worker that all share
	socket string // the same as a unix socket
	procs  int    // how many CPUs to use
	routes int    // how many there are: "/", "/r1", "/r2" …
}

// upstream is the address of the worker as most configurations have it.
func (s setup) upstream(unix bool, prefix string) string {
	if unix {
		return prefix + s.socket
	}
	return s.worker
}

func (s setup) path(name string) string { return filepath.Join(s.dir, name) }

// write makes the files of a configuration.
func (s setup) write(files map[string]string) error {
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(s.path(name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// prefixes are the paths of the routes besides "/".
func (s setup) prefixes() (all []string) {
	for i := 1; i < s.routes; i++ {
		all = append(all, fmt.Sprintf("/r%d", i))
	}
	return all
}

// server is a running peer.
type server struct {
	*child
	peer    *peer
	addr    string
	log     string                                            // file with a line for each request
	names   func() (map[int]string, error)                    // of its processes, where they do different work
	except  func() ([]int, error)                             // processes below it that are not its own: the workers
	reloads map[string]func(ctx context.Context, i int) error // by name; each returns when the i-th reload is done
}

// own gives the processes that do the proxy's work.
func (s *server) own() ([]int, error) {
	var except []int
	if s.except != nil {
		var err error
		if except, err = s.except(); err != nil {
			return nil, err
		}
	}
	return tree(s.pid(), except)
}

const (
	startLimit  = 2 * time.Minute // a build of a page may be part of it
	stopLimit   = 20 * time.Second
	reloadLimit = time.Minute
)

// launch starts a peer's program and waits until it answers.
func launch(ctx context.Context, p *peer, s setup, addr string, c command) (*server, error) {
	c.dir, c.output = s.dir, s.path("output.log")
	child, err := startChild(ctx, c)
	if err != nil {
		return nil, err
	}
	sv := &server{child: child, peer: p, addr: addr, log: s.path("access.log")}
	if err := child.await(ctx, p.name+" to answer", startLimit, func() error { return answers(addr) }); err != nil {
		child.stop(stopLimit)
		return nil, err
	}
	return sv, nil
}

// answers asks once for a body of one byte.
func answers(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("GET /1 HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n")); err != nil {
		return err
	}
	a, err := readAnswer(bufio.NewReader(conn))
	if err == nil && (a.status != 200 || a.length != 1) {
		err = fmt.Errorf("it answers %d with %d bytes", a.status, a.length)
	}
	return err
}

// freePort finds a port that nobody listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// newChild waits until a process has a child that it had not before.
func newChild(ctx context.Context, c *child, before []int, limit time.Duration) error {
	known := map[int]bool{}
	for _, pid := range before {
		known[pid] = true
	}
	return c.await(ctx, "new processes after a reload", limit, func() error {
		now, err := tree(c.pid(), nil)
		if err != nil {
			return err
		}
		for _, pid := range now {
			if !known[pid] {
				return nil
			}
		}
		return errors.New("they are those of before")
	})
}

// sharedWorker starts the worker program, once on a port and once on a socket.
func startWorkers(ctx context.Context, binary, dir string) (s setup, stop func(), err error) {
	port, err := freePort()
	if err != nil {
		return s, nil, err
	}
	s.worker, s.socket = local(port), filepath.Join(dir, "worker.sock")
	var all []*child
	stop = func() {
		for _, c := range all {
			c.stop(time.Second)
		}
	}
	for _, where := range []string{fmt.Sprintf("TQ_PORT=%d", port), "TQ_SOCKET=" + s.socket} {
		c, err := startChild(ctx, command{argv: []string{binary}, env: []string{where, "GOMAXPROCS=1"}, dir: dir, output: filepath.Join(dir, "worker.log")})
		if err != nil {
			stop()
			return s, nil, err
		}
		all = append(all, c)
		if err := c.await(ctx, "the worker to listen", time.Minute, func() error { return listens(where, s) }); err != nil {
			stop()
			return s, nil, err
		}
	}
	return s, stop, nil
}

func listens(where string, s setup) error {
	network, addr := "tcp", s.worker
	if strings.HasPrefix(where, "TQ_SOCKET") {
		network, addr = "unix", s.socket
	}
	conn, err := net.DialTimeout(network, addr, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}
