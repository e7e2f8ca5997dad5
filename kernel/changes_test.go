package kernel

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// A file of a shared package that is saved while the first build that reads it is under way must be built, too: nobody
// knew that it counts when its change was reported.
func TestChangeOfWhatABuildIsTheFirstToRead(t *testing.T) {
	k := testKernel(t)
	shared := k.site.abs("pages/_shared/x.go")
	for _, c := range []struct {
		name   string
		change sdk.Change
		again  bool
	}{
		{"changed", sdk.Change{Path: shared, Op: sdk.Modified, Digest: "2"}, true},
		{"removed", sdk.Change{Path: shared, Op: sdk.Removed}, true},
		{"read as it is now", sdk.Change{Path: shared, Op: sdk.Modified, Digest: "1"}, false},
		{"not read", sdk.Change{Path: shared + "x", Op: sdk.Modified, Digest: "2"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testPage(t, k, "a")
			p.building = &build{cancel: func() {}}
			p.filesChanged([]sdk.Change{c.change}, time.Now())
			if p.again {
				t.Fatal("a build is cancelled for a file that may be none of its own")
			}
			p.releaseBuilt(builtAs(testRelease(t, "r", "serve"), sdk.Input{Path: shared, Digest: "1"}), nil)
			if again := p.building != nil; again != c.again {
				t.Errorf("built again: %v", again)
			}
			if started := p.candidate != nil; started == c.again {
				t.Errorf("started: %v", started)
			}
		})
	}
}

// The look that the first build waited for makes it no second time.
func TestFirstReportBuildsNothingTwice(t *testing.T) {
	k := testKernel(t)
	for _, scanned := range []bool{true, false} {
		p := testPage(t, k, "a")
		p.scanned, p.building = scanned, &build{cancel: func() {}}
		k.dispatch([]sdk.Change{{Path: p.route.Dir + "/main.go", Op: sdk.Created, Digest: "1"}}, time.Now(), true)
		p.handle()
		if p.again == scanned {
			t.Errorf("page that waited: %v, is built again: %v", scanned, p.again)
		}
		p.building = nil
	}
}

func TestWatchedIsWhereFilesAreAndMayCome(t *testing.T) {
	k := testKernel(t)
	a, b := testPage(t, k, "a"), testPage(t, k, "b")
	a.sources.Store(newSources(sdk.Result{
		Inputs: []sdk.Input{{Path: "/site/lib/x.go", Digest: "1"}, {Path: "/site/go.mod", Digest: "m"}, {Path: a.route.Dir + "/main.go", Digest: "a"}},
		Globs: []string{"/site/lib/*.go", "/site/coming/*.[chms]", `/odd\*\[1]\\/*.go`, "/go.mod", "/site/lib/views/**", "*.rel",
			a.route.Dir + "/*.go", k.site.abs("pages") + "/*.go"},
	}))
	b.sources.Store(newSources(sdk.Result{Inputs: []sdk.Input{{Path: "/site/lib/x.go", Digest: "2"}, {Path: "/site/go.mod", Digest: "m"}}}))
	set := k.files.watchSet()
	if want := []string{`/odd*[1]\`, "/site", "/site/coming", "/site/lib", "/site/lib/views"}; !slices.Equal(set.Dirs, want) {
		t.Errorf("watched are %q, want %q", set.Dirs, want)
	}
	if got := set.Known["/site/lib/x.go"]; got == "1" || got == "2" || got == "" {
		t.Errorf("two pages have read different contents, and the watcher is told %q: it finds no change for one of them", got)
	}
	if got := set.Known["/site/go.mod"]; got != "m" {
		t.Errorf("go.mod is known as %q", got)
	}
	k.files.learn(sdk.ChangeSet{Changes: []sdk.Change{{Path: "/site/lib/x.go", Op: sdk.Modified, Digest: "2"}}})
	if got := k.files.watchSet().Known["/site/lib/x.go"]; got != "2" {
		t.Errorf("after the report it is known as %q", got)
	}
	k.files.forget()
	if got := k.files.watchSet().Known["/site/lib/x.go"]; got != disputed {
		t.Errorf("after a rescan without the watcher it is known as %q", got)
	}
}

func TestPageWaitsForTheFirstLook(t *testing.T) {
	k := testKernel(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if k.watched(ctx) {
		t.Error("the look was taken before there was one")
	}
	k.files.learn(sdk.ChangeSet{})
	if !k.watched(t.Context()) {
		t.Error("the look was not noticed")
	}
}
