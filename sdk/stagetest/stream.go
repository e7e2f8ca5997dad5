package stagetest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// stream is an open stream of a stage: what the kernel's side gives and takes.
type stream[In, Out any] struct {
	t      *trial
	in     chan In
	out    chan Out
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of the end; read it after ended
}

// openStream runs a client of the stage until close.
func openStream[In, Out any](ctx context.Context, t *trial, run func(context.Context, <-chan In, func(Out) error) error) *stream[In, Out] {
	s := &stream[In, Out]{t: t, in: make(chan In), out: make(chan Out), ended: make(chan struct{})}
	ctx, s.cancel = context.WithCancel(ctx)
	go func() {
		defer close(s.ended)
		s.err = run(ctx, s.in, func(v Out) error {
			select {
			case s.out <- v:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return s
}

// close cancels the stream and waits for its end.
func (s *stream[In, Out]) close() { s.cancel(); <-s.ended }

var errEnded = errors.New("the plugin ended its stream")

func (s *stream[In, Out]) send(ctx context.Context, v In) error {
	select {
	case s.in <- v:
		return nil
	case <-s.ended:
		return s.end()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *stream[In, Out]) end() error {
	if s.err == nil {
		return errEnded
	}
	return fmt.Errorf("%w: %w", errEnded, s.err)
}

// await takes what the plugin sends until ok says that this is what was waited for, or returns an error. want is what
// is waited for, in words.
func (s *stream[In, Out]) await(ctx context.Context, limit time.Duration, want string, ok func(Out) (bool, error)) error {
	deadline := time.NewTimer(s.t.within(limit))
	defer deadline.Stop()
	for {
		select {
		case v := <-s.out:
			if done, err := ok(v); done || err != nil {
				return err
			}
		case <-s.ended:
			return fmt.Errorf("wait for %s: %w", want, s.end())
		case <-deadline.C:
			return fmt.Errorf("%s did not come within %s", want, s.t.within(limit))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", want, context.Cause(ctx))
		}
	}
}
