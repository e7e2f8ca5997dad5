//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// standin gives a plugin for all five stages that was built outside of this module, with the SDK alone, from
// testdata/standin. It is built once for all tests.
func standin(t *testing.T) string {
	t.Helper()
	path, err := builtStandin()
	if err != nil {
		t.Fatalf("build testdata/standin: %v", err)
	}
	return path
}

// standinDir is removed by TestMain.
var standinDir string

var builtStandin = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "standin")
	if err != nil {
		return "", err
	}
	standinDir = dir
	if err := standinModule(dir); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // with an empty build cache
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-ldflags=-s -w", "-o", "standin", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return filepath.Join(dir, "standin"), nil
})

// standinModule makes a module of its own of testdata/standin. It requires what this one does, so that all is in the
// module cache.
func standinModule(dir string) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		return err
	}
	text := strings.Replace(string(mod), "module github.com/tqserver/tqserver", "module example.com/standin", 1)
	if before, tools, ok := strings.Cut(text, "tool ("); ok {
		_, after, _ := strings.Cut(tools, ")\n")
		text = before + after
	}
	text += "\nrequire github.com/tqserver/tqserver v0.0.0\n\nreplace github.com/tqserver/tqserver => " + root + "\n"
	return errors.Join(os.CopyFS(dir, os.DirFS("testdata/standin")),
		os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o644), os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o644))
}

// TestStagesAreSwappedUnderLoad puts a plugin from outside in the place of each default, then of all, and back again:
// what the stage is for works on, and no request fails.
func TestStagesAreSwappedUnderLoad(t *testing.T) {
	use := standin(t)
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("release 0"), "pages/b/main.go": talkPage})
	w := &swap{site: s, use: use}
	s.configure("log_level: warn", "", "")
	s.start()
	l := s.startLoad(everyKind("/"), nil)
	for _, name := range allStages {
		t.Run(name, func(t *testing.T) {
			s.t = t
			defer func() { s.t = w.t }()
			w.swap(name)
			w.works(name)
			w.swap()
			w.works(name)
		})
	}
	s.t = t
	w.swap(allStages...)
	for _, name := range allStages {
		w.works(name)
	}
	w.swap()
	w.works("rotator")
	l.mustHold()
	for _, st := range s.status().Stages {
		if st.Restarts != 0 {
			t.Errorf("the %s was restarted: %s", st.Stage, st.Error)
		}
	}
}

// swap is a site whose plugins are exchanged.
type swap struct {
	*site
	use   string
	swaps int
	ours  bool // the rotator is
}

// swap has the stages in of the stand-in, and all others of the default bundle.
func (w *swap) swap(of ...string) {
	w.t.Helper()
	w.swaps++
	yaml := "file_watcher: {debounce_ms: 20}\n"
	if len(of) > 0 {
		yaml += "plugins:\n"
	}
	want := map[string]string{"resolver": "builtin:fs", "builder": "builtin:go", "watcher": "builtin:fsnotify", "checker": "builtin:http", "rotator": "builtin:file"}
	w.ours = false
	for _, name := range of {
		yaml += fmt.Sprintf("  %s: {use: %s, config: {file: logs/standin.log}}\n", name, w.use)
		want[name] = w.use
		w.ours = w.ours || name == "rotator"
	}
	w.configure("log_level: warn", "", yaml)
	if _, stderr, err := w.run("reload"); err != nil {
		w.t.Fatalf("reload: %v\n%s", err, stderr)
	}
	w.await("the plugins to be exchanged", func() error {
		for _, st := range w.status().Stages {
			if st.State != "idle" && (st.Plugin != want[st.Stage] || st.State != "running") {
				return fmt.Errorf("the %s is %s, %s", st.Stage, st.Plugin, st.State)
			}
		}
		return nil
	})
}

