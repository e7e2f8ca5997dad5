//go:build linux

package linker

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// features are what main packages are made of: the imports of each, and a function that uses them.
var features = []struct{ imports, body string }{
	{`"fmt"`, `fmt.Sprintln(x, []any{1, "a", 2.5, struct{ A, B int }{1, 2}})`},
	{`"fmt"`, `fmt.Fprintf(new(sink), "%v %T", map[string][]int{"a": {x}}, [7]string{"p"})`},
	{`"sort" "strings"`, `s := strings.Fields("c b a"); sort.Strings(s); sort.Slice(s, func(i, j int) bool { return len(s[i]) < x })`},
	{`"slices" "cmp"`, `s := []string{"b", "a"}; slices.Sort(s); slices.SortFunc(s, func(a, b string) int { return cmp.Compare(len(a), x) })`},
	{`"slices"`, `slices.Sort([]int{x, 1}); slices.Max([]float64{1, 2}); slices.BinarySearch([]int64{1}, 2)`},
	{`"maps" "slices"`, `slices.Sorted(maps.Keys(map[string]int{"a": x})); slices.Collect(maps.Values(map[int]pair[int]{}))`},
	{`"net/http"`, `http.HandleFunc("/x"+string(rune('a'+x)), func(w http.ResponseWriter, r *http.Request) { http.Error(w, r.URL.Path, 404) })`},
	{`"net/http" "time"`, `c := &http.Client{Timeout: time.Duration(x)}; c.Get("bad://"); http.StripPrefix("/", http.FileServer(http.Dir("."))); _ = http.Server{}`},
	{`"html/template" "bytes"`, `template.Must(template.New("t").Parse("{{.V}} {{.Twice}}")).Execute(new(bytes.Buffer), pair[int]{x, x})`},
	{`"encoding/json" "os"`, `json.NewEncoder(new(sink)).Encode(pair[string]{"a", os.Args[0]}); json.Unmarshal([]byte("{}"), &pair[[]int]{})`},
	{`"encoding/json" "time"`, `json.Marshal(map[string]any{"t": time.Time{}, "n": x})`},
	{`"reflect"`, `v := reflect.ValueOf(pair[int]{x, 2}); for i := range v.NumMethod() { v.Method(i).Call(nil) }`},
	{`"reflect"`, `reflect.ValueOf(pair[bool]{}).MethodByName("Twice").Call(nil); reflect.TypeFor[map[pair[int]]chan func()]().String()`},
	{`"sync" "sync/atomic"`, `var p atomic.Pointer[pair[int]]; p.CompareAndSwap(nil, &pair[int]{}); new(sync.Once).Do(func() { p.Load() }); new(sync.Map).Store(x, p.Load())`},
	{`"os"`, `d, _ := os.ReadDir("."); _ = d; f, err := os.Open("/nowhere"); if err == nil { f.Close() }`},
	{`"errors" "io"`, `errors.Is(errors.Join(io.EOF, failure{x}), io.EOF); errors.As(failure{x}, new(failure)); io.Copy(new(sink), io.MultiReader())`},
	{`"time"`, `time.AfterFunc(time.Hour, func() {}).Stop(); _ = time.Unix(int64(x), 0).Format(time.RFC1123)`},
	{`"net"`, `l, err := net.Listen("tcp", "127.0.0.1:0"); if err == nil { l.Close() }; net.ParseIP("1.2.3.4").String(); _ = net.IPMask{}`},
	{`"example.com/site/shared"`, `shared.Sum([]int{x}); shared.Sum([]float64{1}); shared.Set[string]{}.Add("a"); _ = shared.Table["a"]`},
	{`"example.com/site/shared"`, `var s shared.Speaker = pair[int]{}; s.Speak(); shared.Count++`},
	{`_ "embed"`, `_ = text; _ = [300]byte{1: byte(x)}`},
	{`"unsafe" "runtime"`, `_ = nanotime() + int64(unsafe.Sizeof(x)); runtime.GC()`},
}

const common = `
type pair[T any] struct{ V, W T }

func (p pair[T]) Twice() [2]T { return [2]T{p.V, p.W} }
func (p pair[T]) Speak() string { return "pair" }

type failure struct{ n int }

func (f failure) Error() string { return string(rune(f.n)) }

type sink struct{ n int }

func (s *sink) Write(p []byte) (int, error) { s.n += len(p); return len(p), nil }

//go:embed text.txt
var text string

//go:linkname nanotime runtime.nanotime
func nanotime() int64

var x = 3
var state = map[string]func(){"a": func() { x++ }}
`

const shared1 = `package shared

type Speaker interface{ Speak() string }
type Set[K comparable] map[K]bool

func (s Set[K]) Add(k K) bool { s[k] = true; return len(s) > 1 }

func Sum[N int | float64](list []N) (sum N) {
	for _, n := range list {
		sum += n
	}
	return sum
}

var Count = Sum([]int{1})
var Table = map[string]Set[string]{"a": {"b": true}}
`

