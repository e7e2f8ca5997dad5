// Command standin implements all five stages with the SDK alone, in a module of its own. The tests put it in the place
// of each default plugin; with BAD in its environment it goes wrong in that way.
package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// standin plays whichever stage it is asked to.
type standin struct {
	*resolver
	*builder
	*watcher
	*checker
	*rotator
}

var (
	_ sdk.Resolver = standin{}
	_ sdk.Builder  = standin{}
	_ sdk.Watcher  = standin{}
	_ sdk.Checker  = standin{}
	_ sdk.Rotator  = standin{}
)

type settings struct {
	File     string `tq:"file,default=logs/standin.log" doc:"where the rotator appends"`
	Interval int    `tq:"interval_ms,default=100,min=1" doc:"how often the watcher and the checker look"`
	Environ  string `tq:"environ" doc:"file that gets the environment, in the form of /proc/PID/environ"`
}

func main() {
	misbehave(os.Getenv("BAD"))
	s := standin{&resolver{}, &builder{}, &watcher{}, &checker{}, &rotator{}}
	sdk.Serve("standin", "3.2.1", s, sdk.Config(func(_ context.Context, c settings) error {
		onConfigure()
		s.rotator.file = c.File
		s.watcher.every = time.Duration(c.Interval) * time.Millisecond
		s.checker.every = s.watcher.every
		if c.Environ == "" {
			return nil
		}
		return os.WriteFile(c.Environ, []byte(strings.Join(os.Environ(), "\x00")), 0o600)
	}))
}
