package builder

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// scene is what the files of a site are written from. Page a prints a report of all that its build can get wrong.
type scene struct {
	body, shift int             // of page a: what it prints, and on which line
	std         map[string]bool // imports of page a
	extra       map[string]int  // files of page a
	tag         string          // constraint of one of them
	web         map[string]int  // embedded files
	pattern     string          // of the embedding
	debug       string          // setting in page a
	shared      int             // of package shared: what a function that is inlined gives
	hidden      int             // … and one that is not
	api         int             // … and the number of its parameters
	useDeep     bool            // whether it imports shared/deep
	deep        int
	useLib      bool // whether page a imports a replaced module
	lib         int
	goLine      string
	fault       string
}

func newScene() scene {
	return scene{std: map[string]bool{}, extra: map[string]int{}, web: map[string]int{"index.html": 1}, pattern: "web",
		tag: "linux", goLine: "1.26", useDeep: true, useLib: true}
}

func (s scene) clone() scene {
	s.std, s.extra, s.web = maps.Clone(s.std), maps.Clone(s.extra), maps.Clone(s.web)
	return s
}

// expressions use a package each.
var expressions = map[string]string{"strings": `strings.ToUpper("x")`, "sort": `sort.IsSorted(sort.IntSlice{1})`,
	"bytes": `bytes.Count([]byte("aa"), nil)`, "math/bits": `bits.Len(8)`, "errors": `errors.New("e")`,
	"text/tabwriter": `tabwriter.Debug`, "unicode/utf16": `utf16.IsSurrogate(1)`}

var sceneFaults = []string{"type", "syntax", "import", "local", "unused", "embed", "shared", "deep", "twice", "missing main"}

// change makes one edit.
func (s *scene) change(r *rand.Rand) string {
	if s.fault != "" && r.IntN(5) > 0 {
		s.fault = ""
		return "fault mended"
	}
	n := 1 + r.IntN(1000)
	edits := []struct {
		weight int
		name   string
		make   func()
	}{
		{10, "body", func() { s.body = n }},
		{3, "lines", func() { s.shift = n % 4 }},
		{4, "import of the standard library", func() { toggle(s.std, r) }},
		{2, "file", func() { toggleFile(s.extra, []string{"one.go", "two_linux.go", "three_windows.go"}[n%3], n) }},
		{2, "file edited", func() { s.extra["four.go"] = n }},
		{1, "constraint", func() { s.tag = []string{"linux", "never", "!never", "windows || cgo"}[n%4] }},
		{3, "content of an embedded file", func() { s.web["index.html"] = n }},
		{1, "embedded file", func() { toggleFile(s.web, "style.css", n) }},
		{1, "embed pattern", func() { s.pattern = []string{"web", "web/*.html", "all:web", "web/index.html"}[n%4] }},
		{1, "debug setting", func() { s.debug = []string{"", "panicnil=1", "default=go1.20"}[n%3] }},
		{4, "shared function, inlined", func() { s.shared = n }},
		{4, "shared function, not inlined", func() { s.hidden = n }},
		{2, "shared API", func() { s.api = n % 3 }},
		{1, "import of a shared package", func() { s.useDeep = !s.useDeep }},
		{3, "package below the shared one", func() { s.deep = n }},
		{1, "import of a replaced module", func() { s.useLib = !s.useLib }},
		{2, "replaced module", func() { s.lib = n }},
		{1, "go line", func() { s.goLine = []string{"1.26", "1.21", "1.25"}[n%3] }},
		{5, "fault", func() { s.fault = sceneFaults[n%len(sceneFaults)] }},
	}
	sum := 0
	for _, e := range edits {
		sum += e.weight
	}
	at := r.IntN(sum)
	for _, e := range edits {
		if at -= e.weight; at < 0 {
			e.make()
			return e.name
		}
	}
	panic("unreachable")
}

func toggle(set map[string]bool, r *rand.Rand) {
	all := slices.Sorted(maps.Keys(expressions))
	name := all[r.IntN(len(all))]
	if set[name] {
		delete(set, name)
	} else {
		set[name] = true
	}
}

func toggleFile(set map[string]int, name string, n int) {
	if _, ok := set[name]; ok {
		delete(set, name)
	} else {
		set[name] = n
	}
}

