//go:build linux

package main

import (
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pacer sends requests at fixed times, each on a connection that is free. While none is, requests wait in the order of
// their times; a latency counts from that time, so that a stall of the proxy counts for every request that it delays.
// Requests are small: the goroutine that keeps the times writes them itself, so that none waits to be scheduled.
type pacer struct {
	g    *generator
	mu   sync.Mutex
	idle []*lane     // the one used last at the end
	due  []time.Time // of requests that wait for a connection
	done bool        // no request will come any more
}

// lane is a connection of the pacer. Its goroutine takes the answers, and waits for one also while the lane is idle.
type lane struct {
	c       *client // the goroutine's
	request []byte

	conn net.Conn  // this and what follows belongs to the pacer's lock
	busy bool      // a request was sent
	sent time.Time // when it should have been
}

// runOpen sends for the length of the job, and waits until all is answered.
func (g *generator) runOpen(begin time.Time) {
	p := &pacer{g: g}
	end := begin.Add(g.Length)
	var all sync.WaitGroup
	for i, c := range g.clients {
		c.deadline = end.Add(grace)
		l := &lane{c: c, request: g.requests[i%len(g.requests)]}
		if _, more := p.release(l); !more {
			continue // it could not connect, which is counted
		}
		all.Go(func() { p.run(l) })
	}
	p.pace(time.Now(), g.Length)
	p.finish()
	all.Wait()
	p.lose()
}

// pace sleeps in the system: the timers of the runtime may be late by a millisecond.
func (p *pacer) pace(begin time.Time, length time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0) // ns; without it sleeps are 50 µs too long
	for i := 0; ; i++ {
		after := time.Duration(float64(i) / p.g.Rate * float64(time.Second))
		if after >= length {
			return
		}
		due := begin.Add(after)
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			t := syscall.NsecToTimespec(int64(wait))
			_ = syscall.Nanosleep(&t, nil)
		}
		p.g.late.add(time.Since(due))
		p.start(due)
	}
}

// start sends a request on the connection that was used last, or notes that it is due. An error of the write is one of
// the read that follows.
func (p *pacer) start(due time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		p.due = append(p.due, due)
		return
	}
	l := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	l.busy, l.sent = true, due
	_, _ = l.conn.Write(l.request)
}

// run takes the answers of one connection until all is done.
func (p *pacer) run(l *lane) {
	defer l.c.close()
	for more := true; more; {
		err := l.c.receive()
		due, asked := p.take(l)
		if asked {
			l.c.settle(err, l.request)
			l.c.latency.add(time.Since(due))
		}
		for due, more = p.release(l); more && !due.IsZero(); due, more = p.release(l) {
			l.c.settle(l.c.exchange(l.request), l.request)
			l.c.latency.add(time.Since(due))
		}
	}
}

// take gives when the request was due that was answered, or false: the connection ended while it was idle.
func (p *pacer) take(l *lane) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = slices.DeleteFunc(p.idle, func(o *lane) bool { return o == l && !l.busy })
	return l.sent, l.busy
}

// release gives the request that waits longest, for the caller to make. If none waits the time is zero, and the lane
// idle. It is false when the lane is not needed any more, or cannot connect.
func (p *pacer) release(l *lane) (time.Time, bool) {
	for try := 0; l.c.conn == nil; try++ {
		if err := l.c.dial(); err == nil {
			break
		} else if l.c.fail(err); try == 2 {
			return time.Time{}, false
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.due) > 0 {
		due := p.due[0]
		p.due = p.due[1:]
		return due, true
	}
	if p.done {
		return time.Time{}, false
	}
	l.busy, l.conn = false, l.c.conn
	p.idle = append(p.idle, l)
	return time.Time{}, true
}

// finish ends the idle connections; the others end when they are answered.
func (p *pacer) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	for _, l := range p.idle {
		l.conn.Close()
	}
}

// lose counts what no connection was left for.
func (p *pacer) lose() {
	for range p.due {
		p.g.clients[0].fail(errors.New("no connection was left"))
	}
}
