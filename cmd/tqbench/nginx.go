//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// tunedBuffers streams bodies, in large pieces.
const tunedBuffers = `
  proxy_buffer_size 32k;
  proxy_buffers 16 32k;
  proxy_busy_buffers_size 64k;
  proxy_request_buffering off;`

const (
	nginxPlain = "nginx"
	nginxLarge = "nginx, 32k buffers"
)

func nginxPeers(binary string) []*peer {
	start := func(more string) func(context.Context, *peer, setup) (*server, error) {
		return func(ctx context.Context, p *peer, s setup) (*server, error) {
			return startNginx(ctx, p, s, binary, more)
		}
	}
	return []*peer{
		{name: nginxPlain, about: "buffers as they come", start: start("")},
		{name: nginxLarge, about: "32k proxy_buffers, request bodies not buffered", start: start(tunedBuffers)},
		{name: "nginx, unix", about: "buffers as they come, worker on a unix socket", unix: true, start: start("")},
	}
}

func startNginx(ctx context.Context, p *peer, s setup, binary, more string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if err := s.write(map[string]string{"nginx.conf": nginxConfig(p, s, port, more), "tmp/README": "temporary files of nginx\n"}); err != nil {
		return nil, err
	}
	sv, err := launch(ctx, p, s, local(port), command{argv: []string{binary, "-p", s.dir, "-c", s.path("nginx.conf"), "-e", s.path("error.log")}})
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, tailOf(s.path("error.log"), 500))
	}
	sv.reloads = map[string]func(context.Context, int) error{"reload": func(ctx context.Context, _ int) error {
		before, err := tree(sv.pid(), nil)
		if err != nil {
			return err
		}
		if err := syscall.Kill(sv.pid(), syscall.SIGHUP); err != nil {
			return err
		}
		return newChild(ctx, sv.child, before, reloadLimit)
	}}
	return sv, nil
}

func nginxConfig(p *peer, s setup, port int, more string) string {
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n" // its processes have to write below the directory of this run
	}
	locations := []string{"location / { proxy_pass http://worker; }"}
	for _, prefix := range s.prefixes() {
		locations = append(locations, fmt.Sprintf("location %s/ { proxy_pass http://worker; }", prefix))
	}
	return fmt.Sprintf(`%[1]sdaemon off;
worker_processes %[2]d;
worker_rlimit_nofile 65535;
pid %[3]s/nginx.pid;
events { worker_connections 32768; }
http {
  access_log %[3]s/access.log combined buffer=32k flush=1s;
  client_body_temp_path %[3]s/tmp/body;
  proxy_temp_path %[3]s/tmp/proxy;
  fastcgi_temp_path %[3]s/tmp/fastcgi;
  uwsgi_temp_path %[3]s/tmp/uwsgi;
  scgi_temp_path %[3]s/tmp/scgi;
  client_max_body_size 16m;
  keepalive_timeout 300s;
  keepalive_requests 100000000;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Proto $scheme;%[4]s
  upstream worker {
    server %[5]s;
    keepalive 1024;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
  }
  server {
    listen 127.0.0.1:%[6]d backlog=4096;
    %[7]s
  }
}
`, user, s.procs, s.dir, more, s.upstream(p.unix, "unix:"), port, strings.Join(locations, "\n    "))
}
