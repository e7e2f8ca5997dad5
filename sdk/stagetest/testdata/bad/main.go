// Command bad is a plugin that breaks the protocol in one way, which BAD names: a check, and where there are several
// ways a variant, as in "common/cookie:silent". Without it, it is a good plugin. STAGE is what it implements.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/tqserver/tqserver/sdk"
)

var mode = os.Getenv("BAD")

// bad tells whether this is the way to be bad.
func bad(way string) bool { return mode == way }

func main() {
	switch stage := os.Getenv("STAGE"); stage {
	case "resolver":
		serveRaw()
	case "watcher":
		sdk.Serve("bad", "1.0.0", &watcher{})
	case "checker":
		c := &checker{}
		sdk.Serve("bad", "1.0.0", c, sdk.Config(c.configure))
	case "builder":
		sdk.Serve("bad", "1.0.0", &builder{})
	case "rotator":
		sdk.Serve("bad", "1.0.0", &rotator{files: map[string]*os.File{}})
	default:
		fmt.Fprintln(os.Stderr, "unknown stage "+stage)
		os.Exit(2)
	}
}

func page(rel string) (name, path string) {
	path = "/" + strings.TrimSuffix(strings.TrimSuffix(rel, "index"), "/")
	return rel, path
}
