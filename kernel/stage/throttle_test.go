package stage

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		th := throttle{ended: ended}
		took := func(n int) time.Duration {
			start := time.Now()
			th.pass(n)
			return time.Since(start)
		}
		if d := took(outputBurst); d != 0 {
			t.Errorf("the first burst took %v", d)
		}
		if d := took(3 * outputRate); d != 3*time.Second {
			t.Errorf("three seconds' worth took %v", d)
		}
		time.Sleep(2 * outputBurst / outputRate * time.Second)
		if d := took(outputBurst); d != 0 {
			t.Errorf("a burst after a rest took %v", d)
		}
		close(ended)
		if d := took(100 * outputBurst); d != 0 {
			t.Errorf("after the end of the process: %v", d)
		}
	})
}
