package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/tqserver/tqserver/config"
)

// A worker listens on a leased port or, with `endpoint: unix`, on a socket in the runtime directory. That is open to
// this user alone, and no path in it is used twice: nothing but the worker can be at its path.

// maxSocketPath is what Linux and macOS have room for in the address of a unix socket, in bytes. The longest path of a
// worker's socket is shorter, as this does not compile otherwise: see maxRuntimeBase.
const (
	maxSocketPath = 103
	_             = uint(maxSocketPath - maxRuntimeBase - len("/01234567-4194304/w/3w5e11264sgsf.sock"))
)

// claim gives a worker that is about to start its address, which freeAddr gives back. It may wait for a port.
func (i *instance) claim(ctx context.Context, p *page) (err error) {
	if i.settings.Endpoint == config.Unix {
		i.socket, err = p.k.site.newSocket()
		return err
	}
	i.lease, err = p.k.lease(ctx, p.name)
	return err
}

// freeAddr gives the address back. Whatever listened there has to be gone.
func (i *instance) freeAddr() {
	if i.lease != nil {
		i.lease.Release()
		return
	}
	_ = os.Remove(i.socket) // what a worker has not removed that was killed; else there is nothing
}

// addr is where the proxy finds the worker: host:port, or the path of a socket.
func (i *instance) addr() string {
	if i.lease == nil {
		return i.socket
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(i.lease.Port()))
}

// target is where the checker finds it: see [sdk.Target].
func (i *instance) target() string {
	if i.lease == nil {
		return "unix:" + i.socket
	}
	return i.addr()
}

// port is 0 with a socket.
func (i *instance) port() int {
	if i.lease == nil {
		return 0
	}
	return i.lease.Port()
}

// logAddr is the address as a key and its value in the log.
func (i *instance) logAddr() (key string, value any) {
	if i.lease == nil {
		return "socket", i.socket
	}
	return "port", i.lease.Port()
}

// inRange tells whether the configuration lets a worker have the port that it has.
func (i *instance) inRange(w config.Workers) bool {
	return i.lease == nil || w.PortRangeStart <= i.lease.Port() && i.lease.Port() <= w.PortRangeEnd
}

// newSocket is a path for a socket, and its directory. What a killed server left there was removed at the start.
func (s *site) newSocket() (string, error) {
	dir := filepath.Join(s.run, "w")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make directory for sockets of workers: %w", err)
	}
	return filepath.Join(dir, strconv.FormatUint(s.sockets.Add(1), 36)+".sock"), nil
}
