package stage

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/process"
)

// printing is a plugin, as far as --describe goes.
func printing(json string) string {
	return "#!/bin/sh\n[ \"$1\" = --describe ] || exit 9\ncat <<'END'\n" + json + "\nEND\n"
}

// described writes a program and resolves it as the plugin of the rotator.
func described(t *testing.T, text string) Spec {
	t.Helper()
	o := site(t)
	if err := os.WriteFile(filepath.Join(o.Root, "plug"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	spec, err := Resolve("rotator", parse(t, "  rotator: {use: ./plug, env: {GIVEN: yes}}\n").Rotator, o)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestDescribeSeesWhatThePluginWouldSee(t *testing.T) {
	t.Setenv("STRANGER", "secret")
	spec := described(t, "#!/bin/sh\necho '{\"name\":\"env\",\"version\":\"'\"$GIVEN-$STRANGER-$(pwd)\"'\",\"services\":[\"tqserver.plugin.rotator.v1.Rotator\"],\"protocol\":1}'\n")
	d, err := Describe(t.Context(), spec)
	dir, _ := filepath.EvalSymlinks(spec.Dir)
	if want := "yes--" + dir; err != nil || d.Version != want {
		t.Errorf("got %q, want %q, %v", d.Version, want, err)
	}
	if reasons := spec.Unfit(d); len(reasons) > 0 {
		t.Error(reasons)
	}
}

func TestDescribeSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"fails":         {"#!/bin/sh\necho one >&2; echo two >&2; exit 3\n", "rotator plugin ./plug: describe: exit status 3: two"},
		"no plugin":     {"#!/bin/sh\necho hello\n", "a plugin prints one JSON object for --describe"},
		"not a program": {"hello\n", "exec format error"},
		"floods":        {"#!/bin/sh\nexec yes\n", "it printed more than 1048576 bytes"},
		"floods stderr": {"#!/bin/sh\nyes no >&2; exit 4\n", "exit status 4: n"},
		"two lines":     {printing(`{"name":"a\nb","services":["x"]}`), "its name and its version must be one line each"},
		"long":          {printing(`{"name":"a","version":"` + strings.Repeat("1", 101) + `","services":["x"]}`), "of at most 100 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Describe(t.Context(), described(t, c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// A plugin that hangs is ended, with what it started.
func TestDescribeLeavesNothing(t *testing.T) {
	t.Parallel()
	spec := described(t, "#!/bin/sh\nsleep 60 &\necho $$ > begun.tmp; mv begun.tmp begun\nwait\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := Describe(ctx, spec)
		done <- err
	}()
	var pid int
	for deadline := time.Now().Add(30 * time.Second); pid == 0; time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(filepath.Join(spec.Dir, "begun"))
		if pid, _ = strconv.Atoi(strings.TrimSpace(string(text))); pid == 0 && time.Now().After(deadline) {
			t.Fatal("it does not begin")
		}
	}
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("got %v", err)
	}
	if !process.AwaitGroup(pid, 10*time.Second, nil) {
		t.Error("a process is left")
	}
}

func TestUnfit(t *testing.T) {
	spec := described(t, printing(`{"name":"a","services":["tqserver.plugin.rotator.v2.Rotator","x.Y"],"protocol":2}`))
	d, err := Describe(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"it speaks version 2 of the handshake, this tqserver speaks 1: use a version of the plugin that was built for this tqserver",
		"it offers tqserver.plugin.rotator.v2.Rotator, x.Y; wanted is tqserver.plugin.rotator.v1.Rotator: name the plugin under its own stage, or use a version of it that speaks this one",
	}
	if got := spec.Unfit(d); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestResolveFile(t *testing.T) {
	o := lockedSite(t, Platform(), hash("other"))
	spec, err := ResolveFile("./plug", o)
	if err != nil || spec.SHA256 != hash(script) || spec.Dir != o.Root || !slices.Equal(spec.Env, []string{"PATH=/bin"}) {
		t.Errorf("%+v, %v", spec, err)
	}
	if _, err := ResolveFile("./none", o); err == nil || !strings.HasPrefix(err.Error(), "./none: there is no file ") {
		t.Errorf("got %v", err)
	}
}
