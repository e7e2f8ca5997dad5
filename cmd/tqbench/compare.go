//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// comparison is what all proxies did under one kind of load.
type comparison struct {
	ID     string    `json:"id"`
	Title  string    `json:"title"`
	Procs  int       `json:"cpus"` // that a proxy may use
	Series []*series `json:"series"`
}

// series is what one proxy did, round by round. A value of 0 is a round that measured nothing.
type series struct {
	Peer     string               `json:"peer"`
	CPU      []float64            `json:"cpu_us_per_request"`
	Parts    map[string][]float64 `json:"cpu_us_per_request_by_process,omitempty"`
	Rate     []float64            `json:"requests_per_second"`
	P50      []float64            `json:"p50_us"`
	P99      []float64            `json:"p99_us"`
	P999     []float64            `json:"p999_us"`
	Late     []float64            `json:"generator_p99_late_us,omitempty"`
	Requests uint64               `json:"requests"`
	Errors   uint64               `json:"errors"`
	Retries  uint64               `json:"retries"`
	First    string               `json:"first_error,omitempty"`
}

func (c *comparison) of(peer string) *series {
	if c != nil {
		for _, s := range c.Series {
			if s.Peer == peer {
				return s
			}
		}
	}
	return &series{Peer: peer}
}

func (s *series) add(t *tally, cpu time.Duration) {
	h := t.histogram()
	s.CPU = append(s.CPU, each(cpu, t.Requests))
	s.Rate = append(s.Rate, t.rate())
	s.P50 = append(s.P50, micros(h.quantile(0.5)))
	s.P99 = append(s.P99, micros(h.quantile(0.99)))
	s.P999 = append(s.P999, micros(h.quantile(0.999)))
	if t.Late > 0 {
		s.Late = append(s.Late, micros(t.Late))
	}
	s.Requests, s.Errors, s.Retries = s.Requests+t.Requests, s.Errors+t.Errors, s.Retries+t.Retries
	if s.First == "" {
		s.First = t.First
	}
}

// each is the time of one request, in microseconds.
func each(spent time.Duration, requests uint64) float64 {
	if requests == 0 {
		return 0
	}
	return micros(spent) / float64(requests)
}

// split notes which process has used how much of a round's CPU time. Those without a name count together.
func (s *series) split(spent usage, names map[int]string, requests uint64) {
	if len(names) == 0 {
		return
	}
	parts := map[string]time.Duration{}
	for pid, cpu := range spent {
		parts[cmp.Or(names[pid], "others")] += cpu
	}
	if s.Parts == nil {
		s.Parts = map[string][]float64{}
	}
	for name, cpu := range parts {
		s.Parts[name] = append(s.Parts[name], each(cpu, requests))
	}
}

// skip notes a round that could not be measured.
func (s *series) skip(err error) {
	s.add(&tally{Seconds: 1, Errors: 1, First: err.Error()}, 0)
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// compare lets the servers do a job in turns, each round in another order, so that what disturbs the machine falls on
// all. The error is that of the context.
func (b *bencher) compare(ctx context.Context, fleet []*server, s scenario, procs int) (*comparison, error) {
	c := &comparison{ID: s.id, Title: s.title, Procs: procs}
	if s.job.Length == 0 {
		s.job.Length = b.p.round
	}
	for _, sv := range fleet {
		c.Series = append(c.Series, &series{Peer: sv.peer.name})
	}
	for round := range s.rounds {
		b.progress("%s: round %d of %d", s.title, round+1, s.rounds)
		for k := range fleet {
			i := (k + round) % len(fleet)
			t, spent, names, err := measure(ctx, fleet[i], s.job)
			if ctx.Err() != nil {
				return c, context.Cause(ctx)
			}
			if err != nil {
				c.Series[i].skip(err)
				b.problem("%s: %s: %v", s.title, fleet[i].peer.name, err)
				continue
			}
			c.Series[i].add(t, spent.total())
			c.Series[i].split(spent, names, t.Requests)
		}
	}
	for _, s := range c.Series {
		if s.Errors > 0 {
			b.problem("%s: %s: %d of %d requests failed, the first with: %s", c.Title, s.Peer, s.Errors, s.Errors+s.Requests, s.First)
		}
	}
	return c, nil
}

// measure gives what became of a job, and what CPU time each process of the proxy used meanwhile.
func measure(ctx context.Context, sv *server, j job) (t *tally, spent usage, names map[int]string, err error) {
	j.Addr = sv.addr
	pids, err := sv.own()
	if err == nil && sv.names != nil {
		names, err = sv.names()
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("find the processes: %w", err)
	}
	before := readUsage(pids)
	if t, err = load(ctx, j); err != nil {
		return nil, nil, nil, err
	}
	return t, readUsage(pids).since(before), names, nil
}
