//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bePage is a program without the SDK, as one in another language is: it answers with what a file in its working
// directory says, to the requests that textPage answers.
func bePage() {
	text, err := os.ReadFile("made.txt")
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if ms, _ := strconv.Atoi(r.FormValue("ms")); ms > 0 {
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
		if r.Method == http.MethodPost {
			fmt.Fprintf(w, "%s %d\n", text, n)
			return
		}
		fmt.Fprintf(w, "%s %s\n", text, os.Getenv("MODE"))
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}

// execPage is the page.yaml of a page that is the test binary, with a file that its build makes.
func execPage(t *testing.T) string {
	return fmt.Sprintf(`requires: [sh]
build: [sh, -c, "tr -d '\n' < text.txt > made.txt"]
run: [%s, "127.0.0.1:$TQ_PORT"]
env: {TEST_BE_PAGE: 1, MODE: plain}
`, testBinary(t))
}

// nodePage answers as textPage does.
func nodePage(text string) string {
	return fmt.Sprintf(`import { createServer } from 'node:http'

const server = createServer(async (request, response) => {
  let n = 0
  for await (const piece of request) n += piece.length
  const ms = Number(new URL(request.url, 'http://page').searchParams.get('ms'))
  if (ms) await new Promise(done => setTimeout(done, ms))
  response.end(request.method === 'POST' ? %[1]q + ' ' + n + '\n' : %[1]q + '\n')
})
server.keepAliveTimeout = 0
process.on('SIGTERM', () => { console.log('told to stop'); server.close(() => console.log('stopped')); server.closeIdleConnections() })
server.listen(Number(process.env.TQ_PORT), '127.0.0.1')
`, text)
}

// TestExecSavesUnderLoad saves a page that is no Go source, again and again, while clients of every kind ask it.
func TestExecSavesUnderLoad(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/page.yaml": execPage(t), "pages/index/text.txt": "release 0"})
	s.start()
	l := s.startLoad(everyKind("/"), nil)
	for i := 1; i <= 15; i++ {
		s.write("pages/index/text.txt", fmt.Sprintf("release %d\n", i))
		s.awaitBody("/", fmt.Sprintf("release %d plain", i))
	}
	s.configure("", "default: {env: {MODE: fast}}", "") // what the server's configuration says wins
	s.awaitBody("/", "release 15 fast")
	l.mustHold()
}

// TestNodeSavesUnderLoad does the same with Node.js, and lets each worker end by itself.
func TestNodeSavesUnderLoad(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no Node.js is installed, so its pages were not tried")
	}
	s := newSite(t, map[string]string{"pages/index/page.yaml": "run: [node, server.mjs]\n", "pages/index/server.mjs": nodePage("release 0")})
	s.configure("", "shutdown_grace_period_ms: 20000", "")
	s.start()
	l := s.startLoad(everyKind("/"), nil)
	const saves = 10
	for i := 1; i <= saves; i++ {
		s.write("pages/index/server.mjs", nodePage(fmt.Sprintf("release %d", i)))
		s.awaitBody("/", fmt.Sprintf("release %d", i))
	}
	s.await("all earlier workers to have ended by themselves", func() error {
		if n := strings.Count(s.out.String(), "index | stopped"); n < saves {
			return fmt.Errorf("%d of %d", n, saves)
		}
		return nil
	})
	l.mustHold()
}

// TestNodeSample serves pages/node of this repository.
func TestNodeSample(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no Node.js is installed, so its pages were not tried")
	}
	files := map[string]string{}
	for name, text := range sources(t) {
		if strings.HasPrefix(name, "pages/node/") {
			files[name] = text
		}
	}
	s := newSite(t, files)
	s.start()
	for path, want := range map[string]string{"/node": "Hello from Node.js.", "/node/style.css": "color-scheme", "/node?x=y": "<h1>", "/node//a": "Not found.", "/node/nope": "Not found."} {
		status, body, err := s.get(path)
		if err != nil || (status == 200) == (want == "Not found.") || !strings.Contains(body, want) {
			t.Errorf("%s answers %d %q, %v; want %q", path, status, body, err, want)
		}
	}
	s.write("pages/node/server.mjs", strings.Replace(files["pages/node/server.mjs"], "Hello from Node.js.", "Hello from the test.", 1))
	s.awaitBodyHas("/node", "<h1>Hello from the test.</h1>")
	s.configure("", onSockets, "")
	s.applyConfig()
	s.awaitEndpoint("node", true)
	s.awaitBodyHas("/node", "<h1>Hello from the test.</h1>")
}