// mainOf makes a main package that imports what all features do, and uses some.
func mainOf(all, used []int, more string) string {
	imports := map[string]bool{`"fmt"`: true, `_ "embed"`: true, `_ "unsafe"`: true}
	for _, i := range all {
		for _, imp := range strings.Split(strings.ReplaceAll(features[i].imports, `_ "`, `_"`), " ") {
			name := strings.Trim(strings.TrimPrefix(imp, "_"), `"`)
			if name != "embed" && name != "fmt" && name != "unsafe" {
				imports[`"`+name+`"`] = true
			}
		}
	}
	var b strings.Builder
	b.WriteString("package main\n\n")
	for _, imp := range slices.Sorted(maps.Keys(imports)) {
		fmt.Fprintf(&b, "import %s\n", imp)
	}
	b.WriteString(common)
	for imp := range maps.Keys(imports) {
		if keep := kept[strings.Trim(imp, `"`)]; keep != "" {
			fmt.Fprintf(&b, "var _ %s\n", keep)
		}
	}
	for _, i := range used {
		fmt.Fprintf(&b, "func f%d() { %s }\n", i, strings.ReplaceAll(features[i].body, "unsafe.Sizeof(x)", "8"))
	}
	b.WriteString(more + "\nfunc main() {\n")
	for _, i := range used {
		fmt.Fprintf(&b, "\tf%d()\n", i)
	}
	b.WriteString("\tfmt.Println(\"ok\", len(state))\n}\n")
	return b.String()
}

// kept has each import used, by nothing that is linked.
var kept = map[string]string{"sort": "= sort.Strings", "strings": "strings.Builder", "slices": "= slices.Sort[[]int]", "cmp": "= cmp.Compare[int]",
	"maps": "= maps.Keys[map[int]int]", "net/http": "http.Header", "time": "time.Duration", "html/template": "template.HTML", "bytes": "bytes.Buffer",
	"encoding/json": "json.Number", "os": "= os.Args", "reflect": "reflect.Kind", "sync": "sync.Once", "sync/atomic": "atomic.Bool", "errors": "= errors.New",
	"io": "io.Reader", "net": "net.IP", "example.com/site/shared": "shared.Set[int]", "runtime": "runtime.Error"}

// sets are the imports of several kinds of pages, by the features that have them.
var sets = map[string][]int{
	"none":      {0, 1},
	"net":       {0, 17, 14},
	"http":      {0, 6, 7, 15, 20},
	"templates": {8, 9, 10, 16},
	"generics":  {2, 3, 4, 5, 13, 18},
	"reflect":   {1, 11, 12, 8},
	"shared":    {18, 19, 21, 13},
}

// TestOutputIsThatOfTheStockLinker links programs of several kinds, each after another program with the same imports
// had told how to preload.
func TestOutputIsThatOfTheStockLinker(t *testing.T) {
	files := map[string]string{"shared/shared.go": shared1}
	for name, set := range sets {
		addMain(files, name+"/before", mainOf(set, set[:1], ""))
		addMain(files, name+"/after", mainOf(set, set, "type extra struct{ A [9]byte }\nvar more = []any{extra{}, &extra{}}\n"))
	}
	all := programs(t, files)
	var log buffer
	l := newLinker(t, Options{Spares: 1, Log: logTo(&log)})
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		t.Run(name, func(t *testing.T) {
			if !same(t, l, all[name+"/before"], all[name+"/after"]) {
				t.Error("the stock linker had to do it")
			}
		})
	}
	if n, all := strings.Count(log.String(), "marks=true"), strings.Count(log.String(), "marks="); n < all {
		t.Errorf("what was marked without main was good for %d of %d links", n, all)
	}
	for _, name := range []string{"http", "shared"} {
		t.Run(name+" with symbols", func(t *testing.T) {
			before := all[name+"/before"]
			before.spec.Flags = []string{"-buildmode=exe", "-buildid=abc", "-X=main.text=def"}
			if !same(t, l, before, all[name+"/after"]) {
				t.Error("the stock linker had to do it")
			}
		})
	}
}

