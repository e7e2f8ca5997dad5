//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// source is the directory of this module.
func source(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// goIn runs the go command in a directory, without a network.
func goIn(t *testing.T, dir string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off", "GOFLAGS=", "PWD="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s in %s: %v\n%s", strings.Join(args, " "), dir, err, out)
	}
}

// newPlugins makes a plugin for each stage beside a site, and builds them.
func newPlugins(t *testing.T, s *site) {
	t.Helper()
	s.environ = []string{"GOPROXY=off"}
	for _, stage := range stages {
		dir := filepath.Join("..", "my-"+stage)
		out, stderr, err := s.run("plugin", "new", stage, "my-"+stage, dir, "--sdk", source(t))
		if err != nil || !strings.Contains(out, fmt.Sprintf("made a %s in %s:", stage, dir)) || !strings.Contains(out, filepath.Join(dir, "my-"+stage)+" in config/server.yaml") {
			t.Fatalf("%s: %v\n%s%s", stage, err, out, stderr)
		}
		goIn(t, s.path(dir), "build")
	}
	s.environ = nil
}

// A site all of whose plugins were just made serves, finds an edit, and stores what its pages print.
func TestPluginNewMakesPluginsThatRun(t *testing.T) {
	t.Parallel()
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("before")})
	newPlugins(t, s)
	var yaml strings.Builder
	for _, stage := range stages {
		fmt.Fprintf(&yaml, "  %s:\n    use: ../my-%[1]s/my-%[1]s\n", stage)
	}
	s.configure("", "", "plugins:\n"+yaml.String())
	s.start()
	s.awaitBody("/", "before")
	for _, stage := range stages {
		if st := s.stage(stage); st.State != "running" || !strings.HasSuffix(st.Plugin, "/my-"+stage) || st.Version != "0.1.0" {
			t.Errorf("%s: %+v", stage, st)
		}
	}
	s.write("pages/index/main.go", textPage("after"))
	s.awaitBody("/", "after")
	s.await("a worker that the checker found healthy", func() error {
		for _, w := range s.page("index").Workers {
			if w.Healthy != nil && *w.Healthy {
				return nil
			}
		}
		return errors.New("there is none")
	})
	s.await("lines in the file of the rotator", func() error {
		text, err := os.ReadFile(s.path("all.log"))
		if err == nil && !bytes.Contains(text, []byte(" server kernel ")) {
			err = fmt.Errorf("it has %q", tail(string(text), 200))
		}
		return err
	})
	for _, stage := range stages {
		if st := s.stage(stage); st.Restarts > 0 {
			t.Errorf("%s: %+v", stage, st)
		}
	}
}

// The tests of a new plugin pass, its conformance among them.
func TestPluginNewMakesPluginsThatPassTheirTests(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles and runs the tests of five modules")
	}
	s := newSite(t, nil)
	newPlugins(t, s)
	for _, stage := range stages {
		t.Run(stage, func(t *testing.T) {
			dir := s.path("../my-" + stage)
			goIn(t, dir, "vet", "./...")
			goIn(t, dir, "test", "./...")
		})
	}
}

func TestPluginNewWritesShortAndFormattedFiles(t *testing.T) {
	for _, stage := range stages {
		made, err := newScaffold([]string{stage, "my-plugin"}, source(t))
		if err != nil {
			t.Fatal(err)
		}
		files, err := made.files()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"go.mod", "go.sum", "main.go", "plugin.go", "plugin_test.go", "conformance_test.go", "README.md", ".gitignore"} {
			if len(files[name]) == 0 {
				t.Errorf("%s: no %s", stage, name)
			}
		}
		for name, text := range files {
			if formatted, err := format.Source(text); strings.HasSuffix(name, ".go") && (err != nil || !bytes.Equal(formatted, text)) {
				t.Errorf("%s: %s is not as gofmt wants it: %v", stage, name, err)
			}
		}
		if n := bytes.Count(files["main.go"], []byte("\n")); n > 15 {
			t.Errorf("%s: main.go has %d lines", stage, n)
		}
	}
}

func TestPluginNewRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &site{t: t, dir: dir}
	s.write("full/file", "")
	for _, c := range []struct {
		args string
		want []string
	}{
		{"resolvr x", []string{`no stage "resolvr"`, "did you mean resolver?"}},
		{"resolver Vhost", []string{`"Vhost" is no name`, "lower-case letters"}},
		{"resolver a--b", []string{`"a--b" is no name`}},
		{"resolver ../x", []string{`"../x" is no name`}},
		{"resolver x full --sdk " + source(t), []string{"full is not empty", "new directory"}},
		{"resolver x --sdk " + dir, []string{dir + " is not the source of tqserver"}},
		{"resolver x", []string{"not beside its source", "--sdk DIR"}},
		{"resolver", []string{"usage: tqserver plugin new STAGE NAME [DIR]"}},
	} {
		_, stderr, err := s.run(append([]string{"plugin", "new"}, strings.Fields(c.args)...)...)
		for _, want := range c.want {
			if err == nil || !strings.Contains(stderr, want) {
				t.Errorf("plugin new %s: %v %q; want %q", c.args, err, stderr, want)
			}
		}
		if _, err := os.Stat(s.path("x")); err == nil {
			t.Errorf("plugin new %s made the directory", c.args)
		}
	}
}

// Without the modules, what was written stays, and the user is told how to go on.
func TestPluginNewSaysHowToGoOnWithoutANetwork(t *testing.T) {
	t.Parallel()
	s := &site{t: t, dir: t.TempDir(), environ: []string{"GOPROXY=off", "GOFLAGS=-modcacherw", "GOMODCACHE=" + t.TempDir()}}
	_, stderr, err := s.run("plugin", "new", "rotator", "mine", "--sdk", source(t))
	if err == nil || !strings.Contains(stderr, "getting the modules that it needs …\n") || !strings.Contains(stderr, "GOPROXY=off") || !strings.Contains(stderr, "hint: its files are there: when that is mended, run `go mod tidy` in mine") {
		t.Errorf("%v\n%s", err, stderr)
	}
	if _, err := os.Stat(s.path("mine/main.go")); err != nil {
		t.Error(err)
	}
}

func TestOnlyReleasesAreRequired(t *testing.T) {
	for version, want := range map[string]bool{"v1.2.3": true, "v0.1.0-rc.1": true, "(devel)": false, "v0.0.0-20260102030405-abcdefabcdef": false,
		"v1.2.4-0.20260102030405-abcdefabcdef": false, "v1.2.3+dirty": false} {
		if release.MatchString(version) != want {
			t.Errorf("%s: want %v", version, want)
		}
	}
}
