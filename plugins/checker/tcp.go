package checker

import (
	"context"

	"github.com/tqserver/tqserver/sdk"
)

// ServeTCP runs, as a plugin, a checker that probes workers by opening a connection, which it closes at once.
func ServeTCP() { sdk.Serve("tcp", sdk.Version, sdk.CheckerFunc(connect)) }

func connect(ctx context.Context, _ struct{}, t sdk.Target) error {
	conn, err := t.Dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}