// works does what a stage is needed for.
func (w *swap) works(stage string) {
	w.t.Helper()
	w.swaps++
	switch stage {
	case "resolver":
		name := fmt.Sprint("new", w.swaps)
		w.write("pages/"+name+"/main.go", textPage(name))
		w.awaitBody("/"+name, name)
		if err := os.RemoveAll(w.path("pages/" + name)); err != nil {
			w.t.Fatal(err)
		}
		w.awaitGone("/"+name, name)
	case "builder", "watcher":
		w.save()
	case "checker":
		w.noticesDeath()
		w.noticesDeafness()
	case "rotator":
		w.stores()
	}
}

// awaitGone waits until a page does not answer for its path: that of "/" does.
func (w *swap) awaitGone(path, text string) {
	w.t.Helper()
	w.await(path+" to be gone", func() error {
		if status, body, err := w.get(path); err != nil || status != 200 || strings.TrimSpace(body) == text {
			return fmt.Errorf("it answers %d %.80q, %w", status, body, err)
		}
		return nil
	})
}

// save breaks the page under load, which is told and does no harm, and changes it.
func (w *swap) save() {
	w.t.Helper()
	w.write("pages/index/main.go", "package main\n\nfunc main() { nonsense() }\n")
	w.await("the fault to be told", func() error {
		if p := w.page("index"); !strings.Contains(p.Error, "nonsense") || p.State != "serving" {
			return fmt.Errorf("the page is %s: %s", p.State, p.Error)
		}
		return nil
	})
	text := fmt.Sprint("release ", w.swaps)
	w.write("pages/index/main.go", textPage(text))
	w.awaitBody("/", text)
}

// noticesDeath kills a worker: the next one is reported healthy, which only the checker can.
func (w *swap) noticesDeath() {
	w.t.Helper()
	pid := w.page("b").Workers[0].PID
	w.signal(pid, syscall.SIGKILL)
	w.awaitHealthy(pid)
}

// noticesDeafness has a worker live on without listening, and asks it nothing.
func (w *swap) noticesDeafness() {
	w.t.Helper()
	pid := w.page("b").Workers[0].PID
	w.awaitBody("/b?deaf=1", "b")
	w.awaitHealthy(pid)
}

// awaitHealthy waits for another worker of b that was reported healthy.
func (w *swap) awaitHealthy(old int) {
	w.t.Helper()
	w.await("another worker that is healthy", func() error {
		all := w.page("b").Workers
		if len(all) != 1 || all[0].PID == old || all[0].State != "serving" || all[0].Healthy == nil || !*all[0].Healthy {
			return fmt.Errorf("workers: %+v", all)
		}
		return nil
	})
}

// stores has a page log a line, which is stored once.
func (w *swap) stores() {
	w.t.Helper()
	line := fmt.Sprintf("line %d of the page", w.swaps)
	if status, _, err := w.get("/b?say=" + strings.ReplaceAll(line, " ", "+")); err != nil || status != 200 {
		w.t.Fatalf("page b: %d, %v", status, err)
	}
	ours, theirs := w.path("logs/standin.log"), w.path("logs/b")
	w.await("the line in the log", func() error {
		text, _ := os.ReadFile(ours)
		got := [2]int{strings.Count(string(text), line), strings.Count(readAll(w.t, theirs), line)}
		want := [2]int{0, 1}
		if w.ours {
			want = [2]int{1, 0}
		}
		if got != want {
			return fmt.Errorf("it is there %v times in the file of the stand-in and of the default, want %v", got, want)
		}
		return nil
	})
}

// talkPage logs what it is asked to, and goes deaf when asked to: it then listens no more, but lives.
const talkPage = `package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	lis, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("TQ_PORT"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) })
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if line := r.FormValue("say"); line != "" {
			log.Println(line)
		}
		if r.FormValue("deaf") != "" {
			w.Header().Set("Connection", "close")
			lis.Close()
		}
		fmt.Fprintln(w, "b")
	})
	_ = http.Serve(lis, nil)
	select {}
}
`