// files are name and content of all files.
func (s scene) files() map[string]string {
	f := map[string]string{
		"go.mod":               fmt.Sprintf("module site\n\ngo %s\n\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => ../lib\n", s.goLine),
		"../lib/lib.go":        fmt.Sprintf("package lib\n\nfunc V() int { return %d }\n", s.lib),
		"shared/deep/deep.go":  fmt.Sprintf("package deep\n\nconst V = %d\n%s", s.deep, s.when("deep", "var X int = V + \"x\"\n")),
		"shared/shared.go":     s.sharedFile(),
		"pages/b/main.go":      "package main\n\nimport \"site/shared\"\n\nfunc main() { println(" + s.call() + ", shared.Hidden()) }\n",
		"pages/a/main.go":      s.mainFile(),
		"pages/a/tagged.go":    fmt.Sprintf("//go:build %s\n\npackage main\n\nfunc init() { tagged = %d }\n", s.tag, s.body%7),
		"pages/a/web/.hidden":  "h",
		"pages/a/web/sub/x.md": "x",
	}
	for name, n := range s.extra {
		f["pages/a/"+name] = fmt.Sprintf("package main\n\nfunc init() { extra = append(extra, %d) }\n", n)
	}
	for name, n := range s.web {
		f["pages/a/web/"+name] = fmt.Sprintf("<%d>", n)
	}
	return f
}

func (s scene) when(fault, text string) string {
	if s.fault == fault {
		return text
	}
	return ""
}

func (s scene) call() string {
	return "shared.Add(" + strings.TrimSuffix(strings.Repeat("1, ", s.api), ", ") + ")"
}

func (s scene) sharedFile() string {
	text := "package shared\n\n"
	deep := "0"
	if s.useDeep {
		text, deep = text+"import \"site/shared/deep\"\n\n", "deep.V"
	}
	var parameters []string
	for i := range s.api {
		parameters = append(parameters, fmt.Sprintf("x%d int", i))
	}
	return text + fmt.Sprintf("func Add(%s) int { return %d + %s }\n\n//go:noinline\nfunc Hidden() int { return %d }\n%s",
		strings.Join(parameters, ", "), s.shared, deep, s.hidden, s.when("shared", "func broken() { return 1 }\n"))
}

func (s scene) mainFile() string {
	var b strings.Builder
	if s.debug != "" {
		b.WriteString("//go:debug " + s.debug + "\n\n")
	}
	b.WriteString("package main\n\nimport (\n\t\"embed\"\n\t\"fmt\"\n\t\"io/fs\"\n\t\"runtime\"\n\t\"runtime/debug\"\n\t\"site/shared\"\n")
	used := slices.Sorted(maps.Keys(s.std))
	for _, path := range used {
		fmt.Fprintf(&b, "\t%q\n", path)
	}
	if s.useLib {
		b.WriteString("\t\"example.com/lib\"\n")
	}
	b.WriteString(s.when("import", "\t\"fmt\n") + s.when("local", "\t\"site/nowhere\"\n") + s.when("unused", "\t\"os\"\n"))
	pattern := s.pattern
	if s.fault == "embed" {
		pattern = "web/nothing"
	}
	fmt.Fprintf(&b, ")\n\n//go:embed %s\nvar web embed.FS\n\nvar (\n\ttagged int\n\textra  []int\n)\n%s", pattern, strings.Repeat("\n", s.shift))
	b.WriteString(s.when("type", "var x int = \"x\"\n") + s.when("syntax", "func {\n") + s.when("twice", "func main() {}\n"))
	name := "main"
	if s.fault == "missing main" {
		name = "mian"
	}
	fmt.Fprintf(&b, "func %s() {\n\tfmt.Println(%d, tagged, extra, shared.Hidden(), %s)\n", name, s.body, s.call())
	for _, path := range used {
		fmt.Fprintf(&b, "\tfmt.Println(%s)\n", expressions[path])
	}
	if s.useLib {
		b.WriteString("\tfmt.Println(lib.V())\n")
	}
	b.WriteString(reportText)
	return b.String()
}

// reportText is what page a tells about its build.
const reportText = `	_ = fs.WalkDir(web, ".", func(path string, d fs.DirEntry, err error) error {
		text, _ := web.ReadFile(path)
		fmt.Println(path, string(text), err)
		return nil
	})
	var loop []func() int
	for i := range 3 {
		loop = append(loop, func() int { return i })
	}
	for i := 0; i < 3; i++ {
		loop = append(loop, func() int { return i })
	}
	for _, f := range loop {
		fmt.Print(f(), " ")
	}
	_, file, line, _ := runtime.Caller(0)
	fmt.Println(file, line)
	info, _ := debug.ReadBuildInfo()
	fmt.Println(info)
	defer func() { fmt.Println(recover()) }()
	panic(nil)
}
`
