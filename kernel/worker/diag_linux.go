package worker

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// What sock_diag(7) is made of, in bytes: a request and an answer behind their netlink headers, and where the fields
// are that matter here.
const (
	diagRequest   = 56
	diagStates    = 4
	diagPort      = 8 // of a request
	diagAnswer    = 72
	diagAddr      = 8 // of an answer
	diagInode     = 68
	stateListen   = 10
	diagPatienceS = 2
)

// diagnosed asks the operating system for the sockets that listen on the port, at any address. It takes less than a
// tenth of a millisecond; the tables in /proc have all connections of the machine in them, and take milliseconds.
func diagnosed(port int) (all []listener, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("ask for listening sockets: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: diagPatienceS}); err != nil {
		return nil, fmt.Errorf("ask for listening sockets: %w", err)
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := unix.Sendto(fd, diagQuestion(family, port), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, fmt.Errorf("ask for listening sockets: %w", err)
		}
		if all, err = diagAnswers(fd, port, all); err != nil {
			return nil, fmt.Errorf("ask for listening sockets: %w", err)
		}
	}
	return all, nil
}

func diagQuestion(family byte, port int) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN+diagRequest)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := b[unix.NLMSG_HDRLEN:]
	r[0], r[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[diagStates:], 1<<stateListen)
	binary.BigEndian.PutUint16(r[diagPort:], uint16(port))
	return b
}

// diagAnswers adds what is answered to one question.
func diagAnswers(fd, port int, all []listener) ([]listener, error) {
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return all, nil
			case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
				return nil, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			case m.Header.Type == unix.SOCK_DIAG_BY_FAMILY && len(m.Data) >= diagAnswer:
				if l := diagListener(m.Data); int(binary.BigEndian.Uint16(m.Data[4:])) == port {
					all = append(all, l)
				}
			}
		}
	}
}

func diagListener(b []byte) listener {
	size := 4
	if b[0] == unix.AF_INET6 {
		size = 16
	}
	addr, _ := netip.AddrFromSlice(b[diagAddr:][:size])
	return listener{addr.Unmap(), strconv.FormatUint(uint64(binary.NativeEndian.Uint32(b[diagInode:])), 10)}
}
