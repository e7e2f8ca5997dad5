package checker

import (
	"net"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

// Somebody who listens and says nothing is enough; nobody is not.
func TestConnect(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	target := sdk.Target{ID: "w1", Addr: lis.Addr().String()}
	if err := connect(t.Context(), struct{}{}, target); err != nil {
		t.Errorf("somebody listens: %v", err)
	}
	lis.Close()
	want := "dial tcp " + target.Addr + ": connect: connection refused"
	if err := connect(t.Context(), struct{}{}, target); err == nil || err.Error() != want {
		t.Errorf("nobody listens: %v, want %q", err, want)
	}
}
