package checker

import (
	"context"
	"net"

	"github.com/tqserver/tqserver/sdk"
)

// TCPConfig is the configuration of TCP.
type TCPConfig struct {
	IntervalMS int `tq:"interval_ms,default=30000,min=10" doc:"time between two probes of a worker"`
	TimeoutMS  int `tq:"timeout_ms,default=5000,min=1" doc:"a worker to which no connection is open by then fails the probe"`
	Failures   int `tq:"failures,default=3,min=1" doc:"failed probes in a row that make a worker unhealthy"`
	Successes  int `tq:"successes,default=1,min=1" doc:"good probes in a row that make it healthy again"`
}

// TCP probes workers by opening a connection, which it closes at once. It is safe for concurrent use.
type TCP struct{ *checker }

var _ sdk.Checker = (*TCP)(nil)

// NewTCP makes a checker with the default configuration.
func NewTCP() *TCP {
	t := &TCP{newChecker()}
	t.apply(tcpRule(TCPConfig{IntervalMS: 30000, TimeoutMS: 5000, Failures: 3, Successes: 1}))
	return t
}

// ServeTCP runs a TCP as a plugin.
func ServeTCP() {
	t := NewTCP()
	sdk.Serve("tcp", sdk.Version, t, sdk.Config(t.Configure))
}

// Configure applies from each target's next probe on.
func (t *TCP) Configure(_ context.Context, c TCPConfig) error {
	t.apply(tcpRule(c))
	return nil
}

func tcpRule(c TCPConfig) rule {
	r := newRule(c.IntervalMS, c.TimeoutMS, c.Failures, c.Successes)
	r.what, r.probe = "a connection", connect
	return r
}

func connect(ctx context.Context, t sdk.Target) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return err
	}
	return conn.Close()
}
