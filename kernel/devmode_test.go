package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/dev"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/kernel/worker"
	"github.com/tqserver/tqserver/sdk"
)

// testDevPage is a page in dev mode that serves release 1, which was built from main.go and style.css.
func testDevPage(t *testing.T) *page {
	t.Helper()
	k := testKernel(t)
	k.opts.Dev = true
	k.site.state = filepath.Join(k.site.root, ".tqserver")
	k.dev = newDev(k)
	p := testPage(t, k, "x")
	p.write(t, "main.go", strings.Repeat("// line\n", 20))
	p.write(t, "style.css", "a {}")
	p.serve(t, "1", "serve")
	return p
}

func (p *page) path(name string) string { return filepath.Join(p.route.Dir, name) }

func (p *page) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.path(name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// serve makes a release live that was built from main.go and style.css.
func (p *page) serve(t *testing.T, id, mode string) {
	t.Helper()
	r := testRelease(t, id, mode)
	p.changedAt = time.Now()
	p.releaseBuilt(builtAs(r, sdk.Input{Path: p.path("main.go"), Digest: id}, sdk.Input{Path: p.path("style.css"), Digest: id}), nil)
	p.until(t, "release "+id, func() bool { return p.current != nil && p.current.release.ID == id && p.candidate == nil })
}

// edit tells the page that files changed, whose builds the test makes itself.
func (p *page) edit(names ...string) {
	var changes []sdk.Change
	for _, name := range names {
		changes = append(changes, sdk.Change{Path: p.path(name), Op: sdk.Modified, Digest: time.Now().String()})
	}
	p.assetsChanged(changes)
	if p.concerned(changes) {
		p.saved(changes)
	}
	p.publish()
}

// versions gives how often the browser was told to reload, and to take new stylesheets.
func (p *page) versions() [2]uint64 { return [2]uint64{p.dev.last.Reloads, p.dev.last.Styles.Version} }

func TestDevReloadsWhatIsOutOfDate(t *testing.T) {
	p := testDevPage(t)
	want := [2]uint64{}
	check := func(what string, reloads, styles uint64) {
		t.Helper()
		want[0] += reloads
		want[1] += styles
		if got := p.versions(); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
			want = got
		}
	}
	check("the first worker", 0, 0)

	p.edit("main.go")
	check("a file of the build, not built yet", 0, 0)
	p.serve(t, "2", "serve")
	check("a new release", 1, 0)

	p.edit("style.css")
	check("a stylesheet of the build, not built yet", 0, 0)
	p.serve(t, "3", "serve")
	check("a release with another stylesheet", 0, 1)
	if got := p.dev.last.Styles.Files; !slices.Equal(got, []string{"style.css"}) {
		t.Errorf("stylesheets: %q", got)
	}
	p.edit("style.css")
	p.edit("main.go")
	p.serve(t, "4", "serve")
	check("a release with more than another stylesheet", 1, 0)

	p.edit("other.css")
	check("a stylesheet that is served from its file", 0, 1)
	p.edit("other.css", "page.html")
	check("a template, too", 1, 0)
	p.edit("x_test.go", "data.db", "data.db-wal", "x.log", ".hidden", "main.go~")
	check("files that no browser shows", 0, 0)

	inner := testPage(t, p.k, "x/inner")
	p.edit("inner/page.html")
	check("a file of a page within the page", 0, 0)
	inner.devAssets([]sdk.Change{{Path: inner.path("page.html"), Op: sdk.Modified}, {Path: p.path("../_shared/all.css"), Op: sdk.Created}})
	if inner.dev.reloads != 0 {
		t.Errorf("a page that was never built is told of its files")
	}
	p.edit("../_shared/all.css")
	check("a stylesheet that is no page's", 0, 1)

	p.start(p.current.release, restart, 0)
	p.until(t, "the same release again", func() bool { return p.candidate == nil })
	check("another worker of the same release", 0, 0)
	p.settings.MaxRequests = 7
	p.renew()
	p.until(t, "a worker with other settings", func() bool { return p.candidate == nil })
	check("other settings", 1, 0)
}

