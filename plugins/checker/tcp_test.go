package checker

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

// Somebody who listens and says nothing is enough; nobody is not.
func TestConnect(t *testing.T) {
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(shortDir(t), "s")} {
		lis, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer lis.Close()
		target, refused := sdk.Target{ID: "w1", Addr: lis.Addr().String()}, "connection refused"
		want := "dial " + network + " " + target.Addr + ": connect: "
		if network == "unix" {
			target.Addr, refused = "unix:"+addr, "no such file or directory"
		}
		if err := connect(t.Context(), struct{}{}, target); err != nil {
			t.Errorf("somebody listens: %v", err)
		}
		lis.Close()
		if err := connect(t.Context(), struct{}{}, target); err == nil || err.Error() != want+refused {
			t.Errorf("nobody listens: %v, want %q", err, want+refused)
		}
	}
}

// shortDir is for sockets: t.TempDir can be too long.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
