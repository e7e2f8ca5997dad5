//go:build linux

// Command tqbench compares tqserver with nginx, HAProxy, Caddy and net/http/httputil.ReverseProxy on this machine. See
// docs/benchmarks/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// roleVariable makes this program one of its own helpers, and says which.
const roleVariable = "TQBENCH_ROLE"

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		end(play(role, os.Args[1:]))
		return
	}
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // the flag package has told
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	end(bench(ctx, o))
}

func end(err error) {
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
		fmt.Fprintln(os.Stderr, "tqbench: error: "+line)
	}
	os.Exit(1)
}

// roleCommand is a helper: this program, by a name that survives a build over it.
func roleCommand(role string, args ...string) command {
	return command{argv: append([]string{"/proc/self/exe"}, args...), env: []string{roleVariable + "=" + role}}
}

func play(role string, args []string) error {
	switch {
	case role == "load" && len(args) == 0:
		return playLoad(os.Stdin, os.Stdout)
	case role == "reverse" && len(args) == 5:
		routes, err := strconv.Atoi(args[4])
		if err != nil {
			return err
		}
		return playReverse(args[0], args[1], args[2], args[3], routes)
	}
	return fmt.Errorf("unknown role %s %q: unset %s", role, args, roleVariable)
}

// options are the flags.
type options struct {
	args      []string // as they were given
	quick     bool
	only      []string
	peers     []string
	out       string
	json      bool
	install   bool
	round     time.Duration
	rounds    int
	routes    int
	idle      int
	narration io.Writer // progress
	results   io.Writer // tables, or JSON
}

var (
	allParts = []string{"cpu", "matrix", "cores", "latency", "reload", "routes", "memory", "allocs"}
	allPeers = []string{"tqserver", "nginx", "haproxy", "caddy", "reverse"}
)

func parseOptions(args []string, help io.Writer) (o options, err error) {
	f := flag.NewFlagSet("tqbench", flag.ContinueOnError)
	f.SetOutput(help)
	f.BoolVar(&o.quick, "quick", false, "fewer and shorter rounds: 2 to 3 minutes, and less to be trusted")
	only := f.String("only", "", "comma-separated `parts` to run: "+strings.Join(allParts, ", ")+"; latency needs cores, and runs it")
	peers := f.String("peers", strings.Join(allPeers, ","), "comma-separated `programs` to compare")
	f.StringVar(&o.out, "out", "", "`directory` for results.md, results.json and the plots; default docs/benchmarks for a whole run, and none with -quick, -only or -peers")
	f.BoolVar(&o.json, "json", false, "print the results as JSON instead of as tables")
	noInstall := f.Bool("no-install", false, "do not build Caddy with `go install` where it is not in PATH")
	f.DurationVar(&o.round, "round", 0, "`length` of a round; default 1.2s, 300ms with -quick")
	f.IntVar(&o.rounds, "rounds", 0, "`number` of rounds of every comparison; default 3 to 7, 1 to 3 with -quick")
	f.IntVar(&o.routes, "routes", 100, "`number` of real pages, each with a worker of its own, that tqserver serves in the part routes")
	f.IntVar(&o.idle, "idle", 10000, "`number` of idle connections in the part memory")
	f.Usage = func() {
		fmt.Fprint(help, helpText)
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.args, o.install, o.narration, o.results = args, !*noInstall, os.Stderr, os.Stdout
	o.only, o.peers = words(*only), words(*peers)
	whole := len(o.only) == 0 && !o.quick && len(o.peers) == len(allPeers)
	if len(o.only) == 0 {
		o.only = allParts
	}
	if o.out == "" && whole {
		o.out = defaultOut
	}
	if err := o.check(f.Args()); err != nil {
		fmt.Fprintln(help, "tqbench: error:", err)
		return o, err
	}
	return o, nil
}

// defaultOut is below the directory of the module.
const defaultOut = "docs/benchmarks"

const helpText = `tqbench compares tqserver with nginx, HAProxy, Caddy and Go's ReverseProxy on this machine.

It builds tqserver and the worker that stands behind every proxy, uses the proxies that are installed, names those that
are not, and writes tables and plots. Run it in tqserver's module, on a machine that has nothing else to do.

  go run ./cmd/tqbench                        everything, into docs/benchmarks: about 15 minutes
  go run ./cmd/tqbench -quick                 everything in 2 to 3 minutes, printed only
  go run ./cmd/tqbench -only cpu -rounds 15   one part, more often

Flags:
`

func words(list string) (all []string) {
	for word := range strings.SplitSeq(list, ",") {
		if word = strings.TrimSpace(word); word != "" {
			all = append(all, word)
		}
	}
	return all
}

func (o *options) check(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown argument %q: see tqbench -help", args[0])
	}
	for _, list := range []struct{ got, known []string }{{o.only, allParts}, {o.peers, allPeers}} {
		for _, word := range list.got {
			if !slices.Contains(list.known, word) {
				return fmt.Errorf("unknown %q: it is one of %s", word, strings.Join(list.known, ", "))
			}
		}
	}
	if o.routes < 1 || o.routes > 1000 || o.idle < 1 {
		return errors.New("-routes is 1 to 1000, -idle at least 1")
	}
	return nil
}
