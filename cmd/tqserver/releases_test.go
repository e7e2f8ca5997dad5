//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/kernel/control"
)

// releases gives what `tqserver releases` says.
func (s *site) releases(page string) (r control.PageReleases) {
	s.t.Helper()
	out, errs, err := s.run("releases", page, "--json")
	if err != nil {
		s.t.Fatalf("releases: %v, %s", err, errs)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// rollback runs `tqserver rollback`.
func (s *site) rollback(args ...string) (r control.RolledBack) {
	s.t.Helper()
	out, errs, err := s.run(append([]string{"rollback", "--json"}, args...)...)
	if err != nil {
		s.t.Fatalf("rollback %q: %v, %s", args, err, errs)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// wantBody asks once: what a command has made live answers when the command has ended.
func (s *site) wantBody(path, want string) {
	s.t.Helper()
	if status, body, err := s.get(path); err != nil || status != 200 || strings.TrimSpace(body) != want {
		s.t.Errorf("%s answers %d %q, %v; want %q", path, status, body, err, want)
	}
}

// wantStates compares the releases of a page, the newest first, with these states.
func (s *site) wantStates(page string, want ...string) control.PageReleases {
	s.t.Helper()
	r := s.releases(page)
	var got []string
	for _, one := range r.Releases {
		got = append(got, one.State)
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		s.t.Errorf("the releases are %v, want %v", got, want)
	}
	return r
}

// commit makes the site a git work tree, or commits what has changed in it.
func (s *site) commit() {
	s.t.Helper()
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "x"}} {
		cmd := exec.Command("git", append([]string{"-C", s.dir}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Fatalf("git %q: %v, %s", args, err, out)
		}
	}
}

// TestRollback goes back and forward, under load, over reloads and a restart.
func TestRollback(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one"), "pages/api/main.go": textPage("api")})
	s.configure("", "keep_releases: 3", "")
	withGit := false
	if _, err := exec.LookPath("git"); err == nil {
		withGit = true
		s.commit()
	}
	s.start()
	s.awaitBody("/", "one")
	first := s.page("index").Release
	l := s.startLoad(everyKind("/")[:4], nil)
	s.write("pages/index/main.go", textPage("two"))
	s.awaitBody("/", "two")
	r := s.wantStates("index", "live", "previous")
	second := r.Releases[0].ID
	if r.Releases[1].ID != first || r.Route != "/" || r.Releases[0].Size < 1e6 || r.Releases[0].BuildMS <= 0 {
		t.Errorf("the releases are %+v, the first was %s", r, first)
	}

	back := s.rollback("index")
	s.wantBody("/", "one")
	if back.Release != first || back.From != second || !back.Warm || back.TookMS <= 0 || back.Pinned == nil || back.Pinned.Over != second {
		t.Errorf("rolled back: %+v", back)
	}
	t.Logf("rollback to a warm worker took %v ms", back.TookMS)
	s.wantStates("/", "previous", "live")
	if out, _, err := s.run("status"); err != nil || !strings.Contains(out, "tqserver rollback index "+second[:8]) || !strings.Contains(out, "serving, pinned") {
		t.Errorf("the status is\n%s\n%v", out, err)
	}
	t.Run("reload", func(t *testing.T) {
		s := s.in(t)
		built := s.page("index").Build.At
		if _, errs, err := s.run("reload"); err != nil {
			t.Fatal(err, errs)
		}
		s.await("the build to end", func() error {
			if !s.page("index").Build.At.After(built) {
				return errors.New("it has not")
			}
			return nil
		})
		s.wantBody("/", "one")
	})
	t.Run("there and back", func(t *testing.T) {
		s := s.in(t)
		if to := s.rollback("/"); to.Release != second || to.Pinned != nil {
			t.Errorf("the release before the one that was rolled back to: %+v", to)
		}
		s.wantBody("/", "two")
		if to := s.rollback("index", first[:6]); to.Release != first || to.Pinned == nil {
			t.Errorf("rolled back to the first: %+v", to)
		}
		s.wantBody("/", "one")
	})
	t.Run("bad names", func(t *testing.T) { checkBadNames(s.in(t), first, second) })
	l.mustHold()
	s.stop()

	s.start() // builds the second release, which is not to go live
	s.awaitBody("/", "one")
	s.await("the build to end", func() error {
		if b := s.page("index").Build; b == nil || b.Release != second {
			return fmt.Errorf("built is %+v", b)
		}
		return nil
	})
	s.wantBody("/", "one")
	if p := s.page("index"); p.Pinned == nil || p.Pinned.Release != first || p.Pinned.Over != second || p.Release != first {
		t.Errorf("after a restart the page is %+v, pinned %+v", p, p.Pinned)
	}
	s.write("pages/index/main.go", textPage("three"))
	s.awaitBody("/", "three")
	if p := s.page("index"); p.Pinned != nil {
		t.Errorf("a new release is live, and the page is pinned: %+v", p.Pinned)
	}
	if withGit {
		s.await("the revisions", func() error {
			all := s.releases("index").Releases
			if newest, oldest := all[0], all[len(all)-1]; len(oldest.Revision) != 40 || oldest.Dirty || newest.Revision != oldest.Revision || !newest.Dirty {
				return fmt.Errorf("%+v", all)
			}
			return nil
		})
	}
	t.Run("only so many are kept", func(t *testing.T) {
		s := s.in(t)
		s.write("pages/index/main.go", textPage("four"))
		s.awaitBody("/", "four")
		r := s.wantStates("index", "live", "previous", "good")
		if r.Releases[2].ID != first {
			t.Error("the release that was of no use for the longest time is kept")
		}
	})
	t.Run("a binary that is gone", func(t *testing.T) {
		s := s.in(t)
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.page("index").Workers[0].PID))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(strings.Replace(exe, s.page("index").Release, first, 1)); err != nil {
			t.Fatal(err)
		}
		s.wantStates("index", "live", "previous")
	})
}

func checkBadNames(s *site, first, second string) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"rollback", "indx"}, []string{`no page "indx": there are api (/api), index (/)`, "hint: did you mean index?"}},
		{[]string{"releases", "/nowhere"}, []string{`no page "/nowhere"`, "api (/api)"}},
		{[]string{"rollback", "api"}, []string{"page api is not rolled back: no release has served before the live one"}},
		{[]string{"rollback", "index", "zz"}, []string{`no release "zz": there are`, first[:8] + " (live)", second[:8]}},
		{[]string{"rollback"}, []string{"hint: usage: tqserver rollback PAGE [RELEASE]"}},
	} {
		_, errs, err := s.run(c.args...)
		if err == nil {
			s.t.Errorf("%q: no error", c.args)
		}
		for _, want := range c.want {
			if !strings.Contains(errs, want) {
				s.t.Errorf("%q says\n%swant %q", c.args, errs, want)
			}
		}
	}
	s.wantBody("/", "one")
}

