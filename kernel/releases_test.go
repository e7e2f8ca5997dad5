package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/sdk"
)

// testStore is a store with a page of so many releases, r0 being the oldest, whose binaries are there.
func testStore(t *testing.T, n int) *goodReleases {
	t.Helper()
	g := loadGoodReleases(filepath.Join(t.TempDir(), "releases.json"))
	start := time.Now().Add(-time.Hour)
	for i := range n {
		rec := record{release: testRelease(t, fmt.Sprint("r", i), "serve"), Built: start.Add(time.Duration(i) * time.Minute), Duration: time.Second, Size: 7}
		g.add("a", rec, 100)
	}
	return g
}

func ids(records []record) string {
	var all []string
	for _, r := range records {
		all = append(all, r.ID)
	}
	return strings.Join(all, " ")
}

func TestReleasesOutliveTheKernel(t *testing.T) {
	g := testStore(t, 3)
	g.set("a", testRelease(t, "r1", "serve"))
	pin := &control.Pin{Release: "r1", Over: "r2", Since: time.Now().UTC(), Reason: "it was bad"}
	g.pin("a", pin)
	g.update("a", "r2", func(r *record) { r.Undone = "it was bad" })
	if err := g.save(); err != nil {
		t.Fatal(err)
	}
	again := loadGoodReleases(g.path)
	if r := again.get("a"); r.ID != "r1" || r.Env["KERNEL_TEST_WORKER"] != "serve" {
		t.Errorf("the good release is %+v", r)
	}
	if got := again.pinned("a"); got == nil || *got != *pin {
		t.Errorf("the pin is %+v", got)
	}
	all := again.records("a")
	if ids(all) != "r0 r1 r2" || all[0].Duration != time.Second || all[0].Size != 7 || all[1].Live.IsZero() || all[2].Undone != "it was bad" {
		t.Errorf("the records are %+v", all)
	}
	if why := again.undone("a", "r2"); why != "it was bad" {
		t.Errorf("undone because of %q", why)
	}
	again.set("a", testRelease(t, "r2", "serve"))
	if why := again.undone("a", "r2"); why != "" {
		t.Errorf("a release that is live is still undone: %q", why)
	}
	again.remove("a")
	if err := again.save(); err != nil {
		t.Fatal(err)
	}
	if left := loadGoodReleases(g.path).all; len(left) != 0 {
		t.Errorf("of a page that is gone there is %+v", left)
	}
}

