//go:build linux

package main

import "time"

// plan is how much is measured.
type plan struct {
	round     time.Duration
	rounds    int // of the comparison that matters most
	few       int // of the others
	fixed     time.Duration
	segments  int // of reloads
	perRound  int // reloads in each
	reloadFor time.Duration
	routes    []int // that a table may have
	pages     []int // that tqserver may have
	idle      int
	settle    time.Duration // how long a proxy has to give back what it does not need while it is idle
}

func newPlan(o options) plan {
	p := plan{round: 1200 * time.Millisecond, rounds: 7, few: 3, fixed: 2500 * time.Millisecond, segments: 5, perRound: 10, reloadFor: 4 * time.Second,
		routes: []int{1, 100, 1000}, pages: []int{1, o.routes}, idle: o.idle, settle: 2 * time.Second}
	if o.quick {
		p.round, p.rounds, p.few, p.fixed = 300*time.Millisecond, 3, 1, 800*time.Millisecond
		p.segments, p.reloadFor = 1, 3*time.Second
		p.routes, p.pages = []int{1, 1000}, []int{1, min(o.routes, 20)}
		p.idle, p.settle = min(o.idle, 2000), 500*time.Millisecond
	}
	if o.round > 0 {
		p.round, p.fixed = o.round, 2*o.round
		p.reloadFor, p.settle = min(p.reloadFor, 10*o.round), min(p.settle, o.round)
	}
	if o.rounds > 0 {
		p.rounds, p.few = o.rounds, o.rounds
	}
	return p
}

// overhead is what a round takes beside its load: the start of the generator, and readings.
const overhead = 100 * time.Millisecond

// estimate is how long the parts of a run take, without the builds before it.
func (p plan) estimate(o options, peers []*peer) (all time.Duration) {
	main, n := len(mainPeers(peers)), len(peers)
	rounds := func(peers, rounds int, length time.Duration) time.Duration {
		return time.Duration(peers*rounds) * (length + overhead)
	}
	starts := time.Duration(n) * time.Second / 2 // those of tqserver take longer, others hardly any time
	each := map[string]time.Duration{
		"cpu":     starts + rounds(n, p.rounds+1, p.round),
		"cores":   starts + rounds(main, p.few+1, p.round),
		"latency": rounds(2*main, p.few, p.fixed),
		"routes":  rounds(main, len(p.routes)*(p.few+2), p.round) + time.Duration(len(p.routes)*main)*time.Second,
		"memory":  starts + time.Duration(3*main)*p.settle + time.Duration(main*p.idle)*200*time.Microsecond,
		"allocs":  time.Minute,
	}
	for _, s := range matrix(p) {
		each["matrix"] += rounds(main, s.rounds, p.round)
	}
	for _, peer := range reloadPeers(peers) {
		each["reload"] += time.Duration(len(waysToReload(peer))*p.segments) * (2*p.reloadFor + 2*overhead)
	}
	for _, part := range o.only {
		all += each[part]
	}
	return all
}

// scenario is a comparison of all proxies under one kind of load.
type scenario struct {
	id, title string
	job       job
	rounds    int
}

const kib, mib = 1 << 10, 1 << 20

func get(size int64, connections int) job {
	return job{Method: "GET", Paths: []string{pathOf("", size)}, Want: size, Connections: connections}
}

func post(size int64, connections int) job {
	j := get(kib, connections)
	j.Method, j.Upload = "POST", int(size)
	return j
}

func fresh(j job) job {
	j.Close = true
	return j
}

// headline is the load that the goals speak of.
func headline(p plan) scenario {
	return scenario{"get-1k", "GET, 1 KiB, 32 connections kept open", get(kib, 32), p.rounds}
}

// matrix is every other kind of load.
func matrix(p plan) []scenario {
	return []scenario{
		{"get-1m", "GET, 1 MiB, 16 connections kept open", get(mib, 16), (p.rounds + p.few) / 2},
		{"post-1k", "POST, 1 KiB, 32 connections kept open", post(kib, 32), p.few},
		{"post-1m", "POST, 1 MiB, 16 connections kept open", post(mib, 16), (p.rounds + p.few) / 2},
		{"get-1k-new", "GET, 1 KiB, 32 at a time, a new connection for each", fresh(get(kib, 32)), p.few},
		{"get-1k-c1", "GET, 1 KiB, 1 connection kept open", get(kib, 1), p.few},
		{"get-1k-c512", "GET, 1 KiB, 512 connections kept open", get(kib, 512), p.few},
	}
}
