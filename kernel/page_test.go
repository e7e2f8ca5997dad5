package kernel

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/sdk"
)

func TestSourcesConcerns(t *testing.T) {
	s := &sources{inputs: map[string]string{"/p/main.go": "1"}, globs: []string{"/p/*.go", "/p/views/**"}}
	for _, c := range []struct {
		change   sdk.Change
		building bool
		want     bool
	}{
		{sdk.Change{Path: "/p/main.go", Op: sdk.Modified, Digest: "2"}, false, true},
		{sdk.Change{Path: "/p/main.go", Op: sdk.Modified, Digest: "1"}, false, false}, // what was built already
		{sdk.Change{Path: "/p/main.go", Op: sdk.Modified, Digest: "1"}, true, true},   // the build may have read another
		{sdk.Change{Path: "/p/main.go", Op: sdk.Removed}, false, true},
		{sdk.Change{Path: "/p/new.go", Op: sdk.Created, Digest: "1"}, false, true},
		{sdk.Change{Path: "/p/views/a/b.html", Op: sdk.Created, Digest: "1"}, false, true},
		{sdk.Change{Path: "/p/data.json", Op: sdk.Created, Digest: "1"}, false, false},
		{sdk.Change{Path: "/p/old.go", Op: sdk.Removed}, false, false}, // was no input
		{sdk.Change{Path: "/q/main.go", Op: sdk.Modified, Digest: "2"}, false, false},
	} {
		if got := s.concerns(c.change, c.building); got != c.want {
			t.Errorf("concerns(%+v, building %v) = %v", c.change, c.building, got)
		}
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	if d := backoff(0); d != 0 {
		t.Errorf("first start waits %v", d)
	}
	for n := 1; n < 100; n++ {
		full := min(100*time.Millisecond<<min(n-1, 20), 30*time.Second)
		if d := backoff(n); d < full/2 || d > full {
			t.Errorf("backoff(%d) = %v, want %v to %v", n, d, full/2, full)
		}
	}
}

func TestMailboxLosesNothing(t *testing.T) {
	m := newMailbox()
	var got []int
	for i := range 3 {
		if !m.put(func() { got = append(got, i) }) {
			t.Fatal("an open mailbox refused")
		}
	}
	if m.closeEmpty() {
		t.Error("closed with mail in it")
	}
	<-m.wake
	for _, f := range m.take() {
		f()
	}
	if !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("got %v", got)
	}
	if !m.closeEmpty() || m.put(func() {}) {
		t.Error("a closed mailbox takes mail")
	}
}

func TestFeedSendsTheNewestValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var n notifier
		value := 1
		out := make(chan int)
		done := make(chan struct{})
		go func() { defer close(done); feed(ctx, &n, func() int { return value }, out) }()
		synctest.Wait() // 1 is offered, nobody takes it
		value = 2
		n.notify()
		synctest.Wait()
		if got := <-out; got != 2 {
			t.Errorf("got %d, want the newest", got)
		}
		synctest.Wait()
		select {
		case v := <-out:
			t.Errorf("got %d without a notification", v)
		default:
		}
		cancel()
		<-done
	})
}

func TestSameSettings(t *testing.T) {
	base := config.Worker{GoMaxProcs: 1, Env: map[string]*string{"A": ptr("1"), "B": nil}}
	same := config.Worker{GoMaxProcs: 1, Env: map[string]*string{"B": nil, "A": ptr("1")}}
	if !sameSettings(base, same) {
		t.Error("equal settings differ")
	}
	for _, other := range []config.Worker{
		{GoMaxProcs: 2, Env: base.Env},
		{GoMaxProcs: 1, Env: map[string]*string{"A": ptr("2"), "B": nil}},
		{GoMaxProcs: 1, Env: map[string]*string{"A": ptr("1"), "B": ptr("")}},
		{GoMaxProcs: 1, Env: map[string]*string{"A": ptr("1")}},
	} {
		if sameSettings(base, other) {
			t.Errorf("%+v is taken for the same", other)
		}
	}
}