// The file had the last good release alone, at the place where it is now.
func TestOldFileOfReleases(t *testing.T) {
	r := testRelease(t, "r1", "serve")
	path := filepath.Join(t.TempDir(), "releases.json")
	if err := saveJSON(path, map[string]release{"a": r}); err != nil {
		t.Fatal(err)
	}
	g := loadGoodReleases(path)
	all := g.records("a")
	if g.get("a").ID != "r1" || ids(all) != "r1" || all[0].Size == 0 || all[0].Live.IsZero() {
		t.Errorf("of an old file there is %+v, records %+v", g.get("a"), all)
	}
	if err := os.WriteFile(path, []byte(`{"a":null,"b":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if g := loadGoodReleases(path); g.get("a").ID != "" || g.get("b").ID != "" || len(g.records("b")) != 0 {
		t.Errorf("of an empty file there is %+v", g.all)
	}
}

func TestOnlySoManyReleasesAreKept(t *testing.T) {
	g := testStore(t, 6)
	g.set("a", testRelease(t, "r0", "serve")) // of use now
	g.pin("a", &control.Pin{Release: "r0", Over: "r1"})
	g.add("a", record{release: testRelease(t, "r6", "serve"), Built: time.Now()}, 4)
	if got := ids(g.records("a")); got != "r0 r1 r5 r6" {
		t.Errorf("kept are %s, want those of use and the newest", got)
	}
	g.add("a", record{release: testRelease(t, "r5", "serve"), Built: time.Now(), Size: 1}, 4)
	if all := g.records("a"); ids(all) != "r0 r1 r5 r6" || all[2].Size != 7 {
		t.Errorf("a release that was found again is %+v", all[2])
	}
	gone := testRelease(t, "gone", "serve")
	gone.Artifact = filepath.Join(t.TempDir(), "x")
	g.add("a", record{release: gone, Built: time.Now()}, 5)
	if got := ids(g.records("a")); got != "r0 r1 r5 r6" {
		t.Errorf("one can go back to %s", got)
	}
	keep := g.artifacts(1)
	if !keep[filepath.Dir(g.get("a").Artifact)] || keep[filepath.Dir(gone.Artifact)] {
		t.Errorf("kept are the binaries in %v", keep)
	}
	if got := ids(g.records("a")); got != "r0 r1" {
		t.Errorf("of one release, and those in use, there is %s", got)
	}
}

// A page with max_requests has a new worker again and again: that is nothing to write down.
func TestAnotherWorkerIsNothingToSave(t *testing.T) {
	g := testStore(t, 1)
	g.set("a", testRelease(t, "r0", "serve"))
	before := g.changes
	g.set("a", testRelease(t, "r0", "serve"))
	if g.changes != before {
		t.Error("another worker of the release is a change")
	}
}

func TestChooseRelease(t *testing.T) {
	at := time.Now()
	all := []record{
		{release: release{ID: "aa11"}, Live: at.Add(1)}, {release: release{ID: "aa22"}, Live: at.Add(2)},
		{release: release{ID: "bb33"}}, {release: release{ID: "cc44"}, Live: at.Add(4), Undone: "bad"}, {release: release{ID: "dd55"}, Live: at.Add(5)},
	}
	for _, c := range []struct{ live, name, want, err string }{
		{"dd55", "", "aa22", ""},
		{"aa22", "", "dd55", ""},
		{"", "", "dd55", ""},
		{"dd55", "cc", "cc44", ""},
		{"dd55", "BB", "bb33", ""},
		{"dd55", "aa11", "aa11", ""},
		{"dd55", "aa", "", `release "aa" may be any of 2: there are aa22, aa11`},
		{"dd55", "x", "", `no release "x": there are dd55 (live), cc44, bb33, aa22, aa11`},
	} {
		got, err := choose(all, c.live, c.name)
		if got.ID != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("choose(live %q, %q) = %q, %v; want %q %q", c.live, c.name, got.ID, err, c.want, c.err)
		}
	}
	if _, err := choose(all[2:3], "", ""); err == nil || !strings.Contains(err.Error(), "no release has served before") {
		t.Errorf("without one that served: %v", err)
	}
}

func TestRevision(t *testing.T) {
	root := t.TempDir()
	page := filepath.Join(root, "pages", "a")
	shared := filepath.Join(root, "shared.go")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	inputs := []sdk.Input{{Path: filepath.Join(page, "main.go")}, {Path: shared}, {Path: "/elsewhere/x.go"}}
	want := func(when, commit string, dirty bool) {
		t.Helper()
		if got, changed := revision(t.Context(), root, page, inputs); got != commit || changed != dirty {
			t.Errorf("%s: commit %q, dirty %v; want %q, %v", when, got, changed, commit, dirty)
		}
	}
	write(filepath.Join(page, "main.go"), "1")
	write(shared, "1")
	want("without a work tree", "", false)
	git := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("git", append([]string{"-C", root, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v, %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	git("init", "-q")
	want("without a commit", "", true)
	git("add", "-A")
	git("commit", "-qm", "x")
	head := git("rev-parse", "HEAD")
	want("committed", head, false)
	write(filepath.Join(root, "pages", "b", "main.go"), "other")
	want("another page is new", head, false)
	write(shared, "2")
	want("a shared file is changed", head, true)
	git("checkout", "-q", "shared.go")
	write(filepath.Join(page, "new.go"), "1")
	want("a file is new", head, true)
	t.Setenv("PATH", "")
	want("without git", "", false)
}

// A day of saves must not fill the disk: what is no longer kept is removed, but for what runs and what is not ours.
func TestBinariesOfDroppedReleasesAreRemoved(t *testing.T) {
	k := testKernel(t, func(c *config.Config) { c.Workers.KeepReleases = 2 })
	p := testPage(t, k, "a")
	keep := func(id, dir string) (artifact string) {
		artifact = filepath.Join(dir, id, "page")
		if err := os.MkdirAll(filepath.Dir(artifact), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(artifact, []byte("#!/bin/true\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		p.keepBuilt(release{ID: id, Artifact: artifact}, &buildReport{at: time.Now()})
		p.work.Wait()
		return artifact
	}
	dir := *k.site.releases.Load()
	foreign := keep("foreign", t.TempDir())
	used := keep("used", dir)
	p.view.Load().artifacts = []string{used}
	one, two, three := keep("one", dir), keep("two", dir), keep("three", dir)
	for artifact, want := range map[string]bool{foreign: true, used: true, one: false, two: true, three: true} {
		if executable(artifact) != want {
			t.Errorf("%s is there: %v, want %v", artifact, !want, want)
		}
	}
	if all, _ := os.ReadDir(dir); slices.ContainsFunc(all, func(e os.DirEntry) bool { return e.Name() == "one" }) {
		t.Error("something of the removed release is left")
	}
}
