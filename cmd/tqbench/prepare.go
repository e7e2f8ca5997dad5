//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	modulePath  = "github.com/tqserver/tqserver"
	caddyModule = "github.com/caddyserver/caddy/v2/cmd/caddy"
	caddyWanted = "v2.11.4"
	buildLimit  = 10 * time.Minute
)

// moduleDir finds the source of tqserver around the working directory.
func moduleDir(ctx context.Context) (string, error) {
	out, err := run(ctx, time.Minute, command{argv: []string{"go", "list", "-m", "-f", "{{.Path}} {{.Dir}}"}})
	if err != nil {
		return "", fmt.Errorf("find the source of tqserver: %w", err)
	}
	path, dir, _ := strings.Cut(strings.TrimSpace(out), " ")
	if path != modulePath {
		return "", fmt.Errorf("this is the module %s: run tqbench in a checkout of %s", path, modulePath)
	}
	return dir, nil
}

// prepare builds what is measured and finds the rest.
func (b *bencher) prepare(ctx context.Context) error {
	if err := raiseLimit(); err != nil {
		b.problem("%v: fewer connections may be possible", err)
	}
	for name, from := range map[string]string{"tqserver": "./cmd/tqserver", "worker": "./cmd/tqbench/worker"} {
		b.progress("building %s", name)
		c := command{argv: []string{"go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", b.bin(name), from}, env: []string{"CGO_ENABLED=0"}, dir: b.module}
		if _, err := run(ctx, buildLimit, c); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
	}
	b.results.describe(ctx, b.module)
	for _, name := range b.o.peers {
		if err := b.find(ctx, name); err != nil {
			return err
		}
	}
	if len(b.peers) == 0 {
		return fmt.Errorf("there is none of %s to measure", strings.Join(b.o.peers, ", "))
	}
	for _, p := range b.peers {
		b.results.Peers = append(b.results.Peers, variant{p.name, p.about})
	}
	return nil
}

// find adds the variants of a program, or notes how to install it.
func (b *bencher) find(ctx context.Context, name string) error {
	switch name {
	case "tqserver":
		return b.findTqserver(ctx)
	case "reverse":
		b.peers = append(b.peers, reversePeers()...)
		return nil
	}
	path, err := exec.LookPath(name)
	if err != nil && name == "nginx" {
		path, err = exec.LookPath("/usr/sbin/nginx") // which users other than root may not have in PATH
	}
	if err != nil && name == "caddy" && b.o.install {
		path, err = b.installCaddy(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		b.results.Missing = append(b.results.Missing, missing{name, howToInstall[name]})
		b.progress("left out: %s: %v; to install it: %s", name, err, howToInstall[name])
		return nil
	}
	b.results.version(ctx, name, path)
	b.peers = append(b.peers, found[name](path)...)
	return nil
}

var (
	found        = map[string]func(string) []*peer{"nginx": nginxPeers, "haproxy": haproxyPeers, "caddy": caddyPeers}
	howToInstall = map[string]string{
		"nginx":   "apt-get install -y nginx-light",
		"haproxy": "apt-get install -y haproxy",
		"caddy":   "go install " + caddyModule + "@" + caddyWanted + ", with $(go env GOPATH)/bin in PATH",
	}
)

// installCaddy builds it once, into the user's cache.
func (b *bencher) installCaddy(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "tqbench", "caddy-"+caddyWanted)
	path := filepath.Join(dir, "caddy")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	b.progress("building Caddy %s, once; -no-install leaves it out", caddyWanted)
	_, err = run(ctx, buildLimit, command{argv: []string{"go", "install", caddyModule + "@" + caddyWanted}, env: []string{"GOBIN=" + dir}, dir: b.dir})
	return path, err
}

// findTqserver asks the program which keys it knows.
func (b *bencher) findTqserver(ctx context.Context) error {
	knows := func(yaml string) (bool, error) {
		s := setup{dir: filepath.Join(b.dir, "probe")}
		if err := s.write(map[string]string{"config/server.yaml": yaml, "pages/index/main.go": workerSource, "go.mod": "module probe\n"}); err != nil {
			return false, err
		}
		defer os.RemoveAll(s.dir)
		_, err := run(ctx, time.Minute, command{argv: []string{b.bin("tqserver"), "-C", s.dir, "config", "check"}})
		return err == nil, ctx.Err()
	}
	plain, err := knows("server:\n  port: 8080\n")
	if err != nil {
		return err
	}
	if !plain {
		return fmt.Errorf("`tqserver config check` refuses a plain configuration")
	}
	lanes, err := knows("server:\n  fast_lane: true\n")
	if err != nil {
		return err
	}
	sockets, err := knows("workers:\n  default: {endpoint: unix}\n")
	if err != nil {
		return err
	}
	b.results.Lanes, b.results.Sockets = lanes, sockets
	b.peers = append(b.peers, tqserverPeers(b.bin("tqserver"), b.bin("worker"), lanes, sockets)...)
	return nil
}

// raiseLimit allows as many open files as the system lets it: the servers inherit that.
func raiseLimit() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	const wanted = 65536
	if higher := (syscall.Rlimit{Cur: max(l.Max, wanted), Max: max(l.Max, wanted)}); syscall.Setrlimit(syscall.RLIMIT_NOFILE, &higher) == nil {
		return nil
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}
