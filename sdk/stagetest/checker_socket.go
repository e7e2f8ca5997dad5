package stagetest

import (
	"context"
	"net"
	"path/filepath"
	"strings"
)

// listen listens at the target's address, which for a port may be any until then.
func (w *target) listen() (net.Listener, error) {
	if path, ok := strings.CutPrefix(w.addr, "unix:"); ok {
		return net.Listen("unix", path)
	}
	listener, err := net.Listen("tcp", w.addr)
	if err == nil {
		w.addr = listener.Addr().String()
	}
	return listener, err
}

// checkSocketTarget has a target at a socket come, go and come back.
func checkSocketTarget(ctx context.Context, t *trial) error {
	c, err := t.checker(ctx)
	if err != nil {
		return err
	}
	w := &target{addr: "unix:" + filepath.Join(t.dir, "w.sock")}
	t.closers = append(t.closers, w.down)
	if err := w.up(); err != nil {
		return err
	}
	return c.follows(ctx, w)
}
