package worker

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/tqserver/tqserver/kernel/process"
)

// listener is one listening TCP socket.
type listener struct {
	addr  netip.Addr
	inode string
}

// Exposed tells whether the worker listens on its port at an address that can be reached from other machines: such
// a worker can be talked to without this server. It says false as long as the worker does not listen.
func (w *Worker) Exposed() bool {
	if w.spec.Socket != "" {
		return false
	}
	all, err := listeners(w.spec.Port)
	if err != nil {
		return false
	}
	for _, l := range all {
		if !l.addr.IsLoopback() && holds(w.pid, l.inode) {
			return true
		}
	}
	return false
}

// listens tells whether a connection to 127.0.0.1 at the port reaches the group that pid leads, and nobody else.
// Without a readable /proc it says yes.
func listens(pid, port int) bool {
	all, err := listeners(port)
	if err != nil {
		return true
	}
	answering := nearest(all)
	for _, l := range answering {
		if !holds(pid, l.inode) {
			return false
		}
	}
	return len(answering) > 0
}

// nearest returns those that the kernel of the OS prefers for 127.0.0.1: exact before wildcard, IPv4 before IPv6.
// Several share an address only with SO_REUSEPORT.
func nearest(all []listener) []listener {
	for _, addr := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		var same []listener
		for _, l := range all {
			if l.addr == netip.MustParseAddr(addr) {
				same = append(same, l)
			}
		}
		if len(same) > 0 {
			return same
		}
	}
	return nil
}

// listeners finds the sockets that listen on the port, at any address.
func listeners(port int) ([]listener, error) {
	if all, err := diagnosed(port); err == nil {
		return all, nil
	}
	return tabled(port) // in a sandbox, or with an operating system that cannot tell
}

func tabled(port int) ([]listener, error) {
	all, err := readTable("/proc/self/net/tcp", port)
	if err != nil {
		return nil, err
	}
	six, err := readTable("/proc/self/net/tcp6", port)
	if err != nil && !os.IsNotExist(err) { // no IPv6 here
		return nil, err
	}
	return append(all, six...), nil
}

// readTable reads the head of a socket table (proc_net_tcp.txt of the Linux documentation): its listening sockets
// come first, so thousands of open connections cost nothing.
func readTable(path string, port int) ([]listener, error) {
	const local, state, inode, listening = 1, 3, 9, "0A"
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rows := bufio.NewScanner(file)
	rows.Scan() // the heading
	var found []listener
	for rows.Scan() {
		fields := strings.Fields(rows.Text())
		if len(fields) <= inode || fields[state] != listening {
			break
		}
		host, hexPort, _ := strings.Cut(fields[local], ":")
		if hexPort != fmt.Sprintf("%04X", port) {
			continue
		}
		addr, err := parseAddr(host)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		found = append(found, listener{addr, fields[inode]})
	}
	return found, rows.Err()
}

// parseAddr reads an address that is printed as one or four 32-bit words, each in the byte order of the machine.
func parseAddr(s string) (netip.Addr, error) {
	raw, err := hex.DecodeString(s)
	if err != nil {
		return netip.Addr{}, err
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return addr, fmt.Errorf("address %q of %d bytes", s, len(raw))
	}
	return addr.Unmap(), nil
}

// holds tells whether a process of the group that pid leads has the socket open; mostly it is pid itself.
func holds(pid int, inode string) bool {
	if hasOpen(pid, inode) {
		return true
	}
	members, err := process.Members(pid)
	if err != nil {
		return false
	}
	for _, member := range members {
		if member != pid && hasOpen(member, inode) {
			return true
		}
	}
	return false
}

func hasOpen(pid int, inode string) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, entry := range entries {
		if target, err := os.Readlink(dir + entry.Name()); err == nil && target == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
