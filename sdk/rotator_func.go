package sdk

import (
	"context"
	"sync"
)

// RotatorFunc makes a Rotator of a function that stores one batch, for Serve. It is called for one batch at a time. Nil
// acknowledges the batch, which must be in the hands of the operating system by then; after an error, or a panic, the
// kernel sends it again later. A batch that the kernel sends again because the answer was lost is not written twice.
func RotatorFunc[C any](write func(ctx context.Context, config C, batch Batch) error) Rotator {
	return &rotatorFunc[C]{settings: newSettings[C](), write: write}
}

type rotatorFunc[C any] struct {
	*settings[C]
	write func(ctx context.Context, config C, batch Batch) error

	turn sync.Mutex
	last Batch // acknowledged
}

func (f *rotatorFunc[C]) Write(ctx context.Context, b Batch) error {
	f.turn.Lock()
	defer f.turn.Unlock()
	if f.written(b) {
		return nil
	}
	err := f.call(ctx, func(ctx context.Context) error { return f.write(ctx, f.current(), b) })
	if err == nil {
		f.last = b
	}
	return err
}

// written tells whether b is the batch that was acknowledged last. Another kernel may have begun to count anew, so the
// number alone does not say it.
func (f *rotatorFunc[C]) written(b Batch) bool {
	l := f.last
	return l.Seq == b.Seq && l.Stream == b.Stream && len(l.Lines) > 0 && len(l.Lines) == len(b.Lines) && l.Lines[0].Time.Equal(b.Lines[0].Time)
}
