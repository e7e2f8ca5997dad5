//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// builds counts the builds of a page that began since the server started. Its log has to be at the level debug.
func (s *site) builds(page string) int {
	return strings.Count(s.out.String(), "build begins: page="+page+"\n")
}

// sh runs a command in the site's directory.
func (s *site) sh(name string, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// checkoutPages are pages of several files, and a package that all of them share.
var checkoutPages = []string{"a", "b", "c"}

func writeCheckout(s *site, version string) {
	for _, page := range checkoutPages {
		s.write("pages/"+page+"/main.go", importing("site/internal/shared"))
		for i := range 40 {
			s.write(fmt.Sprintf("pages/%s/f%d.go", page, i), fmt.Sprintf("package main\n\nconst f%d = %q\n", i, version))
		}
	}
	s.write("internal/shared/shared.go", fmt.Sprintf("package shared\n\nconst Text = %q\n", version))
	for i := range 80 {
		s.write(fmt.Sprintf("internal/shared/f%d.go", i), fmt.Sprintf("package shared\n\nconst f%d = %q\n", i, version))
	}
}

// TestCheckoutCostsTwoBuilds changes 201 files of three pages at once: a build may begin with the first of them, and
// one more has to do for all others.
func TestCheckoutCostsTwoBuilds(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	s := newSite(t, nil)
	s.configure("log_level: debug", "", "file_watcher: {debounce_ms: 300}\n") // git may be slow to go on
	git := func(args ...string) {
		s.sh("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
	}
	git("init", "-q")
	for _, version := range []string{"v1", "v2"} {
		writeCheckout(s, version)
		git("add", "pages", "internal")
		git("commit", "-qm", version)
		git("tag", version)
	}
	s.start()
	for i, version := range []string{"v1", "v2"} {
		before := map[string]int{}
		for _, page := range checkoutPages {
			s.awaitBody("/"+page, "v"+fmt.Sprint(2-i%2))
			before[page] = s.builds(page)
		}
		git("checkout", "-q", version)
		for _, page := range checkoutPages {
			s.awaitBody("/"+page, version)
		}
		s.settled()
		for _, page := range checkoutPages {
			n := s.builds(page) - before[page]
			t.Logf("checkout of %s: %d builds of %s", version, n, page)
			if n < 1 || n > 2 {
				t.Errorf("want 1 or 2")
			}
		}
	}
}

// settled waits until nothing that was saved until now is still to be built: a page that is saved now is.
func (s *site) settled() {
	s.t.Helper()
	n := strings.Count(s.out.String(), "live: /marker")
	s.write("pages/marker/main.go", textPage(fmt.Sprint("marker ", n)))
	s.awaitBody("/marker", fmt.Sprint("marker ", n))
	s.await("the builds to end", func() error {
		for _, p := range s.status().Pages {
			if p.State != "serving" {
				return fmt.Errorf("%s is %s", p.Name, p.State)
			}
		}
		return nil
	})
}

// TestSavesWithoutAChangeBuildNothing does to a page what changes no content.
func TestSavesWithoutAChangeBuildNothing(t *testing.T) {
	s := newSite(t, map[string]string{"pages/a/main.go": textPage("a")})
	s.configure("log_level: debug", "", "")
	s.start()
	before, file := s.builds("a"), s.path("pages/a/main.go")
	for range 3 {
		now := time.Now()
		if err := errors.Join(os.Chtimes(file, now, now), os.Chmod(file, 0o600), os.Chmod(file, 0o644)); err != nil {
			t.Fatal(err)
		}
		s.sh("cp", "-p", "pages/a/main.go", "pages/a/main.go.tmp")
		s.sh("mv", "pages/a/main.go.tmp", "pages/a/main.go")
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(textPage("a"))
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	s.settled()
	if n := s.builds("a") - before; n != 0 || before != 1 {
		t.Errorf("%d builds began of what did not change, after %d", n, before)
	}
}

// TestEditorsSaveOnce saves as editors and tools do: no half of a file is ever built.
func TestEditorsSaveOnce(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("0")})
	s.configure("log_level: debug", "", "file_watcher: {debounce_ms: 500}\n")
	s.start()
	const page = "pages/index/main.go"
	file := s.path(page)
	for name, save := range map[string]func(content string){
		"truncate and write": func(content string) { s.write(page, content) },
		"backup and new file": func(content string) {
			s.must(os.Rename(file, file+"~"))
			s.write(page, content)
			s.must(os.Remove(file + "~"))
		},
		"safe write": func(content string) {
			s.write(page+"___jb_tmp___", content)
			s.must(os.Rename(file, file+"___jb_old___"))
			s.must(os.Rename(file+"___jb_tmp___", file))
			s.must(os.Remove(file + "___jb_old___"))
		},
		"in slow pieces": func(content string) {
			f, err := os.Create(file)
			s.must(err)
			for i := range 4 {
				_, err := f.WriteString(content[i*len(content)/4 : (i+1)*len(content)/4])
				s.must(err)
				time.Sleep(20 * time.Millisecond)
			}
			s.must(f.Close())
		},
		"cp": func(content string) {
			s.write("other", content)
			s.sh("cp", "other", page)
		},
		"sed -i": func(content string) {
			text := strings.Split(strings.Split(content, `const text = "`)[1], `"`)[0]
			s.sh("sed", "-i", `s/^const text = .*/const text = "`+text+`"/`, page)
		},
		"gofmt -w after the save": func(content string) {
			s.write(page, strings.Replace(content, "\t", "  ", 1))
			s.sh("gofmt", "-w", page)
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.builds("index")
			save(textPage(name))
			s.awaitBody("/", name)
			if n := s.builds("index") - before; n < 1 || n > 1+strings.Count(name, "after") {
				t.Errorf("%d builds", n)
			}
		})
	}
	if strings.Contains(s.out.String(), "build failed") {
		t.Error("a build failed: it has read half of a file")
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}
