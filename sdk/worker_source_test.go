package sdk

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"
)

const siteTemplate = "../cmd/tqserver/site"

// A site from the template, with WorkerSource beside it, must build without a
// network, and its pages must run.
func TestSiteBuildsOffline(t *testing.T) {
	site := t.TempDir()
	writeSite(t, site)
	writeSDK(t, filepath.Join(site, "third_party", "tqserver"))
	goTool(t, site, "vet", "./...")
	goTool(t, site, "build", "-o", "bin/", "./...")
	if got := fetch(t, site, "hello", "/hello?name=Ada"); got != "Hello, Ada!\n" {
		t.Errorf("GET /hello?name=Ada = %q", got)
	}
	index := fetch(t, site, "index", "/")
	for _, want := range []string{"<h1>Hello from your site.</h1>", "pages/index/main.go", "c0ffee"} {
		if !strings.Contains(index, want) {
			t.Errorf("GET / lacks %q:\n%s", want, index)
		}
	}
}

func TestWorkerSourceIsComplete(t *testing.T) {
	sources, _ := filepath.Glob("worker/*.go")
	templates, _ := filepath.Glob("worker/templates/*.go")
	if len(sources) == 0 || len(templates) == 0 {
		t.Fatalf("find sources: %v, %v", sources, templates)
	}
	for _, source := range append(sources, templates...) {
		want, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		got, err := WorkerSource.ReadFile(source)
		isTest := strings.HasSuffix(source, "_test.go")
		if isTest == (err == nil) {
			t.Errorf("%s: embedded %v; want all sources and no tests", source, err == nil)
		}
		if !isTest && !bytes.Equal(got, want) {
			t.Errorf("%s: embedded text differs", source)
		}
	}
}

func writeSite(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(siteTemplate, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(siteTemplate, path)
		if plain, ok := strings.CutSuffix(name, ".tmpl"); ok {
			name, text = plain, fill(t, path, text)
		}
		return write(filepath.Join(dir, name), text)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, name string, text []byte) []byte {
	t.Helper()
	parsed, err := template.New(name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, map[string]string{"Module": "example.com/site"}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func writeSDK(t *testing.T, dir string) {
	t.Helper()
	err := fs.WalkDir(WorkerSource, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := WorkerSource.ReadFile(path)
		if err != nil {
			return err
		}
		return write(filepath.Join(dir, "sdk", path), text)
	})
	if err == nil {
		err = write(filepath.Join(dir, "go.mod"), []byte("module github.com/tqserver/tqserver\n\ngo 1.26\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

func goTool(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOPROXY=off", "GOWORK=off", "GOTOOLCHAIN=local", "PWD="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// fetch runs a page of the site and returns the body of one response.
func fetch(t *testing.T, site, page, path string) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	ready, announce, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	cmd := exec.Command(filepath.Join(site, "bin", page))
	cmd.Dir, cmd.Stderr = site, os.Stderr
	cmd.Env = []string{fmt.Sprintf("TQ_PORT=%d", port), "TQ_READY_FD=3", "TQ_RELEASE=c0ffee"}
	cmd.ExtraFiles = []*os.File{announce}
	err = cmd.Start()
	announce.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()

	ready.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		t.Fatalf("page %s is not ready: %v", page, err)
	}
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s = %d, %v\n%s", path, res.StatusCode, err, body)
	}
	return string(body)
}
