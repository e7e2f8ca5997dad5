package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/sdk"
)

// After anything in any order a page comes to serve with as many workers as are wanted, and holds no port besides.
func TestWorkersSettleWhateverHappens(t *testing.T) {
	for round := range 6 {
		k := testKernel(t, several(2), func(c *config.Config) {
			c.Workers.PortRangeEnd = c.Workers.PortRangeStart + []int{3, 5, 20}[round%3]
			c.Workers.KeepWarm = time.Duration(round%2) * time.Hour
		})
		p := testPage(t, k, "a")
		p.serveRelease(t, testRelease(t, "0", "gated"))
		var past []string
		for range 40 {
			past = append(past, p.anything(t))
			select {
			case <-p.mail.wake:
				p.handle()
			case <-time.After(time.Duration(rand.IntN(10)) * time.Millisecond): // what goes on at the same time is part of it
			}
		}
		p.settlesAfter(t, past)
	}
}

// anything happens to the page. It says what.
func (p *page) anything(t *testing.T) string {
	inst := &instance{}
	if set := p.set(); len(set) > 0 {
		inst = set[rand.IntN(len(set))]
	}
	switch n := 1 + rand.IntN(3); rand.IntN(10) {
	case 0:
		p.k.testReload(t, p, several(n))
		return fmt.Sprint(n, " workers")
	case 1:
		p.k.testReload(t, p, func(c *config.Config) { c.Workers.Default.GoMaxProcs = n })
		return "settings"
	case 2:
		p.releaseBuilt(builtAs(testRelease(t, fmt.Sprint(n), "gated")), nil)
		return fmt.Sprint("release ", n)
	case 3:
		p.releaseBuilt(builtAs(testRelease(t, fmt.Sprint("bad ", n), "fail")), nil)
		return fmt.Sprint("bad release ", n)
	case 4:
		if all := p.k.good.records(p.name); len(all) > 0 {
			p.rollback(all[rand.IntN(len(all))].ID, new(control.RolledBack), func(error) {})
		}
		return "rollback"
	case 5:
		p.unreachable(inst, errors.New("refused"))
		return "no connection"
	case 6:
		p.checked(sdk.Health{Target: inst.id, Failures: 3})
		return "unhealthy"
	case 7:
		if p.serves(inst) {
			p.spent(inst)
		}
		return "max_requests"
	case 8:
		if k := p.k; os.Remove(k.site.abs("shut")) != nil {
			k.shut(t)
			return "no start works"
		}
		return "starts work"
	default:
		if p.serves(inst) {
			inst.worker.Kill()
		}
		return "kill"
	}
}

func (p *page) settlesAfter(t *testing.T, past []string) {
	t.Helper()
	_ = os.Remove(p.k.site.abs("shut")) // if it is there
	ports := 0
	settled := func() bool {
		ports = len(p.set())
		if p.warm != nil {
			ports += len(p.warm.set)
		}
		return p.current != nil && len(p.starts()) == 0 && len(p.set()) == p.wanted() && len(p.leaving) == 0 && len(p.k.ports.Leases()) == ports
	}
	for deadline := time.Now().Add(time.Minute); !settled(); {
		if time.Now().After(deadline) {
			t.Fatalf("after %q: %d workers of %d, starting %+v, %d leaving, %d ports of %d, state %s, trouble %q", past,
				len(p.set()), p.wanted(), p.starts(), len(p.leaving), len(p.k.ports.Leases()), ports, p.state(), p.trouble())
		}
		select {
		case <-p.mail.wake:
			p.handle()
		case <-time.After(time.Millisecond): // ports are given back elsewhere
		}
	}
	if !slices.Equal(p.backend.Endpoints(), endpoints(p.set())) || p.ask(t, t.Context(), "/") != 200 {
		t.Fatalf("after %q: the proxy does not have the workers of the page, or no answer", past)
	}
}
