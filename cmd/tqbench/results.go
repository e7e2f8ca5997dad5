//go:build linux

package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// results is what a run found, as it is in results.json.
type results struct {
	Machine  machine       `json:"machine"`
	Command  string        `json:"command"`
	Took     string        `json:"took"`
	Peers    []variant     `json:"peers"`
	Missing  []missing     `json:"missing,omitempty"`
	Lanes    bool          `json:"tqserver_has_fast_lane"`
	Sockets  bool          `json:"tqserver_has_unix_endpoints"`
	CPU      *comparison   `json:"cpu,omitempty"`
	Matrix   []*comparison `json:"matrix,omitempty"`
	Cores    *comparison   `json:"cores,omitempty"`
	Latency  []*fixedRate  `json:"latency,omitempty"`
	Reload   []*reloading  `json:"reload,omitempty"`
	Routes   []routed      `json:"routes,omitempty"`
	Memory   []held        `json:"memory,omitempty"`
	Allocs   []goBenchmark `json:"allocs,omitempty"`
	Problems []string      `json:"problems,omitempty"`
}

// machine is where it was measured.
type machine struct {
	Date      string            `json:"date"`
	CPU       string            `json:"cpu"`
	Cores     int               `json:"cores"`
	Memory    string            `json:"memory"`
	Kernel    string            `json:"kernel"`
	Go        string            `json:"go"`
	Revision  string            `json:"tqserver"`
	Versions  map[string]string `json:"versions"`
	Load      string            `json:"load_average_before"`
	LoadAfter string            `json:"load_average_after"`
}

type variant struct {
	Name  string `json:"name"`
	About string `json:"about"`
}

type missing struct {
	Name    string `json:"name"`
	Install string `json:"install"`
}

func newResults(o options) *results {
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	mem, _ := os.ReadFile("/proc/meminfo")
	m := machine{
		Date: time.Now().UTC().Format(time.DateOnly), CPU: valueOf(string(cpu), "model name"), Cores: runtime.NumCPU(),
		Memory: valueOf(string(mem), "MemTotal"), Go: runtime.Version(), Versions: map[string]string{},
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return &results{Machine: m, Command: strings.Join(append([]string{"go run ./cmd/tqbench"}, o.args...), " ")}
}

// describe notes which tqserver is measured.
func (r *results) describe(ctx context.Context, module string) {
	out, err := run(ctx, time.Minute, command{argv: []string{"git", "describe", "--always", "--dirty"}, dir: module})
	if err != nil {
		out = "unknown"
	}
	r.Machine.Revision = strings.TrimSpace(out)
}

// version notes that of a peer.
func (r *results) version(ctx context.Context, name, path string) {
	flag := map[string]string{"nginx": "-v", "haproxy": "-v", "caddy": "version"}[name]
	out, err := run(ctx, time.Minute, command{argv: []string{path, flag}})
	if err != nil {
		out = ""
	}
	r.Machine.Versions[name] = cmp.Or(versionIn(out), moduleVersion(path), "of an unknown version")
}

// versionIn finds the first number in what a program prints of itself.
func versionIn(out string) string {
	for _, word := range strings.Fields(out) {
		number := strings.TrimPrefix(word[strings.LastIndexByte(word, '/')+1:], "v")
		if number != "" && number[0] >= '0' && number[0] <= '9' {
			return number
		}
	}
	return ""
}

// moduleVersion is what the go command has noted in a program that it built.
func moduleVersion(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}

// loadAverage is that of the last minute.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(text), " ")
	return one
}
