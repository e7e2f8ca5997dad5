package proxy

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var errFailed = &fault{status: http.StatusBadGateway, kind: kindWorkerClosed}

func endpoints(n int) []*Endpoint {
	all := make([]*Endpoint, n)
	for i := range all {
		all[i] = NewEndpoint(EndpointOptions{})
	}
	return all
}

func failTimes(e *Endpoint, n int) {
	for range n {
		e.judge(errFailed)
	}
}

// shares is how often each of the set is chosen, while nothing is in flight.
func shares(b *Backend, n int) map[*Endpoint]float64 {
	got := make(map[*Endpoint]float64)
	for range n {
		got[b.set.Load().choose(nil)] += 1 / float64(n)
	}
	return got
}

func TestFailuresInARowEject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", BackendOptions{})
		two := endpoints(2)
		bad, good := two[0], two[1]
		b.Set(two...)
		failTimes(bad, 4)
		bad.judge(nil)
		failTimes(bad, 4)
		if !bad.EjectedUntil().IsZero() || b.Stats().Ejections != 0 {
			t.Error("ejected, though one in between was good")
		}
		bad.judge(errFailed)
		if want := time.Now().Add(30 * time.Second); !bad.EjectedUntil().Equal(want) || b.Stats().Ejected != 1 {
			t.Errorf("ejected until %v, want %v", bad.EjectedUntil(), want)
		}
		if got := shares(b, 200); got[good] < 0.99 {
			t.Errorf("the good one gets %v", got[good])
		}
		if b.set.Load().choose([]*Endpoint{good}) != bad {
			t.Error("the last resort is not tried")
		}
		time.Sleep(30 * time.Second)
		if !bad.EjectedUntil().IsZero() || b.Stats().Ejected != 0 {
			t.Error("is not back")
		}
	})
}

// TestOnlyTheWorkersFailuresCount, whoever else is to blame.
func TestOnlyTheWorkersFailuresCount(t *testing.T) {
	b := NewBackend("p", BackendOptions{})
	two := endpoints(2)
	b.Set(two...)
	for _, f := range []*fault{
		{status: 499, kind: kindClientClosed}, {status: 408, kind: kindReadTimeout}, {status: 503, kind: kindProxyLimit},
		{status: 503, kind: kindHoldTimeout}, {status: 503, kind: kindQueueTimeout}, {status: 404, kind: kindRouteNotFound},
	} {
		for range 20 {
			two[0].judge(f)
		}
		if !two[0].EjectedUntil().IsZero() {
			t.Errorf("%s ejects", f)
		}
	}
	for range 5 {
		two[0].judge(&fault{status: 504, kind: kindResponseTimeout})
	}
	if two[0].EjectedUntil().IsZero() {
		t.Error("504 does not eject")
	}
}

func TestEjectionsGrowInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", BackendOptions{})
		two := endpoints(2)
		b.Set(two...)
		bad := two[0]
		for n := 1; n <= 12; n++ {
			failTimes(bad, 4)
			if !bad.EjectedUntil().IsZero() {
				t.Fatal("ejected too early, when it was back")
			}
			failTimes(bad, 1)
			want := min(time.Duration(n)*30*time.Second, 5*time.Minute)
			if got := time.Until(bad.EjectedUntil()); got != want {
				t.Fatalf("the ejection of number %d takes %v, want %v", n, got, want)
			}
			failTimes(bad, 50) // what was under way
			time.Sleep(want + time.Second)
		}
		time.Sleep(5 * time.Minute)
		failTimes(bad, 5)
		if got := time.Until(bad.EjectedUntil()); got != 30*time.Second {
			t.Errorf("after a good while: %v", got)
		}
	})
}

func TestEjectionCanBeTurnedOff(t *testing.T) {
	o := BackendOptions{Eject: func() (int, time.Duration) { return 0, time.Minute }}
	b := NewBackend("p", o)
	two := endpoints(2)
	b.Set(two...)
	failTimes(two[0], 100)
	if !two[0].EjectedUntil().IsZero() {
		t.Error("ejected")
	}
}

// TestNeverMoreThanHalfAreEjected, and never the last, whatever fails, joins,
// and goes.
func TestNeverMoreThanHalfAreEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", BackendOptions{})
		ejections := 0
		for range 3_000 {
			switch set := b.Endpoints(); {
			case len(set) == 0 || oneIn(10):
				set = slices.DeleteFunc(set, func(*Endpoint) bool { return oneIn(2) })
				b.Set(append(set, endpoints(1+rand.IntN(4))...)...)
			case oneIn(20):
				time.Sleep(time.Duration(rand.IntN(60)) * time.Second)
			default:
				failTimes(set[rand.IntN(len(set))], 5)
			}
			s, set := b.Stats(), b.Endpoints()
			ejections = max(ejections, s.Ejected)
			if s.Workers == 0 || s.Ejected > s.Workers/2 {
				t.Fatalf("%d of %d are ejected", s.Ejected, s.Workers)
			}
			if e := b.set.Load().choose(nil); e == nil || s.Workers > 1 && !e.EjectedUntil().IsZero() {
				t.Fatalf("chose %v; %d of %d are ejected", e, s.Ejected, s.Workers)
			}
			if avoid := set[:len(set)-1]; b.set.Load().choose(avoid) != set[len(set)-1] {
				t.Fatal("the last that can be reached is not chosen")
			}
		}
		if ejections < 2 {
			t.Errorf("at most %d were ejected at a time", ejections)
		}
	})
}

