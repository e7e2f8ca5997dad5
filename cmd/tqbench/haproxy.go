//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"
)

const haproxyName = "HAProxy"

// signalAgain is after what time a reload is asked for again: a signal that comes while HAProxy executes itself anew, as
// part of the reload before, is lost.
const signalAgain = 5 * time.Second

func haproxyPeers(binary string) []*peer {
	start := func(ctx context.Context, p *peer, s setup) (*server, error) { return startHAProxy(ctx, p, s, binary) }
	return []*peer{{name: haproxyName, about: "http-reuse always", start: start}}
}

func startHAProxy(ctx context.Context, p *peer, s setup, binary string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	routes := &strings.Builder{}
	for _, prefix := range s.prefixes() {
		fmt.Fprintf(routes, "%s/ worker\n", prefix)
	}
	fmt.Fprintf(routes, "/ worker\n")
	if err := s.write(map[string]string{"haproxy.cfg": haproxyConfig(s, port), "routes.map": routes.String()}); err != nil {
		return nil, err
	}
	sv, err := launch(ctx, p, s, local(port), command{argv: []string{binary, "-W", "-db", "-f", s.path("haproxy.cfg")}})
	if err != nil {
		return nil, err
	}
	sv.log = s.path("output.log")
	sv.reloads = map[string]func(context.Context, int) error{"reload": func(ctx context.Context, _ int) error {
		before, err := tree(sv.pid(), nil)
		if err != nil {
			return err
		}
		for range int(reloadLimit / signalAgain) {
			if err := syscall.Kill(sv.pid(), syscall.SIGUSR2); err != nil {
				return err
			}
			if err = newChild(ctx, sv.child, before, signalAgain); err == nil || ctx.Err() != nil {
				break
			}
		}
		return err
	}}
	return sv, nil
}

func haproxyConfig(s setup, port int) string {
	return fmt.Sprintf(`global
  nbthread %d
  maxconn 16000
  no strict-limits
  log stdout format raw daemon
defaults
  mode http
  log global
  option httplog
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 300s
  timeout server 60s
  timeout http-keep-alive 300s
frontend public
  bind 127.0.0.1:%d backlog 4096
  http-request set-header X-Forwarded-Proto http
  use_backend %%[path,map_beg(%s)]
backend worker
  server worker %s
`, s.procs, port, s.path("routes.map"), s.worker)
}
