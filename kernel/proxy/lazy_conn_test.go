package proxy

import (
	"errors"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeadlineIsSetOnlyWhereSomethingWaits: of what is set in between, only the
// last counts.
func TestDeadlineIsSetOnlyWhereSomethingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		inner := &noted{Conn: near}
		c := newLazyConn(inner)
		defer c.Close()
		soon, later := time.Now().Add(time.Second), time.Now().Add(time.Minute)
		must(t, c.SetDeadline(soon))
		must(t, c.SetReadDeadline(time.Time{}))
		must(t, c.SetDeadline(later))
		if inner.set != nil {
			t.Fatalf("set before anything waited: %v", inner.set)
		}
		go far.Write([]byte("12"))
		c.Read(make([]byte, 1))
		c.Read(make([]byte, 1))
		if !slices.Equal(inner.set, []time.Time{later}) {
			t.Errorf("two reads: %v, want %v once", inner.set, later)
		}
		read := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		must(t, c.SetReadDeadline(time.Unix(1, 0)))
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read that waits: %v", err)
		}
		inner.set = nil
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Equal(later) {
			t.Errorf("a write ends with %v at %v, want %v", err, time.Now(), later)
		}
	})
}

// noted notes the deadlines that are set.
type noted struct {
	net.Conn
	set []time.Time
}

func (c *noted) SetReadDeadline(t time.Time) error {
	c.set = append(c.set, t)
	return c.Conn.SetReadDeadline(t)
}