// TestRandomProgramsLinkAlike is for those that nobody thought of. TQSERVER_LINKS is their number.
func TestRandomProgramsLinkAlike(t *testing.T) {
	n := 3
	if more, err := strconv.Atoi(os.Getenv("TQSERVER_LINKS")); err == nil {
		n = more
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	files := map[string]string{"shared/shared.go": shared1}
	for i := range n {
		set := random.Perm(len(features))[:2+random.IntN(len(features)-2)]
		for _, name := range []string{"before", "after"} {
			used := set[:random.IntN(len(set)+1)]
			random.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
			addMain(files, fmt.Sprintf("p%d/%s", i, name), mainOf(set, used, ""))
		}
	}
	all := programs(t, files)
	l := newLinker(t, Options{Spares: 1})
	preloaded := 0
	for i := range n {
		before, after := fmt.Sprintf("p%d/before", i), fmt.Sprintf("p%d/after", i)
		if same(t, l, all[before], all[after]) {
			preloaded++
		}
		if t.Failed() {
			t.Fatalf("%s:\n%s", after, files[after+"/main.go"])
		}
	}
	if preloaded < n*9/10 {
		t.Errorf("%d of %d were linked by a preloaded linker", preloaded, n)
	}
}

// TestPackageThatWasNotPreloaded has main import more, in another order, or define what a package defines.
func TestPackageThatWasNotPreloaded(t *testing.T) {
	files := map[string]string{"shared/shared.go": shared1}
	addMain(files, "few", mainOf(sets["net"], sets["net"], ""))
	addMain(files, "more", mainOf(append(sets["net"], 4, 18), append(sets["net"], 4, 18), ""))
	addMain(files, "order", strings.Replace(mainOf(sets["net"], sets["net"], ""), "import \"fmt\"\nimport \"net\"\n", "import \"net\"\nimport \"fmt\"\n", 1))
	addMain(files, "defines", mainOf(sets["net"], sets["net"], "//go:linkname zeroVal runtime.zeroVal\nvar zeroVal [1024]byte\nvar _ = &zeroVal\n"))
	all := programs(t, files)
	l := newLinker(t, Options{Spares: 1})
	for _, name := range []string{"more", "order", "defines"} {
		t.Run(name, func(t *testing.T) {
			before := all["few"]
			before.spec.ImportCfg = all["more"].spec.ImportCfg // names what all of them import
			if same(t, l, before, all[name]) {
				t.Error("the stock linker was not asked")
			}
		})
	}
}

func TestLinkErrorOfARealProgram(t *testing.T) {
	files := map[string]string{}
	addMain(files, "good", mainOf(nil, nil, ""))
	addMain(files, "bad", mainOf(nil, nil, "//go:linkname gone runtime.gone\nfunc gone()\nfunc init() { gone() }\n"))
	all := programs(t, files)
	l := newLinker(t, Options{})
	prepare(t, l, "page", all["good"])
	preloaded, output, err := l.Link(t.Context(), "page", all["good"].spec, all["bad"].main, filepath.Join(t.TempDir(), "out"))
	var exit *exec.ExitError
	if preloaded || !errors.As(err, &exit) || !bytes.Contains(output, []byte("runtime.gone")) {
		t.Error(preloaded, err, string(output))
	}
}

// TestProofOfARealProgram goes the whole way, without anything known beforehand.
func TestProofOfARealProgram(t *testing.T) {
	files := map[string]string{}
	addMain(files, "page", mainOf(sets["net"], sets["net"], ""))
	page := programs(t, files)["page"]
	l := newLinker(t, Options{})
	dir := t.TempDir()
	if preloaded, output, err := l.Link(t.Context(), "page", page.spec, page.main, filepath.Join(dir, "first")); preloaded || err != nil {
		t.Fatal(preloaded, string(output), err)
	}
	l.Prepare("page", page.spec)
	awaitSpare(t, l, "page")
	if preloaded, output, err := l.Link(t.Context(), "page", page.spec, page.main, filepath.Join(dir, "second")); !preloaded || err != nil {
		t.Fatal(preloaded, string(output), err)
	}
	if read(t, filepath.Join(dir, "first")) != read(t, filepath.Join(dir, "second")) {
		t.Error("the outputs differ")
	}
}

func addMain(files map[string]string, name, text string) {
	files[name+"/main.go"], files[name+"/text.txt"] = text, "text"
}

func prepare(t testing.TB, l *Linker, key string, p program) {
	t.Helper()
	l.trust(t, p.spec)
	p.spec.Main = p.main
	l.Prepare(key, p.spec)
	awaitSpare(t, l, key)
}

// same links after with a linker that was preloaded for before, and with the stock one, and compares. It tells whether
// the preloaded one has really done it.
func same(t *testing.T, l *Linker, before, after program) (preloaded bool) {
	t.Helper()
	dir, s := t.TempDir(), before.spec
	key := dir
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	prepare(t, l, key, before)
	preloaded, output, err := l.Link(t.Context(), key, s, after.main, ours)
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if output, err := run(t.Context(), stock(s, after.main, theirs)); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if read(t, ours) != read(t, theirs) {
		t.Errorf("the outputs differ%s", difference(t, ours, theirs))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if printed, err := exec.CommandContext(ctx, ours).CombinedOutput(); err != nil || string(printed) != "ok 1\n" {
		t.Errorf("the program says %q, %v", printed, err)
	}
	return preloaded
}

// difference names what differs: sections, and symbols where there are any.
func difference(t *testing.T, files ...string) string {
	var texts [2][]string
	for i, file := range files {
		f, err := elf.Open(file)
		if err != nil {
			return ": " + err.Error()
		}
		defer f.Close()
		for _, s := range f.Sections {
			texts[i] = append(texts[i], fmt.Sprintf("section %s %d", s.Name, s.Size))
		}
		symbols, _ := f.Symbols()
		for _, s := range symbols {
			texts[i] = append(texts[i], fmt.Sprintf("symbol %s %d", s.Name, s.Size))
		}
	}
	var b strings.Builder
	for i, line := range texts[0] {
		if i >= len(texts[1]) || line != texts[1][i] {
			fmt.Fprintf(&b, "\n%s, stock: %q", line, texts[1][min(i, len(texts[1])-1):min(i+1, len(texts[1]))])
			if b.Len() > 2000 {
				break
			}
		}
	}
	return b.String()
}
