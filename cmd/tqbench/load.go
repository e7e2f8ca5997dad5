//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// job is what a process of the load generator does. Requests go over Connections, each with one request at a time.
type job struct {
	Addr        string
	Method      string
	Paths       []string // asked in turns
	Upload      int      // bytes of each request's body
	Want        int64    // bytes of each answer's body
	Connections int
	Length      time.Duration
	Close       bool    // every request has a connection of its own
	Rate        float64 // requests a second, sent at fixed times whether or not others are answered; 0: as many as go
	Hold        bool    // one request on each connection, which then stays open until standard input ends
}

// tally is what became of a job.
type tally struct {
	Requests uint64         // answered as they should be
	Errors   uint64         // not so
	Retries  uint64         // asked again, because a kept connection was closed before it had answered a byte
	Seconds  float64        // that the job took
	First    string         // error of all
	Latency  map[int]uint32 // counts of the histogram's buckets that are not empty
	Max      time.Duration
	Late     time.Duration // by how much 99 of 100 requests were sent too late at most, with Rate only
}

func (t *tally) rate() float64 { return float64(t.Requests) / t.Seconds }

func (t *tally) histogram() *histogram {
	h := &histogram{max: t.Max}
	for i, c := range t.Latency {
		h.counts[i] = c
		h.n += uint64(c)
	}
	return h
}

// grace is how long an answer may take longer than the job.
const grace = 15 * time.Second

// playLoad is the process of the load generator: a job as JSON from standard input, its tally to standard output.
func playLoad(in io.Reader, out io.Writer) error {
	var j job
	from := json.NewDecoder(in)
	if err := from.Decode(&j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	g := newGenerator(j)
	begin := time.Now()
	switch {
	case j.Hold:
		return g.hold(io.MultiReader(from.Buffered(), in), out)
	case j.Rate > 0:
		g.runOpen(begin)
	default:
		g.runClosed(begin)
	}
	return json.NewEncoder(out).Encode(g.tally(time.Since(begin)))
}

// generator makes the requests of one job.
type generator struct {
	job
	requests [][]byte
	clients  []*client
	late     histogram // of the goroutine that paces
}

func newGenerator(j job) *generator {
	g := &generator{job: j, requests: requestsOf(j)}
	g.clients = make([]*client, j.Connections)
	for i := range g.clients {
		g.clients[i] = &client{addr: j.Addr, want: j.Want, next: i, once: j.Close}
	}
	return g
}

// runClosed has every connection ask again as soon as it is answered.
func (g *generator) runClosed(begin time.Time) {
	end := begin.Add(g.Length)
	var all sync.WaitGroup
	for _, c := range g.clients {
		c.deadline = end.Add(grace)
		all.Go(func() {
			defer c.close()
			for now := time.Now(); now.Before(end); {
				c.ask(g.requests)
				done := time.Now()
				c.latency.add(done.Sub(now))
				now = done
			}
		})
	}
	all.Wait()
}

// hold opens all connections, says so, and keeps them until in ends.
func (g *generator) hold(in io.Reader, out io.Writer) error {
	begin := time.Now()
	for _, c := range g.clients {
		defer c.close()
		c.deadline = begin.Add(g.Length)
		c.small = true
		c.ask(g.requests)
		if c.errors > 0 {
			break
		}
	}
	t := g.tally(time.Since(begin))
	if err := json.NewEncoder(out).Encode(t); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

func (g *generator) tally(took time.Duration) tally {
	t := tally{Seconds: took.Seconds(), Latency: map[int]uint32{}, Late: g.late.quantile(0.99)}
	var all histogram
	for _, c := range g.clients {
		t.Requests += c.answered
		t.Errors += c.errors
		t.Retries += c.retries
		if t.First == "" && c.first != nil {
			t.First = c.first.Error()
		}
		all.merge(&c.latency)
	}
	for i, n := range all.counts {
		if n > 0 {
			t.Latency[i] = n
		}
	}
	t.Max = all.max
	return t
}

// load runs a job in a process of its own, so that what it uses is not the proxy's, and waits for it.
func load(ctx context.Context, j job) (*tally, error) {
	ctx, cancel := context.WithTimeout(ctx, j.Length+2*grace)
	defer cancel()
	l, err := startLoad(ctx, j)
	if err != nil {
		return nil, err
	}
	defer l.stop()
	return l.tally()
}

// loader is a process of the load generator.
type loader struct {
	*child
	in  io.WriteCloser
	out *os.File
}

func startLoad(ctx context.Context, j job) (*loader, error) {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inRead.Close()
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inWrite.Close())
	}
	defer outWrite.Close()
	role := roleCommand("load")
	role.stdin, role.stdout = inRead, outWrite
	c, err := startChild(ctx, role)
	if err != nil {
		return nil, errors.Join(err, inWrite.Close(), outRead.Close())
	}
	l := &loader{c, inWrite, outRead}
	if err := json.NewEncoder(inWrite).Encode(j); err != nil {
		l.stop()
		return nil, fmt.Errorf("send the job to the load generator: %w", err)
	}
	return l, nil
}

// tally waits for what became of the job; with Hold, for all connections to be open.
func (l *loader) tally() (*tally, error) {
	t := &tally{}
	if err := json.NewDecoder(l.out).Decode(t); err != nil {
		return nil, fmt.Errorf("hear of the load generator: %w\n%s", err, l.tail())
	}
	return t, nil
}

func (l *loader) stop() {
	l.in.Close()
	l.child.stop(5 * time.Second)
	l.out.Close()
}
