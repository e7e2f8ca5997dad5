//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/plugins/builder/linker"
)

// savesFor is how many saves there are: TQSERVER_SAVES, or few.
func savesFor(t *testing.T) int {
	t.Helper()
	text := os.Getenv("TQSERVER_SAVES")
	if text == "" {
		return 20
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 2 {
		t.Fatalf("TQSERVER_SAVES: %q is no number of saves", text)
	}
	return n
}

// TestSaves saves a page again and again while clients of every kind ask it: no request fails, none is answered by code
// older than what was live when it was sent, and in the end the server holds no more than half way.
// TQSERVER_SAVES says how many saves there are.
func TestSaves(t *testing.T) {
	saves := savesFor(t)
	v := &versions{soak: newSoak(t, map[string]string{"pages/index/main.go": versionedPage, "pages/index/version.go": ownVersion(0), "internal/shared/shared.go": sharedVersion(0)})}
	v.configure("", "", soakPlugins)
	v.start()
	v.awaitBody("/", "release 0")
	l := v.startJudged(everyKind("/"), v.judge)
	half := v.saves(saves / 2)
	before, plugins := v.settle(nil), v.plugins()
	v.saves(saves - half)
	after := v.settle(&before)
	l.mustHold()
	v.compare(plugins)
	t.Logf("%d saves, %d releases seen live\nhalf way: %+v\nat the end: %+v", saves, v.lives, before, after)
}

// versions is a server whose page answers with its version, and what is known of which was live.
type versions struct {
	*soak
	own, shared int
	lives       int          // releases that were awaited
	newest      atomic.Int64 // that has answered anybody
}

// judge is called before a request is sent: its answer must be of what was live then, or newer.
func (v *versions) judge() func(client, string) error {
	live := v.newest.Load()
	return func(_ client, body string) error {
		var answered int64
		if _, err := fmt.Sscanf(body, "release %d", &answered); err != nil {
			return fmt.Errorf("the page answers %.100q: %w", body, err)
		}
		for old := v.newest.Load(); old < answered && !v.newest.CompareAndSwap(old, answered); {
			old = v.newest.Load()
		}
		if answered < live {
			return fmt.Errorf("release %d answers, release %d was live when the request was sent", answered, live)
		}
		return nil
	}
}

// saves makes n saves and waits until each is live, but for those that another follows at once. It gives n.
func (v *versions) saves(n int) int {
	v.t.Helper()
	for i := 1; i <= n; i++ {
		v.save()
		if i%5 == 0 && i < n {
			time.Sleep(time.Duration(i%4) * 40 * time.Millisecond) // the user's, who saves again before this is live
			continue
		}
		v.await(fmt.Sprintf("release %d to be live", v.version()), func() error {
			if live := v.newest.Load(); live != v.version() {
				return fmt.Errorf("release %d is", live)
			}
			return nil
		})
		v.lives++
	}
	return n
}

func (v *versions) version() int64 { return int64(v.own + v.shared) }

// save makes a new version by an edit of the page, or of the package that it imports.
func (v *versions) save() {
	v.t.Helper()
	if (v.own+v.shared)%7 == 6 {
		v.shared++
		v.write("internal/shared/shared.go", sharedVersion(v.shared))
		return
	}
	v.own++
	v.write("pages/index/version.go", ownVersion(v.own))
}

func sharedVersion(n int) string {
	return fmt.Sprintf("package shared\n\n// Version counts the edits of this package.\nfunc Version() int { return %d }\n", n)
}

// ownVersion is a file that changes in more than the number from edit to edit: in its functions, imports and comments.
func ownVersion(n int) string {
	const head = "package main\n\n"
	tail := fmt.Sprintf("const ownVersion = %d\n", n)
	switch n % 5 {
	case 1:
		return head + "// A comment.\n" + tail
	case 2:
		return head + "import \"sort\"\n\nfunc init() { sort.Ints([]int{2, 1}) }\n\n" + tail
	case 3:
		return head + tail + fmt.Sprintf("\nfunc init() { println(%q) }\n", strings.Repeat("x", n%97))
	case 4:
		return head + "type another struct{ A, B int }\n\nvar _ = another{}\n\n" + tail
	}
	return head + tail
}

// versionedPage is textPage with the version in another file and a package of the site.
var versionedPage = strings.NewReplacer(`const text = ""`, "var text = fmt.Sprint(\"release \", ownVersion+shared.Version())",
	"\"github.com/tqserver/tqserver/sdk/worker\"\n", "\"github.com/tqserver/tqserver/sdk/worker\"\n\n\t\"site/internal/shared\"\n").Replace(textPage(""))

// pluginHoldings is what a plugin can leak.
type pluginHoldings struct{ PID, Files, Children, MiB int }

func (v *versions) plugins() map[string]pluginHoldings {
	v.t.Helper()
	all := map[string]pluginHoldings{}
	for _, name := range allStages {
		pid := v.running(name).PID
		proc := fmt.Sprintf("/proc/%d/", pid)
		files, err := os.ReadDir(proc + "fd")
		if err != nil {
			v.t.Fatal(err)
		}
		all[name] = pluginHoldings{PID: pid, Files: len(files), Children: children(pid), MiB: procStatus(v.t, proc, "VmRSS") / 1024}
	}
	return all
}

// compare waits until each plugin is the same process as before and holds no more. The builder may have linkers that
// wait for the next save, each with four files. Of the binaries only so many are kept.
func (v *versions) compare(before map[string]pluginHoldings) {
	v.t.Helper()
	memory := 16
	if raceDetector() {
		memory = 1 << 20 // see excess
	}
	v.await("the plugins to hold no more than half way", func() error {
		for name, now := range v.plugins() {
			then := before[name]
			if name == "builder" {
				then.Children = max(then.Children, linker.DefaultSpares)
				then.Files += 4 * now.Children
			}
			if now.PID != then.PID || now.Files > then.Files+3 || now.Children > then.Children || now.MiB > then.MiB+memory {
				return fmt.Errorf("the %s has %+v, before %+v", name, now, then)
			}
		}
		kept, _ := filepath.Glob(filepath.Join(filepath.Dir(v.dir), "bin", "*", "[0-9a-f]*"))
		if len(kept) == 0 || len(kept) > config.Default().Workers.KeepReleases+2 { // two may be in use
			return fmt.Errorf("there are %d binaries", len(kept))
		}
		return nil
	})
}