func TestDevProblems(t *testing.T) {
	p := testDevPage(t)
	p.changedAt = time.Now()
	failed := &buildReport{at: time.Now(), diagnostics: []sdk.Diagnostic{
		{Message: "undefined: x", File: p.path("main.go"), Line: 7, Column: 3}, {Message: "elsewhere", File: "/etc/passwd", Line: 1}}}
	failed.result.Inputs = []sdk.Input{{Path: p.path("main.go")}}
	p.releaseBuilt(failed, nil)
	p.publish()
	s := p.dev.last
	if len(s.Problems) != 1 || !s.Failed || !s.Serving {
		t.Fatalf("after a build that failed: %+v", s)
	}
	first, second := s.Problems[0].Findings[0], s.Problems[0].Findings[1]
	if first.File != "pages/x/main.go" || first.Line != 7 || len(first.Source) != 9 || !strings.HasPrefix(first.Link, "vscode://file/") || !strings.HasSuffix(first.Link, "main.go:7:3") {
		t.Errorf("%+v", first)
	}
	if second.Source != nil || second.Link != "" || second.File != "/etc/passwd" {
		t.Errorf("a file that is none of the site's: %+v", second)
	}
	if note := s.Problems[0].Note; !strings.Contains(note, "the previous release serves on") {
		t.Errorf("note: %q", note)
	}

	p.releaseBuilt(builtAs(testRelease(t, "2", "fail")), nil)
	p.until(t, "the new release to fail", func() bool { return p.stale != "" && p.candidate == nil })
	if s := p.dev.last; len(s.Problems) != 1 || s.Problems[0].Title != "The new release does not start" || !strings.Contains(s.Problems[0].Output, "cannot go on") {
		t.Errorf("after a release that does not start: %+v", s)
	}

	p.serve(t, "3", "serve")
	if s := p.dev.last; len(s.Problems) != 0 || s.Failed {
		t.Errorf("mended: %+v", s)
	}
	tap := p.devTap(p.current)
	for line := range strings.Lines("panic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t" + p.path("main.go") + ":5 +0x1\n") {
		tap(2, []byte(strings.TrimSuffix(line, "\n")))
	}
	p.until(t, "the panic", func() bool { return len(p.dev.trace) == 5 })
	if s := p.dev.last; len(s.Problems) != 1 || s.Problems[0].Title != "Panic" || s.Problems[0].Findings[0].Message != "panic: boom" || s.Problems[0].Findings[0].Line != 5 {
		t.Errorf("after a panic: %+v", s)
	}
	p.edit("page.html")
	if s := p.dev.last; len(s.Problems) != 0 {
		t.Errorf("after an edit: %+v", s)
	}
}

func TestDevProblemsInWords(t *testing.T) {
	p := testDevPage(t)
	p.write(t, "a.html", "{{\n}}\n")
	got := p.placedProblem("update failed: pages/x/a.html:2:1: unexpected end\nupdate failed: pages/x/b.html:7: no such file")
	if got.Title != "Update failed" || len(got.Findings) != 2 || got.Findings[0].Message != "unexpected end" || len(got.Findings[0].Source) != 2 ||
		got.Findings[0].Column != 1 || got.Findings[1].Line != 7 || got.Findings[1].Source != nil {
		t.Errorf("%+v", got)
	}
	got = p.placedProblem("worker x#1 is unhealthy: status 500\n  at serve (" + p.path("main.go") + ":3:1)")
	if got.Title != "There is a problem" || got.Findings[0].Message != "worker x#1 is unhealthy: status 500" || got.Findings[0].Line != 3 || !strings.HasPrefix(got.Output, "at serve") {
		t.Errorf("%+v", got)
	}
}

func TestDevCrashStaysInSight(t *testing.T) {
	p := testDevPage(t)
	p.k.testReload(t, p, func(c *config.Config) { c.Workers.Probation = 0 })
	p.serve(t, "2", "brief")
	p.until(t, "the worker to end and be replaced", func() bool { return p.crashes > 0 && p.current != nil })
	if s := p.dev.last; len(s.Problems) != 1 || s.Problems[0].Title != "The worker has ended" || !strings.Contains(s.Problems[0].Findings[0].Message, "exited with status 5") {
		t.Errorf("%+v", s)
	}
	p.serve(t, "3", "serve")
	if s := p.dev.last; len(s.Problems) != 0 {
		t.Errorf("mended: %+v", s)
	}
}

func TestDevShowsWhatWasRolledBack(t *testing.T) {
	p := testDevPage(t)
	p.serve(t, "2", "brief")
	p.until(t, "the worker to end and the release before to be back", func() bool { return p.crashes > 0 && p.current != nil })
	s := p.dev.last
	if len(s.Problems) != 1 || s.Problems[0].Title != "The new release was rolled back" || !strings.Contains(s.Problems[0].Findings[0].Message, "exited with status 5") || !s.Serving || !s.Failed {
		t.Errorf("%+v", s)
	}
}

func TestDevShowsFilesOfTheSiteOnly(t *testing.T) {
	p := testDevPage(t)
	outside := filepath.Join(t.TempDir(), "input.go")
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.write(t, ".env", "SECRET=1")
	p.write(t, "../../.git/config", "x")
	if err := os.Symlink("/etc/passwd", p.path("link.go")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		p.path("main.go"): true, "main.go": true, "./main.go": true, "pages/x/main.go": true,
		p.path(".env"): false, ".env": false, ".git/config": false, p.path("link.go"): false, "/etc/passwd": false, "../../../../../../etc/passwd": false,
		p.route.Dir: false, "": false, p.path("missing.go"): false, outside: false,
	} {
		if path, ok := p.ownFile(name); ok != want {
			t.Errorf("%q: %s, %v", name, path, ok)
		}
	}
	p.sources.Store(newSources(sdk.Result{Inputs: []sdk.Input{{Path: outside}}}))
	if _, ok := p.ownFile(outside); !ok {
		t.Error("what the page was built from is not shown")
	}
}

