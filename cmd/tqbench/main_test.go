//go:build linux

package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		end(play(role, os.Args[1:]))
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/tqserver/tqserver/kernel/process.starter")) // it never ends, on purpose
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		args string
		out  string
		only int
		err  string
	}{
		{args: "", out: defaultOut, only: len(allParts)},
		{args: "-quick", only: len(allParts)},
		{args: "-only cpu", only: 1},
		{args: "-only cpu, -out x", err: "unknown argument"},
		{args: "-only=cpu,memory -out=x", out: "x", only: 2},
		{args: "-peers nginx", only: len(allParts)},
		{args: "-only speed", err: `unknown "speed"`},
		{args: "-peers apache", err: `unknown "apache"`},
		{args: "-routes 0", err: "-routes is 1 to 1000"},
	} {
		args := strings.Fields(strings.ReplaceAll(c.args, ", ", ",x "))
		if c.err == "unknown argument" {
			args = []string{"-only", "cpu", "cpu"}
		}
		o, err := parseOptions(args, io.Discard)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error is %v, not %q", args, err, c.err)
			}
			continue
		}
		if err != nil || o.out != c.out || len(o.only) != c.only {
			t.Errorf("%q: out %q, %d parts, %v", args, o.out, len(o.only), err)
		}
	}
}

func TestHelpNamesPartsAndPeers(t *testing.T) {
	var help strings.Builder
	if _, err := parseOptions([]string{"-help"}, &help); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	for _, word := range append(append([]string{"go run ./cmd/tqbench -quick"}, allParts...), allPeers...) {
		if !strings.Contains(help.String(), word) {
			t.Errorf("the help does not have %q", word)
		}
	}
}

func TestUnknownRole(t *testing.T) {
	for _, args := range [][]string{{"nobody"}, {"load", "x"}, {"reverse"}, {"reverse", "tuned", "a", "b", "c", "many"}} {
		if play(args[0], args[1:]) == nil {
			t.Errorf("%q is played", args)
		}
	}
}
