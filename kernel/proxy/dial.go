package proxy

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

const (
	firstDialPause   = time.Millisecond // between two attempts, growing to
	longestDialPause = 50 * time.Millisecond
)

// dialWorker connects to a worker, for dialTimeout at most. A unix socket with a full backlog refuses at once, where a
// port lets its client wait: so a burst that a port would take is waited out here.
func dialWorker(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Deadline: time.Now().Add(dialTimeout)}
	for pause := firstDialPause; ; pause = min(2*pause, longestDialPause) {
		conn, err := d.DialContext(ctx, network, addr)
		if network != "unix" || !errors.Is(err, syscall.EAGAIN) || time.Until(d.Deadline) < pause {
			return conn, err
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, ctx.Err()
		}
	}
}
