package sdk

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// MaxMessageSize is the limit of one message in both directions, in bytes. Long lists are sent in parts.
const MaxMessageSize = 16 << 20

// partSize is how many entries of a long list go into one message: at 300 bytes each it stays far below the limit.
const partSize = 10_000

// latest is a channel of one that keeps the newest value: put never blocks. Only one goroutine may put.
type latest[T any] chan T

func newLatest[T any]() latest[T] { return make(chan T, 1) }

func (l latest[T]) put(v T) {
	for {
		select {
		case l <- v:
			return
		default:
		}
		select {
		case <-l:
		default:
		}
	}
}

// sender makes the sending side of a stream safe for concurrent use, which gRPC's is not.
type sender[M any] struct {
	mu   sync.Mutex
	send func(M) error
}

func (s *sender[M]) Send(messages ...M) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range messages {
		if err := s.send(m); err != nil {
			return err
		}
	}
	return nil
}

// receive calls take for each message until the stream ends. Its end by the other side is nil.
func receive[M any](recv func() (M, error), take func(M) error) error {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := take(m); err != nil {
			return err
		}
	}
}

// forward sends each value of in until ctx ends or in is closed.
func forward[T any](ctx context.Context, in <-chan T, send func(T) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case v, ok := <-in:
			if !ok {
				return nil
			}
			if err := send(v); err != nil {
				return err
			}
		}
	}
}

// duplex runs both directions of a client's stream that was opened with the context of cancel. It returns after both
// ended, with the error of the one that ended first.
func duplex(cancel context.CancelFunc, send, recv func() error) error {
	errs := make(chan error, 2)
	for _, f := range []func() error{send, recv} {
		go func() { errs <- f() }()
	}
	err := <-errs
	cancel()
	<-errs
	return err
}

// serveStream runs an implementation while recv feeds it from a server's stream. When the kernel ends its side, the
// implementation's context ends. recv itself returns at the latest when gRPC sees the handler return.
func serveStream(ctx context.Context, recv func() error, run func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_ = recv() // a broken stream ends ctx; there is nobody left to tell
	}()
	return fault(run(ctx))
}

// fault gives an error of an implementation its code on the wire.
func fault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}
