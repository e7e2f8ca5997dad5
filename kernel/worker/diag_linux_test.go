package worker

import (
	"cmp"
	"net"
	"slices"
	"testing"
)

// Both ways to find out who listens find the same.
func TestListenersAreTheSame(t *testing.T) {
	for _, c := range []struct{ network, addr string }{
		{"tcp4", "127.0.0.1:0"}, {"tcp4", "0.0.0.0:0"}, {"tcp6", "[::1]:0"}, {"tcp", "[::]:0"},
	} {
		t.Run(c.network+" "+c.addr, func(t *testing.T) {
			lis, err := net.Listen(c.network, c.addr)
			if err != nil {
				t.Skip(err)
			}
			defer lis.Close()
			addr := lis.Addr().(*net.TCPAddr)
			conn, err := net.Dial("tcp", lis.Addr().String()) // a connection at the port is no listener
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			asked, err := diagnosed(addr.Port)
			if err != nil {
				t.Skip(err) // a sandbox
			}
			read, err := tabled(addr.Port)
			if err != nil {
				t.Fatal(err)
			}
			byInode := func(a, b listener) int { return cmp.Compare(a.inode, b.inode) }
			slices.SortFunc(asked, byInode)
			slices.SortFunc(read, byInode)
			if !slices.Equal(asked, read) || len(asked) == 0 {
				t.Errorf("asked: %v, read: %v", asked, read)
			}
			if want := addr.AddrPort().Addr(); !slices.ContainsFunc(asked, func(l listener) bool { return l.addr == want.Unmap() }) {
				t.Errorf("%v is not among %v", want, asked)
			}
		})
	}
}
