package proxy

import (
	"context"
	"time"
)

// leave is a context that ends when the client of a connection in lane R leaves.
// Nothing watches for that until somebody wants to wait for it: most requests
// never do. Done and AfterFunc are for the goroutine of the connection, while it
// serves a request; Err, and contexts that are derived, may be used by all.
type leave struct {
	conn     *laneConn
	absence  context.Context // what is waited for; nil: nobody waits
	begin    context.CancelFunc
	finished chan struct{} // closed when nobody watches any more
}

var _ context.Context = (*leave)(nil)

func (l *leave) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }
func (l *leave) Value(any) any                           { return nil }

// Err looks whether the client is there.
func (l *leave) Err() error {
	if l.conn.left() {
		return context.Canceled
	}
	return nil
}

// Done begins to watch the client. A client that has sent more than its request
// cannot be watched, and is taken to stay.
func (l *leave) Done() <-chan struct{} { return l.watch().Done() }

// AfterFunc is what package context uses instead of a goroutine that would call
// Done too late.
func (l *leave) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(l.watch(), f) }

func (l *leave) watch() context.Context {
	if l.absence != nil {
		return l.absence
	}
	l.absence, l.begin = context.WithCancel(context.Background())
	l.finished = make(chan struct{})
	_ = l.conn.tcp.SetReadDeadline(time.Time{})
	go func(begin context.CancelFunc, finished chan<- struct{}) {
		defer close(finished)
		if l.conn.raw.Read(l.conn.look) == nil && l.conn.left() || l.conn.gone.Load() {
			begin()
		}
	}(l.begin, l.finished)
	return l.absence
}

// end stops watching, and reports whether that has changed the deadline of the
// connection.
func (l *leave) end() bool {
	if l.absence == nil {
		return false
	}
	_ = l.conn.tcp.SetReadDeadline(time.Unix(1, 0))
	<-l.finished
	l.absence, l.begin, l.finished = nil, nil, nil
	return true
}
