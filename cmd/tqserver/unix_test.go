//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tqserver/tqserver/kernel/control"
)

const onSockets = "default: {endpoint: unix}"

// awaitEndpoint waits until a page is served by a worker on a socket, or on a port, and gives it.
func (s *site) awaitEndpoint(page string, socket bool) (found control.Worker) {
	s.t.Helper()
	s.await("the worker of "+page+" to have another endpoint", func() error {
		workers := s.page(page).Workers
		for _, w := range workers {
			if w.State == "serving" && (w.Socket != "") == socket && (w.Port != 0) != socket {
				found = w
				return nil
			}
		}
		return fmt.Errorf("workers are %+v", workers)
	})
	return found
}

// applyConfig has the server read its configuration again, which must be good.
func (s *site) applyConfig() {
	s.t.Helper()
	if _, stderr, err := s.run("reload"); err != nil {
		s.t.Fatalf("reload: %v\n%s", err, stderr)
	}
}

// sockets are the paths in the directory of a worker's socket.
func sockets(t *testing.T, w control.Worker) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(filepath.Dir(w.Socket), "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wherePage answers with what it listens on and who asks.
const wherePage = `package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/tqserver/tqserver/sdk/worker"
)

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		_, port := os.LookupEnv("TQ_PORT")
		fmt.Fprintln(w, host, err, r.Header.Get("X-Forwarded-For"), runtime.Socket, port)
	})
	log.Fatal(runtime.StartServer(nil))
}
`

// TestWorkersOnSockets: a page that says so is served over a socket that is its user's alone, another over a port. The
// path of the socket stays short in a deep TMPDIR.
func TestWorkersOnSockets(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("on a port"), "pages/where/main.go": wherePage})
	deep := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	s.environ = []string{"TMPDIR=" + deep, "XDG_RUNTIME_DIR=" + deep}
	s.configure("", "paths: {/where: {endpoint: unix}}", "plugins:\n  checker: {config: {interval_ms: 50}}\n")
	s.start()
	s.awaitBody("/", "on a port")
	w := s.awaitEndpoint("where", true)
	s.awaitBody("/where", "127.0.0.1 <nil> 127.0.0.1 "+w.Socket+" false")
	s.awaitEndpoint("index", false)
	for path, mode := range map[string]fs.FileMode{w.Socket: fs.ModeSocket | 0o600, filepath.Dir(w.Socket): fs.ModeDir | 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
	s.await("the checker to find it well", func() error {
		if h := s.page("where").Workers[0].Healthy; h == nil || !*h {
			return errors.New("not yet")
		}
		return nil
	})
	s.awaitLog("socket=" + w.Socket)
	if out, stderr, err := s.run("status"); err != nil || !strings.Contains(out, " "+filepath.Base(w.Socket)+" ") {
		t.Errorf("status: %v, %s\n%s", err, stderr, out)
	}
	s.stop()
	if left := sockets(t, w); len(left) > 0 {
		t.Errorf("after the server %v are left", left)
	}
}

// TestEndpointChangesUnderLoad: a reload moves a page from its port to a socket and back, and each save to the next
// socket, without a failed request.
func TestEndpointChangesUnderLoad(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("release 0")})
	s.start()
	s.awaitBody("/", "release 0")
	l := s.startLoad(everyKind("/"), nil)
	var last control.Worker
	for round, yaml := range []string{onSockets, "", onSockets} {
		s.configure("", yaml, "")
		s.applyConfig()
		s.await("requests to it", func() error {
			if last = s.awaitEndpoint("index", yaml != ""); last.Requests < 100 {
				return fmt.Errorf("%d so far", last.Requests)
			}
			return nil
		})
		text := fmt.Sprint("release ", round+1)
		s.write("pages/index/main.go", textPage(text))
		s.awaitBody("/", text)
	}
	l.mustHold()
	s.await("the sockets of workers that have left to be gone", func() error {
		if all, n := sockets(t, last), len(s.page("index").Workers); len(all) > n {
			return fmt.Errorf("there are %v for %d workers", all, n)
		}
		return nil
	})
	if now := s.awaitEndpoint("index", true); now.Socket == last.Socket {
		t.Errorf("two workers had the socket %s", now.Socket)
	}
}

