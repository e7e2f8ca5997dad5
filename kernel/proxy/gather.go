package proxy

import (
	"io"
	"sync"
	"time"
)

const (
	// maxGathered is how long a body may be that is read as a whole before a
	// worker is chosen, so that a client that is slow to send it holds none.
	maxGathered = 64 << 10

	// firstGathered is the room for a body until that is full: a client that
	// sends little takes little memory, whatever it has announced.
	firstGathered = 4 << 10
)

// bodyBuffer holds a body, and one byte more to see that it ends.
type bodyBuffer struct {
	from *sync.Pool
	b    []byte
}

var smallBodies, largeBodies sync.Pool

func init() {
	smallBodies.New = func() any { return &bodyBuffer{&smallBodies, make([]byte, firstGathered+1)} }
	largeBodies.New = func() any { return &bodyBuffer{&largeBodies, make([]byte, maxGathered+1)} }
}

// release gives the buffer back. It accepts nil.
func (b *bodyBuffer) release() {
	if b != nil {
		b.from.Put(b)
	}
}

// gather reads the body if it is short and nobody has to ask for it. From then
// on it is part of the head, as in lane R. Others are read while they are sent.
// gather blocks for as long as the client goes on sending.
func (x *exchange) gather() *fault {
	if x.body == nil || x.length <= 0 || x.length > maxGathered || x.expects {
		return nil
	}
	x.beginBody()
	err := x.gatherAll()
	x.now = time.Now()
	if err != nil {
		return x.diagnose(err)
	}
	x.body = nil
	return nil
}

func (x *exchange) gatherAll() error {
	buf := smallBodies.Get().(*bodyBuffer)
	n, err := fill(buf.b, 0, x.body)
	if err == nil {
		large := largeBodies.Get().(*bodyBuffer)
		copy(large.b, buf.b)
		buf.release()
		buf = large
		n, err = fill(buf.b, n, x.body)
	}
	x.whole, x.gathered = buf.b[:n], buf
	switch {
	case err == io.EOF && int64(n) == x.length:
		return nil
	case err == nil || err == io.EOF: // which whoever parses requests does not let happen
		return &faultError{*badTarget("body is not as long as was announced")}
	}
	return err
}

// fill reads into b from n on, until it is full or r fails or ends, and gives
// how much of b is used.
func fill(b []byte, n int, r io.Reader) (int, error) {
	for n < len(b) {
		k, err := r.Read(b[n:])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