// TestExecFaults breaks a page.yaml in every way: the old release serves on, and the place of the fault is shown.
func TestExecFaults(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/page.yaml": execPage(t), "pages/index/text.txt": "good"})
	s.start()
	s.awaitBody("/", "good plain")
	for _, c := range []struct{ recipe, want string }{
		{"runs: [x]\n", `pages/index/page.yaml:1:1: unknown key "runs" (did you mean "run"?)`},
		{"build: [sh, -c, 'echo no luck; exit 3']\nrun: [sh]\n", "pages/index/page.yaml:1:9: build[0]: `sh -c echo no luck; exit 3`: exit status 3\nno luck"},
		{"run: [sh, -c, 'echo out of luck >&2; exit 4']\n", "out of luck"},
	} {
		s.write("pages/index/page.yaml", c.recipe)
		s.await("the fault in the status", func() error {
			if p := s.page("index"); p.State != "serving" || !strings.Contains(p.Error, c.want) {
				return fmt.Errorf("state %s: %s", p.State, p.Error)
			}
			return nil
		})
		s.awaitBody("/", "good plain")
	}
	s.write("pages/index/page.yaml", execPage(t))
	s.await("the status to be clean", func() error {
		if p := s.page("index"); p.Error != "" {
			return errors.New(p.Error)
		}
		return nil
	})
}

// TestExecMissingProgram skips a page, with a notice, and serves the others; until the program is there.
func TestExecMissingProgram(t *testing.T) {
	t.Parallel()
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok"), "pages/p/text.txt": "found"})
	program := s.path("bin/interpreter")
	s.write("pages/p/page.yaml", strings.Replace(execPage(t), "[sh]", "["+program+"]", 1))
	s.start()
	s.awaitBody("/", "ok")
	if p := s.page("p"); p.State != "skipped" || !strings.Contains(p.Error, "pages/p/page.yaml:1:12: requires[0]: "+program+" is not there") {
		t.Errorf("state %s: %s", p.State, p.Error)
	}
	s.awaitStatus("/p", 503)
	s.awaitLog("[WARN]  skipped: pages/p/page.yaml:1:12: ")
	if strings.Contains(s.out.String(), "[ERROR]") {
		t.Error("a page that is skipped is told of as an error")
	}
	out, errs, err := s.run("build")
	if err != nil || !strings.Contains(out, "skipped") || !strings.Contains(out, "install it") {
		t.Errorf("tqserver build: %v\n%s%s", err, out, errs)
	}
	s.write("bin/interpreter", "#!/bin/sh\n")
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, errs, err := s.run("reload"); err != nil {
		t.Errorf("reload: %v: %s", err, errs)
	}
	s.awaitBody("/p", "found plain")
}

// TestBuilderOfPage: the builder for other languages is idle until a page wants it, and a page changes between the two.
func TestBuilderOfPage(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": plainPage("go"), "pages/index/text.txt": "exec"})
	s.start()
	s.awaitBody("/", "go")
	builder := func() string {
		for _, st := range s.status().Stages {
			if st.Plugin == "builtin:exec" {
				return st.State
			}
		}
		return "not there"
	}
	if got := builder(); got != "idle" {
		t.Errorf("without a page for it the builder is %s", got)
	}
	l := s.startLoad([]client{{name: "GET", path: "/", newConn: true, pause: 2 * time.Millisecond}}, nil)
	s.write("pages/index/page.yaml", execPage(t))
	s.awaitBody("/", "exec plain")
	if got := builder(); got != "running" {
		t.Errorf("with a page for it the builder is %s", got)
	}
	if err := os.Remove(s.path("pages/index/page.yaml")); err != nil {
		t.Fatal(err)
	}
	s.awaitBody("/", "go")
	l.mustHold()
}

// TestExecReleaseOutlivesItsSource serves the last good release after a restart with a broken source.
func TestExecReleaseOutlivesItsSource(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/page.yaml": execPage(t), "pages/index/text.txt": "good"})
	s.start()
	s.awaitBody("/", "good plain")
	s.stop()
	s.write("pages/index/page.yaml", "run: {}\n")
	s.write("pages/index/text.txt", "bad")
	s.start()
	s.awaitBody("/", "good plain")
}