// TestWorkerOnSocketIsRestarted after a crash, and after its socket was removed; and what a killed server leaves is no
// obstacle for the next.
func TestWorkerOnSocketIsRestarted(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.configure("", onSockets, "plugins:\n  checker: {config: {interval_ms: 50}}\n")
	s.start()
	s.awaitBody("/", "ok")
	for name, harm := range map[string]func(control.Worker){
		"killed":         func(w control.Worker) { s.signal(w.PID, syscall.SIGKILL) },
		"socket removed": func(w control.Worker) { _ = os.Remove(w.Socket) },
	} {
		old := s.awaitEndpoint("index", true)
		harm(old) // the proxy's connections outlive the socket: it is the checker that finds that there are no new ones
		s.await("another worker, "+name, func() error {
			for _, w := range s.page("index").Workers {
				if w.State == "serving" && w.PID != old.PID {
					return nil
				}
			}
			return errors.New("none yet")
		})
		s.awaitBody("/", "ok")
		s.await("its socket to be removed, "+name, func() error {
			if _, err := os.Lstat(old.Socket); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %v", old.Socket, err)
			}
			return nil
		})
	}
	old := s.awaitEndpoint("index", true)
	s.kill()
	if _, err := os.Lstat(old.Socket); err != nil {
		t.Fatalf("a killed server cannot have removed a socket: %v", err)
	}
	s.start()
	s.awaitBody("/", "ok")
	now := s.awaitEndpoint("index", true)
	if all := sockets(t, now); len(all) != 1 || all[0] != now.Socket {
		t.Errorf("sockets are %v, want %s alone", all, now.Socket)
	}
}

// TestPageWithoutTheSDKOnASocket: a page that knows only TQ_PORT gets no socket, with a word about what to do, however it
// takes it that there is no port, and its old worker serves on; one that knows TQ_SOCKET is moved there.
func TestPageWithoutTheSDKOnASocket(t *testing.T) {
	ends := strings.Replace(plainPage("ends"), "func main() {", "func main() {\n\tif os.Getenv(\"TQ_PORT\") == \"\" {\n\t\tlog.Fatal(\"no port\")\n\t}", 1)
	s := newSite(t, map[string]string{"pages/deaf/main.go": plainPage("deaf"), "pages/ends/main.go": ends, "pages/own/main.go": ownSocketPage})
	s.start()
	served := func() {
		for _, name := range []string{"deaf", "ends", "own"} {
			s.awaitBody("/"+name, name)
		}
	}
	served()
	s.configure("", "ready_timeout_ms: 2000\n"+onSockets, "")
	s.applyConfig()
	s.awaitEndpoint("own", true)
	for _, name := range []string{"deaf", "ends"} {
		s.await("word about "+name, func() error {
			text := s.page(name).Error
			for _, want := range []string{"workers.endpoint is unix", "sdk/worker", "endpoint: tcp", "workers.paths"} {
				if !strings.Contains(text, want) {
					return fmt.Errorf("the error is %q", text)
				}
			}
			return nil
		})
	}
	served()
	s.configure("", "paths: {/own: {endpoint: unix}}", "")
	s.applyConfig()
	s.await("the pages to be well", func() error {
		for _, p := range s.status().Pages {
			if p.Error != "" || p.State != "serving" {
				return fmt.Errorf("%s is %s: %s", p.Name, p.State, p.Error)
			}
		}
		return nil
	})
	served()
}

// ownSocketPage uses no SDK.
const ownSocketPage = `package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	network, addr := "tcp", "127.0.0.1:"+os.Getenv("TQ_PORT")
	if path, ok := os.LookupEnv("TQ_SOCKET"); ok {
		network, addr = "unix", path
	}
	lis, err := net.Listen(network, addr)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "own") })
	log.Fatal(http.Serve(lis, nil))
}
`