// TestUndoneEdit goes live again without a build, and without a start: its worker is still there.
func TestUndoneEdit(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.start()
	s.awaitBody("/", "one")
	before := s.page("index")
	s.write("pages/index/main.go", textPage("two"))
	s.awaitBody("/", "two")
	s.write("pages/index/main.go", textPage("one"))
	s.awaitBody("/", "one")
	s.await("the end of the build to be known", func() error {
		if b := s.page("index").Build; b.Release != before.Release || !b.Cached {
			return fmt.Errorf("built is %+v", b)
		}
		return nil
	})
	p := s.page("index")
	if len(p.Workers) != 2 || p.Workers[0].PID != before.Workers[0].PID || p.Workers[0].State != "serving" {
		t.Errorf("the workers are %+v, the first was %+v", p.Workers, before.Workers)
	}
	s.await("the other worker to be warm", func() error {
		if w := s.page("index").Workers; len(w) != 2 || w[1].State != "warm" {
			return fmt.Errorf("the workers are %+v", w)
		}
		return nil
	})
	s.configure("", "keep_warm_ms: 0", "")
	s.await("the warm worker to be gone", func() error {
		if w := s.page("index").Workers; len(w) != 1 {
			return fmt.Errorf("the workers are %+v", w)
		}
		return nil
	})
	s.wantBody("/", "one")
}

