package kernel

import (
	"context"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/kernel/control"
)

// TestLinesOfPlugins: what is about plugins is in their streams, once, however many requests came after it, and the
// streams of everything have each line once.
func TestLinesOfPlugins(t *testing.T) {
	k := testKernel(t)
	write := func(lines ...string) {
		for _, line := range lines {
			if _, err := (serverLog{k}).Write([]byte("2026-01-02T03:04:05Z " + line + "\n")); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	everything, plugins, rotator := k.Follow(ctx, ""), k.Follow(ctx, PluginStream), k.Follow(ctx, PluginStream+"rotator")
	write("[INFO]  rotator: plugin runs: plugin=x", "[WARN]  builder: it failed:\n  | twice", "[INFO]  serving http://x", "[INFO]  resolvers: none of these")
	for name, c := range map[string]struct {
		live <-chan control.LogLine
		want string
	}{
		"":                       {everything, "rotator builder | serving resolvers"},
		PluginStream:             {plugins, "rotator builder |"},
		PluginStream + "rotator": {rotator, "rotator"},
	} {
		var live []control.LogLine
		for range strings.Fields(c.want) {
			live = append(live, <-c.live)
		}
		if got := firstWords(live); got != c.want {
			t.Errorf("live in %q: %s, want %s", name, got, c.want)
		}
		if got := firstWords(k.Recent(name, 0)); got != c.want {
			t.Errorf("recent in %q: %s, want %s", name, got, c.want)
		}
	}
	for range 2000 {
		write("[INFO]  GET / - 200 1ms")
	}
	if got := firstWords(k.Recent(PluginStream, 2)); got != "builder |" {
		t.Errorf("after many requests: %s", got)
	}
	if got := firstWords(k.Recent("", 1)); got != "GET" {
		t.Errorf("the last line of all: %s", got)
	}
	cancel()
	for _, live := range []<-chan control.LogLine{everything, plugins, rotator} {
		for range live { // until it has ended
		}
	}
}

// firstWords gives of each line what follows time and level, up to a colon or a space.
func firstWords(lines []control.LogLine) string {
	var words []string
	for _, l := range lines {
		text := strings.TrimSpace(l.Text[strings.Index(l.Text, "]")+1:])
		words = append(words, text[:strings.IndexAny(text+" ", ": ")])
	}
	return strings.Join(words, " ")
}
