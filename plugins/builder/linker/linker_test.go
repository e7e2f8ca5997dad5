//go:build linux

package linker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
)

// shared is where the linker that preloads is built, once for all tests.
var shared string

func TestMain(m *testing.M) {
	if mode := os.Getenv("LINKER_FAKE"); mode != "" {
		fake(mode)
	}
	dir, err := os.MkdirTemp("", "linker-test-")
	if err != nil {
		panic(err)
	}
	shared = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// fake is a linker for the tests that are not about linking. The stock one copies main; the preloaded one does so, too,
// or what its mode says.
func fake(mode string) {
	args := os.Args[1:]
	status := os.NewFile(3, "status")
	main, out := args[len(args)-1], args[slices.Index(args, "-o")+1]
	if !strings.HasPrefix(args[0], "-preload=") {
		fakeCopy(main, out, "")
	}
	if args[0] == "-preload=describe" {
		fmt.Println("room 1 1")
		os.Exit(0)
	}
	fmt.Fprintln(status, "ready")
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	main = in.Text()
	if !in.Scan() {
		os.Exit(0)
	}
	out = in.Text()
	switch mode {
	case "hang":
		time.Sleep(time.Hour)
	case "fail":
		fmt.Println("no luck")
		os.Exit(3)
	}
	fmt.Println("a word of the linker")
	fakeCopy(main, out, map[string]string{"differ": "!", "": ""}[mode], func() { fmt.Fprintln(status, "done") })
}

func fakeCopy(main, out, more string, then ...func()) {
	text, err := os.ReadFile(main)
	if err == nil && bytes.Contains(text, []byte("broken")) {
		err = errors.New("undefined: broken")
	}
	if err == nil {
		err = os.WriteFile(out, append(text, more...), 0o700)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	for _, f := range then {
		f()
	}
	os.Exit(0)
}

// fakeLinker gives a Linker whose linkers are fakes, and a Spec for it with one archive.
func fakeLinker(t *testing.T, mode string, o Options) (*Linker, Spec) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "dep.a"), "dep")
	write(t, filepath.Join(dir, "main.a"), "main")
	write(t, filepath.Join(dir, "importcfg"), "packagefile dep="+filepath.Join(dir, "dep.a")+"\n")
	if o.Dir == "" {
		o.Dir = filepath.Join(dir, "linker")
	}
	l := New(o)
	s := Spec{Tool: self, GOROOT: dir, Env: []string{"LINKER_FAKE=" + mode, "GORACE=atexit_sleep_ms=0"}, ImportCfg: filepath.Join(dir, "importcfg"), Dir: dir, Main: "main.a"}
	l.tools[s.toolchain()] = tool{path: self}
	t.Cleanup(l.Close)
	return l, s
}

// trust has l take the proof as given.
func (l *Linker) trust(t testing.TB, s Spec) {
	t.Helper()
	packages, err := packagesOf(s)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proofs[packages.proofKey(s)] = true
}

// awaitSpare waits until the page has a spare, and gives its pid.
func awaitSpare(t testing.TB, l *Linker, key string) (pid int) {
	t.Helper()
	await(t, "a spare for "+key, func() bool {
		pid = sparePid(l, key)
		return pid != 0
	})
	return pid
}

func sparePid(l *Linker, key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.pages[key]; p != nil && p.spare != nil {
		return p.spare.cmd.Process.Pid
	}
	return 0
}

func idle(l *Linker) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nextPage() == ""
}

func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not seen within a minute: %s", what)
		}
	}
}

// gone tells whether a process has exited.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func logTo(w io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: w, Level: hclog.Debug})
}

// program is a main package that was compiled, ready to be linked.
type program struct {
	spec Spec
	main string
}

// programs writes files, the main packages of a module, compiles them, and gives each by its directory.
func programs(t testing.TB, files map[string]string) map[string]program {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), "module example.com/site\n\ngo 1.26\n")
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Name,Export,Deps", "./...")
	cmd.Dir, cmd.Env = dir, goEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	type listed struct {
		ImportPath, Name, Export string
		Deps                     []string
	}
	all := make(map[string]listed)
	for in := json.NewDecoder(bytes.NewReader(out)); in.More(); {
		var p listed
		if err := in.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	made := make(map[string]program)
	for path, p := range all {
		if p.Name != "main" {
			continue
		}
		var config strings.Builder
		for _, dep := range p.Deps {
			if file := all[dep].Export; file != "" {
				fmt.Fprintf(&config, "packagefile %s=%s\n", dep, file)
			}
		}
		config.WriteString("modinfo \"of all\"\n")
		name := strings.TrimPrefix(path, "example.com/site/")
		importcfg := filepath.Join(dir, strings.ReplaceAll(name, "/", "-")+".importcfg")
		write(t, importcfg, config.String())
		made[name] = program{main: p.Export, spec: stockSpec(t, importcfg, dir)}
	}
	return made
}

func goEnv() []string { return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off") }

func stockSpec(t testing.TB, importcfg, dir string) Spec {
	t.Helper()
	cmd := exec.Command("go", "env", "GOROOT", "GOTOOLDIR")
	cmd.Env = goEnv()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	return Spec{Tool: filepath.Join(lines[1], "link"), GOROOT: lines[0], Go: "go", Env: append(goEnv(), "GOROOT="+lines[0]),
		ImportCfg: importcfg, Flags: []string{"-buildmode=exe", "-s", "-w"}, Dir: dir}
}

// newLinker gives one with the real linkers, the preloaded one built.
func newLinker(t testing.TB, o Options) *Linker {
	o.Dir = shared
	if o.Log == nil {
		o.Log = logTo(t.Output())
	}
	l := New(o)
	t.Cleanup(l.Close)
	if _, err := l.tool(stockSpec(t, "", "")); err != nil {
		t.Fatal(err)
	}
	return l
}