func TestPrivateDirRefusesWhatOthersCanReplace(t *testing.T) {
	root := t.TempDir()
	open := filepath.Join(root, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	err := privateDir(filepath.Join(open, "bin"))
	if err == nil || !strings.Contains(err.Error(), "writable for everybody: `chmod o-w "+open+"`") {
		t.Errorf("directory below a world-writable one: %v", err)
	}
	dir := filepath.Join(root, "a", "b")
	if err := privateDir(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(filepath.Join(root, "a"), 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if err := privateDir(dir); err == nil || !strings.Contains(err.Error(), "belongs to another user (uid 12345)") {
			t.Errorf("directory of another user: %v", err)
		}
	}
}

func TestSiteIsLocked(t *testing.T) {
	root := t.TempDir()
	c := config.Default()
	c.Workers.TempDir = filepath.Join(root, "bin")
	t.Setenv("XDG_RUNTIME_DIR", root)
	s, err := openSite(root, c, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openSite(root, c, true); err == nil || !strings.Contains(err.Error(), "a server already runs for this site") {
		t.Errorf("second server: %v", err)
	}
	tool, err := openSite(root, c, false)
	if err != nil {
		t.Fatal(err)
	}
	if tool.run == s.run {
		t.Error("a tool uses the server's runtime directory")
	}
	if err := tool.close(); err != nil {
		t.Error(err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if s, err = openSite(root, c, true); err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

func TestSaveJSONReplacesAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.json")
	for _, want := range []int{1, 2} {
		if err := saveJSON(path, want); err != nil {
			t.Fatal(err)
		}
		var got int
		if err := loadJSON(path, &got); err != nil || got != want {
			t.Errorf("got %d, %v; want %d", got, err, want)
		}
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Errorf("%d files are left", len(entries))
	}
	if err := saveJSON(filepath.Join(path, "no", "dir"), 1); err == nil {
		t.Error("no error for a directory that does not exist")
	}
}

func TestRouteTablesAreChecked(t *testing.T) {
	page := sdk.Route{Page: "a", Path: "/a", Dir: "/site/a", Source: "/site/a"}
	r := newRoutes()
	r.table = sdk.Table{Epoch: "a", Version: 3}
	for want, table := range map[string]sdk.Table{
		"is not newer than 3":         {Epoch: "a", Version: 3, Routes: []sdk.Route{page}},
		"it has no routes":            {Epoch: "b", Version: 1},
		"is claimed by pages a and a": {Epoch: "b", Version: 1, Routes: []sdk.Route{page, page}},
	} {
		if err := r.check(table); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("table %+v: %v, want %q", table, err, want)
		}
	}
	for _, table := range []sdk.Table{{Epoch: "a", Version: 4, Routes: []sdk.Route{page}}, {Epoch: "b", Version: 1, AllowEmpty: true}} {
		if err := r.check(table); err != nil {
			t.Errorf("table %+v: %v", table, err)
		}
	}
	r.closed = true
	if err := r.check(sdk.Table{Epoch: "c", Routes: []sdk.Route{page}}); err == nil {
		t.Error("a table is taken while the server stops")
	}
}

// What the rules allow must not fail in the proxy, where a resolver on trial would not see it.
func TestProxyTakesWhatTheRulesAllow(t *testing.T) {
	hosts := []string{"", "h", "H", "h.", "h:1", "[h]", "h h", "h..", "::1"}
	paths := []string{"", "/", "/x", "/x/", "//x", "/./x", "/x/..", "/...", "/x\\y", "/x\x00", "/X", "/x y", "x", "/%2e%2e"}
	taken := 0
	for _, host := range hosts {
		for _, path := range paths {
			first := sdk.Route{Host: host, Path: path, Page: "a", Dir: "/a", Source: "/a"}
			for _, other := range hosts {
				table := sdk.Table{Routes: []sdk.Route{first, {Host: other, Path: path, Page: "b", Dir: "/b", Source: "/b"}}}
				if table.Check() != nil {
					continue
				}
				taken++
				var backend proxy.Backend
				routes := []proxy.Route{{Host: host, Path: path, Backend: &backend}, {Host: other, Path: path, Backend: &backend}}
				if err := proxy.New(proxy.Options{}).SetRoutes(routes); err != nil {
					t.Errorf("hosts %q and %q, path %q: %v", host, other, path, err)
				}
			}
		}
	}
	if taken == 0 {
		t.Error("the rules allow nothing")
	}
}
