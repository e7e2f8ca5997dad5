package stage

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/config"
)

func TestBackoffDoublesWithJitterUpToItsMaximum(t *testing.T) {
	limits := config.Restart{Initial: 500 * time.Millisecond, Max: 30 * time.Second, ResetAfter: time.Minute}
	now := time.Now()
	low := &backoff{limits: limits, random: func() float64 { return 0 }}
	high := &backoff{limits: limits, random: func() float64 { return 0.999999999 }}
	want := 500 * time.Millisecond
	for i := range 10 {
		least, degraded := low.failed(now, 0)
		most, _ := high.failed(now, 0)
		if least != want/2 || most > want || most < want-time.Millisecond || degraded {
			t.Errorf("failure %d: between %s and %s, degraded %v; want %s at most", i+1, least, most, degraded, want)
		}
		want = min(2*want, 30*time.Second)
	}
	if wait, _ := high.failed(now, 59*time.Second); wait < 29*time.Second {
		t.Errorf("after a short run: %s", wait)
	}
	if wait, _ := high.failed(now, time.Minute); wait > 500*time.Millisecond {
		t.Errorf("after a healthy run: %s", wait)
	}
}

func TestBudgetOfFailures(t *testing.T) {
	limits := config.Restart{Initial: time.Second, Max: time.Second, ResetAfter: time.Minute, Budget: 3, Per: 10 * time.Minute, DegradedRetry: 5 * time.Minute}
	now := time.Now()
	b := &backoff{limits: limits, random: func() float64 { return 0 }}
	at := func(minutes int, ran time.Duration, want bool) {
		t.Helper()
		wait, degraded := b.failed(now.Add(time.Duration(minutes)*time.Minute), ran)
		if degraded != want || degraded != (wait == 5*time.Minute) {
			t.Errorf("minute %d: wait %s, degraded %v", minutes, wait, degraded)
		}
	}
	at(0, 0, false)
	at(1, 0, false)
	at(10, 0, false) // the one of minute 0 is out
	at(10, 0, true)
	at(60, 0, true) // no healthy run meanwhile
	at(70, 2*time.Minute, false)
	at(70, 0, false)
	at(70, 0, true)
	b.reset()
	at(70, 0, false)
}

func TestHeartbeat(t *testing.T) {
	timeout := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	good := func(context.Context) error { return nil }
	gone := func(context.Context) error { return status.Error(codes.Unavailable, "connection refused") }
	bad := func(context.Context) error { return errors.New("wrong nonce") }
	for _, c := range []struct {
		name  string
		beats []func(context.Context) error // the last goes on
		want  string
		after time.Duration
	}{
		{"hangs", []func(context.Context) error{timeout}, "missed 3 heartbeats in a row: context deadline exceeded", 6*time.Second + 2*time.Second},
		{"hangs after a while", []func(context.Context) error{good, good, timeout}, "missed 3 heartbeats", 12 * time.Second},
		{"misses two of three", []func(context.Context) error{bad, bad, good, bad, bad, good}, "", time.Hour},
		{"answers wrong", []func(context.Context) error{bad}, "wrong nonce", 6 * time.Second},
		{"is gone", []func(context.Context) error{good, gone}, "connection refused", 4 * time.Second},
		{"is well", []func(context.Context) error{good}, "", time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				before, n := time.Now(), -1
				err := heartbeats.watch(ctx, func(ctx context.Context) error {
					n++
					return c.beats[min(n, len(c.beats)-1)](ctx)
				})
				took := time.Since(before)
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) || took != c.after {
					t.Errorf("after %s: %v; want %q after %s", took, err, c.want, c.after)
				}
			})
		})
	}
}
