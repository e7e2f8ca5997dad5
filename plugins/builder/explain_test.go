package builder

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// explain explains a page that builds.
func (s *site) explain(page, config string) *Explanation {
	s.t.Helper()
	e, err := Explain(s.t.Context(), []byte(config), s.path("pages/"+page))
	if err != nil {
		s.t.Fatalf("explain %s: %v", page, err)
	}
	return e
}

func (e *Explanation) cost(t *testing.T, path string) ImportCost {
	t.Helper()
	i := slices.IndexFunc(e.Imports, func(c ImportCost) bool { return c.Import == path })
	if i < 0 {
		t.Fatalf("nothing is said of %s: %+v", path, e.Imports)
	}
	return e.Imports[i]
}

func (e *Explanation) advises(text string) bool {
	return slices.ContainsFunc(e.Advice, func(a string) bool { return strings.Contains(a, text) })
}

// linkedPackages counts what the go command would link, but for unsafe, which is no package of the linker's.
func (s *site) linkedPackages(page string) int {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "go", "list", "-deps", ".")
	cmd.Dir, cmd.Env = s.path("pages/"+page), append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatal(err)
	}
	n := 0
	for _, path := range strings.Fields(string(out)) {
		if path != "unsafe" {
			n++
		}
	}
	return n
}

// TestExplainSaysWhatGoes compares what an import is said to bring alone with what goes when it does.
func TestExplainSaysWhatGoes(t *testing.T) {
	shared := "package shared\n\nimport (\n\t\"fmt\"\n\t\"text/template\"\n)\n\nfunc Text() string { return fmt.Sprint(template.New(\"x\").Execute(nil, nil)) }\n"
	page := "package main\n\nimport (\n\t\"encoding/json\"\n\t\"fmt\"\n\n\t\"site/shared\"\n)\n\nfunc main() { fmt.Println(json.Valid(nil), shared.Text()) }\n"
	s := newSite(t, "pages/a/main.go", page, "shared/shared.go", shared)
	e := s.explain("a", "")
	before := s.linkedPackages("a")
	if e.Packages != before || e.ArchiveBytes < 1e6 || e.BinaryBytes < 1e6 || !strings.HasPrefix(e.Go, "go1.") {
		t.Errorf("%d packages, want %d; %+v", e.Packages, before, e)
	}
	if e.CompileMS <= 0 || e.LinkMS <= 0 || e.BuildMS < e.CompileMS+e.LinkMS {
		t.Errorf("compile %v ms, link %v ms, build %v ms", e.CompileMS, e.LinkMS, e.BuildMS)
	}
	if c := e.cost(t, "fmt"); c.OnlyPackages != 0 || c.OnlyArchiveBytes != 0 || c.LinkMSEstimate != 0 || c.Packages < 10 ||
		!slices.Equal(c.At, []string{"pages/a/main.go:5", "shared/shared.go:4"}) || !slices.Equal(c.NeededBy, []string{"encoding/json", "text/template"}) {
		t.Errorf("fmt: %+v", c)
	}
	if !e.advises("text/template.(*state).evalField") || e.advises("testing") {
		t.Errorf("advice %q", e.Advice)
	}
	for _, c := range []struct{ path, file, text, line, use, instead string }{
		{"encoding/json", "pages/a/main.go", page, "\t\"encoding/json\"\n", "json.Valid(nil)", "true"},
		{"text/template", "shared/shared.go", shared, "\t\"text/template\"\n", `template.New("x").Execute(nil, nil)`, "1"},
		{"site/shared", "pages/a/main.go", page, "\n\t\"site/shared\"\n", "shared.Text()", "1"},
	} {
		cost := e.cost(t, c.path)
		s.write(c.file, strings.Replace(strings.Replace(c.text, c.line, "", 1), c.use, c.instead, 1))
		if gone := before - s.linkedPackages("a"); cost.OnlyPackages != gone || gone == 0 || cost.OnlyArchiveBytes <= 0 || cost.LinkMSEstimate <= 0 {
			t.Errorf("%s is said to bring %d packages alone, %d go: %+v", c.path, cost.OnlyPackages, gone, cost)
		}
		s.write(c.file, c.text)
	}
	if first := e.Imports[0].Import; first != "site/shared" {
		t.Errorf("the dearest import is %s", first)
	}
}

func TestExplainAdvises(t *testing.T) {
	page := "package main\n\nimport (\n\t_ \"net/http/pprof\"\n\t_ \"site.example/lib\"\n\t_ \"testing\"\n)\n\nfunc main() {}\n"
	s := newSite(t, "pages/a/main.go", page, "pages/b/main.go", program("1"),
		"overlay.json", "{}", "lib/go.mod", "module site.example/lib\n\ngo 1.26\n", "lib/lib.go", "package lib\n\nimport _ \"expvar\"\n",
		"go.mod", "module site\n\ngo 1.26\n\nrequire site.example/lib v0.0.0\n\nreplace site.example/lib => ./lib\n")
	e := s.explain("a", `{"dwarf": true, "parallel": 2}`)
	for _, want := range []string{"net/http/pprof adds /debug/pprof/", "testing is linked into the page", "expvar adds", "It comes with site.example/lib", "dwarf: true"} {
		if !e.advises(want) {
			t.Errorf("no advice %q: %q", want, e.Advice)
		}
	}
	if e := s.explain("b", fmt.Sprintf(`{"flags": [%q]}`, "-overlay="+s.path("overlay.json"))); len(e.Imports) != 0 || len(e.Advice) != 0 || e.CompileMS != 0 || e.LinkMS <= 0 {
		t.Errorf("a page without imports, and an overlay of the user's own: %+v", e)
	}
}

func TestExplainOfAFault(t *testing.T) {
	s := newSite(t, "pages/a/main.go", program("nothing"), "pages/b/main.go", program("1", `"site/nowhere"`))
	for page, want := range map[string]string{"a": "pages/a/main.go:2:23: undefined: nothing", "b": "pages/b/main.go:2:8: "} {
		if _, err := Explain(t.Context(), nil, s.path("pages/"+page)); err == nil || !strings.Contains(err.Error(), filepath.ToSlash(want)) {
			t.Errorf("%s: error %v, want %s", page, err, want)
		}
	}
	for config, want := range map[string]string{`{"flags": ["-o=x"]}`: "belongs to the builder", `{"tags": 1}`: "read the configuration"} {
		if _, err := Explain(t.Context(), []byte(config), s.path("pages/a")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", config, err, want)
		}
	}
}