// faultyPage is a page that answers /text, and does something else at any other path.
func faultyPage(text, fault string) string {
	handlers := fmt.Sprintf("\thttp.HandleFunc(\"/bad\", func(w http.ResponseWriter, r *http.Request) {\n%s\n\t})\n\thttp.HandleFunc(\"/\", ", fault)
	return strings.Replace(textPage(text), "\thttp.HandleFunc(\"/\", ", handlers, 1)
}

// TestCrashIsRolledBack has a release end at its first bad request while others are served: only what the crash cuts
// fails, the release before comes back, and the same source does not go live again.
func TestCrashIsRolledBack(t *testing.T) {
	crash := "\t\tgo func() { panic(\"lost my marbles\") }()\n\t\tselect {}"
	s := newSite(t, map[string]string{"pages/index/main.go": faultyPage("one", `fmt.Fprintln(w, "fine")`)})
	s.start()
	s.awaitBody("/", "one")
	l := s.startLoad(everyKind("/")[:4], nil)
	s.write("pages/index/main.go", faultyPage("two", crash))
	s.awaitBody("/", "two")
	if p := s.page("index"); p.Probation.IsZero() {
		t.Error("a new release is not on probation")
	}
	bad := s.page("index").Release
	if status, _, err := s.get("/bad"); status != 502 && status != 200 { // a request that was not answered may be repeated
		t.Errorf("the request that crashes its page: %d, %v", status, err)
	}
	s.awaitBody("/", "one")
	s.awaitBody("/bad", "fine")
	failures := l.stop()
	if len(failures) > 4 {
		t.Errorf("%d requests failed, at most 4 can have been in flight", len(failures))
	}
	for _, f := range failures {
		if !strings.Contains(f, "worker_closed") && !strings.Contains(f, "truncated") && !strings.Contains(f, "EOF") {
			t.Errorf("request failed: %s", f)
		}
	}
	t.Logf("%d requests, %d cut by the crash", l.requests.Load(), len(failures))
	s.awaitLog("the release has failed on probation, going back")
	check := func() {
		t.Helper()
		p := s.page("index")
		if !strings.Contains(p.Error, "was rolled back: worker index#2") || !strings.Contains(p.Error, "panic: lost my marbles") ||
			p.Pinned == nil || p.Pinned.Over != bad || !p.Probation.IsZero() {
			t.Errorf("the status says %+v, pinned %+v", p, p.Pinned)
		}
		r := s.wantStates("index", "rolled back", "live")
		if !strings.Contains(r.Releases[0].Reason, "panic: lost my marbles") {
			t.Errorf("the releases are %+v", r)
		}
	}
	check()
	if _, errs, err := s.run("reload"); err != nil {
		t.Fatal(err, errs)
	}
	s.kill() // what was decided outlives also that
	s.start()
	s.awaitBody("/", "one")
	check()
	s.rollback("index", bad)
	s.wantBody("/", "two")
	s.wantStates("index", "live", "previous")
	s.write("pages/index/main.go", faultyPage("three", crash))
	s.awaitBody("/", "three")
}

// TestErrorRateIsRolledBack has a release fail most requests.
func TestErrorRateIsRolledBack(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one")})
	s.start()
	s.awaitBody("/", "one")
	s.write("pages/index/main.go", strings.Replace(textPage("two"), `		n, err := io.Copy(io.Discard, r.Body)
`, `		http.Error(w, "no database", http.StatusInternalServerError)
		return
		n, err := io.Copy(io.Discard, r.Body)
`, 1))
	s.await("the new release to be live", func() error {
		if status, body, err := s.get("/"); status != 500 {
			return fmt.Errorf("it answers %d %q, %v", status, body, err)
		}
		return nil
	})
	bad := s.page("index").Release
	s.awaitBody("/", "one") // which asks until then
	p := s.page("index")
	if !strings.Contains(p.Error, "requests failed (5xx)") || p.Crashes != 0 || p.Pinned == nil || p.Pinned.Over != bad {
		t.Errorf("the status says %+v", p)
	}
	s.wantStates("index", "rolled back", "live")
}
