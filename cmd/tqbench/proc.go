//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ticks is what the system counts CPU time in, for programs: USER_HZ is 100 on every Linux that Go runs on.
const ticks = 100

// tree gives a process and all that descend from it, without those of except and what descends from them.
func tree(root int, except []int) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if s, err := readStat(pid); err == nil { // others have ended meanwhile
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	var all []int
	for todo := []int{root}; len(todo) > 0; {
		pid := todo[0]
		todo = todo[1:]
		if !slices.Contains(except, pid) {
			all = append(all, pid)
			todo = append(todo, children[pid]...)
		}
	}
	return all, nil
}

// stat is what is read of /proc/PID/stat: see proc(5).
type stat struct {
	parent int
	cpu    time.Duration // user and system, of all threads
}

func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // the name before may hold anything
	if len(f) < 13 {
		return s, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	parent, err1 := strconv.Atoi(f[1])
	user, err2 := strconv.ParseInt(f[11], 10, 64)
	system, err3 := strconv.ParseInt(f[12], 10, 64)
	s.parent, s.cpu = parent, time.Duration(user+system)*time.Second/ticks
	return s, errors.Join(err1, err2, err3)
}

// usage is the CPU time of processes, by pid.
type usage map[int]time.Duration

func readUsage(pids []int) usage {
	u := usage{}
	for _, pid := range pids {
		if s, err := readStat(pid); err == nil {
			u[pid] = s.cpu
		}
	}
	return u
}

// since is what was used after an earlier reading by the processes that are still there.
func (u usage) since(before usage) usage {
	spent := usage{}
	for pid, cpu := range u {
		spent[pid] = cpu - before[pid]
	}
	return spent
}

func (u usage) total() (sum time.Duration) {
	for _, cpu := range u {
		sum += cpu
	}
	return sum
}

// memory is that of several processes, in KiB. What they share counts once in PSS and each time in RSS.
type memory struct {
	RSS int64 `json:"rss_kib"`
	PSS int64 `json:"pss_kib"`
}

func readMemory(pids []int) (m memory, err error) {
	for _, pid := range pids {
		path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return m, err
		}
		for name, to := range map[string]*int64{"Rss": &m.RSS, "Pss": &m.PSS} {
			n, err := strconv.ParseInt(strings.TrimSuffix(valueOf(string(text), name), " kB"), 10, 64)
			if err != nil {
				return m, fmt.Errorf("read %s of %s: %w", name, path, err)
			}
			*to += n
		}
	}
	return m, nil
}

// valueOf gives the first value of a name in lines of "name: value".
func valueOf(text, name string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