// TestEndOfAnEjectionLetsTheLineIn: nobody leaves just then.
func TestEndOfAnEjectionLetsTheLineIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(time.Minute, 10))
		bad, good := limited(1), limited(1)
		b.Set(bad, good)
		failTimes(bad, 5)
		l := newLine(t, b)
		first, second := l.arrive(), l.arrive()
		if l.serving[first] != good || b.Queued() != 1 {
			t.Fatalf("%d queued", b.Queued())
		}
		l.sleep(30*time.Second - 1)
		if b.Queued() != 1 {
			t.Error("got the ejected one")
		}
		l.sleep(1)
		if l.serving[second] != bad {
			t.Error("was not served when it was back")
		}
		l.leaveAll()
	})
}

// TestLastResortHasALineOfItsOwn: the first in line does not take who is
// ejected; the second has found the only other one unreachable.
func TestLastResortHasALineOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", queue(10*time.Second, 10))
		bad, deaf := limited(1), limited(1)
		b.Set(bad, deaf)
		l := newLine(t, b)
		l.arrive()
		l.arrive()
		failTimes(bad, 5)
		first := l.arrive()
		second := l.arriveAvoiding(deaf)
		if b.Queued() != 2 {
			t.Fatalf("%d queued", b.Queued())
		}
		for n, e := range l.serving {
			if e == bad {
				l.leave(n)
			}
		}
		if l.serving[second] != bad || l.serving[first] != nil {
			t.Errorf("the second has %v, the first %v", l.serving[second], l.serving[first])
		}
		l.sleep(10 * time.Second)
		l.leaveAll()
	})
}

// TestWhoJoinsStartsSlowly: its share grows with time, to that of the other.
func TestWhoJoinsStartsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := BackendOptions{SlowStart: func() time.Duration { return 20 * time.Second }}
		b := NewBackend("p", o)
		two := endpoints(2)
		b.Set(two[0])
		b.Set(two...)
		grows(t, b, two[1], 20*time.Second)
		failTimes(two[1], 5)
		time.Sleep(30 * time.Second)
		grows(t, b, two[1], 20*time.Second)
	})
}

// grows looks at the share of one of two during its slow start.
func grows(t *testing.T, b *Backend, e *Endpoint, over time.Duration) {
	t.Helper()
	const steps, draws = 4, 20_000
	for i := range steps + 1 {
		want := float64(i) / steps / 2
		if got := shares(b, draws)[e]; got < want-0.03 || got > want+0.03 {
			t.Errorf("after %d/%d it gets %.3f, want %.3f", i, steps, got, want)
		}
		time.Sleep(over / steps)
	}
	if e.spell.Load() != nil {
		t.Error("is not like others at the end")
	}
}

// TestNewSetStartsAtOnce: a deploy is no reason to be slow.
func TestNewSetStartsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend("p", BackendOptions{})
		check := func(what string, n int) {
			set := endpoints(n)
			b.Set(set...)
			for _, e := range set {
				if share, _ := e.standing(time.Now()); share != 1 {
					t.Errorf("%s: share %v", what, share)
				}
			}
		}
		check("first", 2)
		check("swap", 3)
		b.Set()
		check("after none", 1)
	})
}

// TestSlowStartYieldsToLoad: who starts slowly is better than a line.
func TestSlowStartYieldsToLoad(t *testing.T) {
	b := NewBackend("p", queue(0, 0))
	full, cold := limited(1), limited(1)
	b.Set(full)
	b.Set(full, cold)
	full.enter()
	if e := b.set.Load().choose(nil); e != cold {
		t.Errorf("chose %v", e)
	}
	full.leave()
}

// TestDeadWorkerIsPassedOverAndItsRequestsServed by the other one.
func TestDeadWorkerIsPassedOverAndItsRequestsServed(t *testing.T) {
	s := newSite(t, Options{}, BackendOptions{})
	dead, w := s.worker(text(""), EndpointOptions{})
	w.Close()
	alive, _ := s.worker(text("ok"), EndpointOptions{})
	s.backend.Set(dead, alive)
	for range 60 {
		if res, body := s.get("/"); res.StatusCode != 200 || body != "ok" {
			t.Fatalf("got %s %q", res.Status, body)
		}
	}
	if s := s.backend.Stats(); s.Ejections != 1 || s.Retries != 5 || dead.EjectedUntil().IsZero() {
		t.Errorf("%+v", s)
	}
	if dead.Requests() != 5 || s.entry(59).Status != 200 {
		t.Errorf("the dead one was tried %d times", dead.Requests())
	}
}
