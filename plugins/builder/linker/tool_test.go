//go:build linux

package linker

import (
	"path/filepath"
	"strings"
	"testing"
)

// foreignRoot gives a GOROOT with the files that are edited, as edit makes them from those of this toolchain.
func foreignRoot(t *testing.T, edit func(text string) string) Spec {
	t.Helper()
	s, dir := stockSpec(t, "", ""), t.TempDir()
	write(t, filepath.Join(dir, "VERSION"), "go1.0\n")
	for _, e := range edits {
		name := filepath.Join("src/cmd/link/internal", e.file)
		write(t, filepath.Join(dir, name), edit(read(t, filepath.Join(s.GOROOT, name))))
	}
	s.GOROOT = dir
	return s
}

func TestOtherSourcesAreLeftAlone(t *testing.T) {
	for name, edit := range map[string]func(string) string{
		"line is missing": func(text string) string { return strings.ReplaceAll(text, "\td.init()\n", "\td.initialize()\n") },
		"line is there twice": func(text string) string {
			return strings.Replace(text, "\ti := 0\n", "\ti := 0\n\ti := 0\n", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log buffer
			l := New(Options{Dir: t.TempDir(), Log: logTo(&log)})
			t.Cleanup(l.Close)
			s := foreignRoot(t, edit)
			for range 2 {
				if path, err := l.tool(s); err == nil || !strings.Contains(err.Error(), " times, not once") {
					t.Errorf("%q, %v", path, err)
				}
			}
			if n := strings.Count(log.String(), "[INFO]  no preloaded linker for this toolchain"); n != 1 {
				t.Errorf("said %d times", n)
			}
		})
	}
}

func TestFailedBuildIsRemembered(t *testing.T) {
	dir := t.TempDir()
	s := foreignRoot(t, func(text string) string { return text })
	s.Go = "false"
	for i, want := range []string{"build linker: false: exit status 1", "building it failed at"} {
		l := New(Options{Dir: dir})
		t.Cleanup(l.Close)
		if path, err := l.tool(s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("attempt %d: %q, %v; want %q", i+1, path, err, want)
		}
	}
	old, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(old) != 1 || !strings.HasSuffix(old[0], ".failed") {
		t.Errorf("left behind: %q, %v", old, err)
	}
}

func TestOtherFlagsAreForTheStockLinker(t *testing.T) {
	_, s := fakeLinker(t, "good", Options{})
	for flags, good := range map[string]bool{
		"-s -w -buildmode=exe": true, "-X=main.a=b -buildid=x": true, "--s": true,
		"-buildmode=pie": false, "-race": false, "-linkshared": false, "-X main.a=b": false, "-o=x": false, "-strictdups=1": false,
	} {
		s.Flags = strings.Fields(flags)
		if _, err := packagesOf(s); (err == nil) != good {
			t.Errorf("%s: %v", flags, err)
		}
	}
	s.Flags = nil
	for line, good := range map[string]bool{
		"modinfo \"x\"": true, "# comment": true, "packagefile a=/a.a": true,
		"packagefile a=a.a": false, "packageshlib a=/a.so": false, "packagefile runtime/cgo=/a.a": false,
	} {
		write(t, s.ImportCfg, line+"\n")
		if _, err := packagesOf(s); (err == nil) != good {
			t.Errorf("%s: %v", line, err)
		}
	}
}
