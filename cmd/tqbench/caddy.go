//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

const caddyName = "Caddy"

func caddyPeers(binary string) []*peer {
	start := func(ctx context.Context, p *peer, s setup) (*server, error) { return startCaddy(ctx, p, s, binary) }
	return []*peer{{name: caddyName, about: "1,024 kept connections, no compression", start: start}}
}

func startCaddy(ctx context.Context, p *peer, s setup, binary string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	admin, err := freePort()
	if err != nil {
		return nil, err
	}
	if err := s.write(map[string]string{"Caddyfile": caddyConfig(s, port, admin)}); err != nil {
		return nil, err
	}
	sv, err := launch(ctx, p, s, local(port), command{
		argv: []string{binary, "run", "--config", s.path("Caddyfile"), "--adapter", "caddyfile"},
		env:  []string{fmt.Sprintf("GOMAXPROCS=%d", s.procs), "HOME=" + s.dir, "XDG_DATA_HOME=" + s.dir, "XDG_CONFIG_HOME=" + s.dir},
	})
	if err != nil {
		return nil, err
	}
	sv.reloads = map[string]func(context.Context, int) error{"reload": func(ctx context.Context, _ int) error {
		return reloadCaddy(ctx, s.path("Caddyfile"), admin)
	}}
	return sv, nil
}

func caddyConfig(s setup, port, admin int) string {
	routes := &strings.Builder{}
	for _, prefix := range append(s.prefixes(), "") {
		fmt.Fprintf(routes, "\timport worker %s/*\n", prefix)
	}
	return fmt.Sprintf(`{
	admin 127.0.0.1:%[1]d
	auto_https off
	persist_config off
	log default {
		output file %[2]s/caddy.log
		exclude http.log.access
	}
}
(worker) {
	handle {args[0]} {
		reverse_proxy %[3]s {
			transport http {
				keepalive_idle_conns_per_host 1024
				compression off
			}
		}
	}
}
http://:%[4]d {
	bind 127.0.0.1
	log {
		output file %[2]s/access.log {
			roll_size 10GiB
		}
	}
%[5]s}
`, admin, s.dir, s.worker, port, routes)
}

// reloadCaddy does what `caddy reload --force` does, without the start of a process.
func reloadCaddy(ctx context.Context, file string, admin int) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	config, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/load", admin), bytes.NewReader(config))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate") // also when nothing has changed
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("reload Caddy: %w", err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("reload Caddy: %s: %s, %w", resp.Status, text, err)
	}
	return nil
}
