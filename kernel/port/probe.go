package port

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// probe tells whether a worker could listen on the port. Binding is enough to learn that, so nothing listens
// meanwhile. The wildcard addresses catch what listens on any other address: such a listener would break
// a worker that listens on all of them, or answer for "localhost" in its place.
func probe(port int) (bool, error) {
	loopback := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	if err := bind(unix.AF_INET, loopback); err != nil {
		return false, unlessBusy(err)
	}
	others := bind(unix.AF_INET6, &unix.SockaddrInet6{Port: port}) // [::] with IPv4: every address at once
	if errors.Is(others, unix.EAFNOSUPPORT) || errors.Is(others, unix.EADDRNOTAVAIL) {
		others = bind(unix.AF_INET, &unix.SockaddrInet4{Port: port})
	}
	if errors.Is(others, unix.EACCES) || errors.Is(others, unix.EPERM) {
		return true, nil // a sandbox that allows loopback only; then nothing else can be in the way either
	}
	return others == nil, unlessBusy(others)
}

// bind binds a socket as net.Listen does, and closes it.
func bind(family int, addr unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	unix.CloseOnExec(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return fmt.Errorf("clear IPV6_V6ONLY: %w", err)
		}
	}
	return unix.Bind(fd, addr)
}

func unlessBusy(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return nil
	}
	return err
}