func TestNothingOfDevModeOutsideOfIt(t *testing.T) {
	k := testKernel(t)
	if newDev(k) != nil {
		t.Fatal("there is a hub")
	}
	p := testPage(t, k, "x")
	p.serveRelease(t, testRelease(t, "1", "serve"))
	p.dev.trace = []string{"panic: x"}
	p.publish()
	if p.dev.last.Name != "" || p.dev.served != nil {
		t.Errorf("the page keeps %+v", p.dev)
	}
}

// A worker may print panics faster than they can be shown: the newest is shown, and the page's mail stays short.
func TestDevPanicsByTheThousand(t *testing.T) {
	p := testDevPage(t)
	tap := p.devTap(p.current)
	for i := range 1000 {
		for _, line := range []string{fmt.Sprintf("http: panic serving 127.0.0.1:1: %d", i), "goroutine 1 [running]:", "main.main()"} {
			tap(worker.Stderr, []byte(line))
		}
	}
	mail := p.mail.take()
	if len(mail) > 10 {
		t.Errorf("%d messages are in the mailbox", len(mail))
	}
	for _, f := range mail {
		f()
	}
	if !slices.Equal(p.dev.trace, []string{"http: panic serving 127.0.0.1:1: 999", "goroutine 1 [running]:", "main.main()"}) {
		t.Errorf("shown is %q", p.dev.trace)
	}
}

// A document that is opened before there are routes is one of dev mode all the same.
func TestDevBeforeTheFirstRoutes(t *testing.T) {
	k := testKernel(t)
	k.opts.Dev = true
	k.dev = newDev(k)
	p := testPage(t, k, "x")
	p.backend.Fail(errors.New("there is none"))
	front := k.server().Handler
	r := httptest.NewRequest(http.MethodGet, "http://localhost/x", nil)
	r.Header.Set("Accept", "text/html")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w := httptest.NewRecorder()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		front.ServeHTTP(w, r.WithContext(ctx))
	}()
	time.AfterFunc(20*time.Millisecond, func() { // also when it comes first, the answer must be the same
		if err := k.proxy.SetRoutes([]proxy.Route{{Path: "/x", Backend: p.backend}}); err != nil {
			t.Error(err)
		}
		close(k.routes.ready)
	})
	<-answered
	if body := w.Body.String(); w.Code != 503 || !strings.Contains(body, dev.Prefix+"client.js") {
		t.Errorf("%d %v\n%s", w.Code, w.Header(), body)
	}
}

func TestTimings(t *testing.T) {
	p := testDevPage(t)
	p.write(t, "main.go", "// new")
	p.edit("main.go")
	r := testRelease(t, "2", "serve")
	report := builtAs(r, sdk.Input{Path: p.path("main.go")})
	report.times.steps = []buildStep{{"compile", report.at.Add(-30 * time.Millisecond)}, {"link", report.at.Add(-20 * time.Millisecond)}}
	p.changedAt = report.at.Add(-40 * time.Millisecond)
	p.savedAt = p.changedAt.Add(-5 * time.Millisecond)
	p.releaseBuilt(report, nil)
	p.until(t, "release 2", func() bool { return p.current != nil && p.current.release.ID == "2" })
	b := p.view.Load().page.Build
	if b.DetectMS != 5 || b.BuildMS != 40 || b.StartMS <= 0 || b.ReadyMS <= 0 || b.SwapMS <= 0 {
		t.Errorf("%+v", b)
	}
	live := p.dev.last.Live
	if live == nil || len(live.Steps) != 5 || live.Steps[1] != (dev.Step{Name: "build (compile 10, link 20)", MS: 40}) {
		t.Fatalf("%+v", live)
	}
	if got, want := live.Total, b.DetectMS+b.BuildMS+b.StartMS+b.ReadyMS+b.SwapMS; got < want-1 || got > want+1 {
		t.Errorf("total %v, the parts %v", got, want)
	}
	p.savedAt = time.Now().Add(-time.Hour)
	p.serve(t, "3", "serve")
	if got := p.view.Load().page.Build.DetectMS; got != 0 {
		t.Errorf("a file of an hour ago was detected in %v ms", got)
	}
	p.dev.shown(time.Now().Add(-5 * time.Millisecond))
	if live := p.dev.live; live == nil || live.Total < 5 || live.Total > 10_000 {
		t.Errorf("a file that needs no build was shown in %+v", live)
	}
	for _, at := range []time.Time{{}, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)} {
		if p.dev.shown(at); p.dev.live != nil {
			t.Errorf("a file of %v was shown in %+v", at, p.dev.live)
		}
	}
}
