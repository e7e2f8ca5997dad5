//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/sdk"
)

// TestPagesCannotSpeakToPlugins has a page, which runs as the same user, try every socket of the machine: with plain
// HTTP/2, and with TLS and a certificate that it makes itself.
func TestPagesCannotSpeakToPlugins(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("one"), "pages/spy/main.go": spyPage})
	s.start()
	before := s.status().Stages
	sockets := 0
	for range 3 {
		sockets = 0
		_, report, err := s.get("/spy?sockets=" + filepath.Dir(s.controlSocket()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(report) {
			if !strings.Contains(line, "/plugin-dir") {
				continue
			}
			if sockets++; strings.Count(line, ": refused") != 2 {
				t.Errorf("a plugin lets a page in: %s", line)
			}
		}
		if sockets != len(allStages) {
			t.Fatalf("the page has found %d sockets of plugins, want %d:\n%s", sockets, len(allStages), report)
		}
	}
	s.write("pages/index/main.go", textPage("two"))
	s.awaitBody("/", "two")
	for i, st := range s.status().Stages {
		if st.State != "idle" && (st.PID != before[i].PID || st.State != "running") {
			t.Errorf("the %s has suffered: %+v", st.Stage, st)
		}
	}
}

func (s *site) controlSocket() string {
	s.t.Helper()
	c, err := control.Find(s.path(".tqserver"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c.Socket
}

// TestOthersCannotConnect: the sockets and directories are the user's alone, by their modes and for a process of
// another user.
func TestOthersCannotConnect(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	tmp := publicDir(t)
	s.environ = []string{"TMPDIR=" + tmp, "XDG_RUNTIME_DIR="}
	s.start()
	s.awaitBody("/", "ok")
	run := filepath.Dir(s.controlSocket())
	releases, err := filepath.Glob(filepath.Join(filepath.Dir(s.dir), "bin", "*"))
	if err != nil || len(releases) != 1 {
		t.Fatalf("directories of releases: %q, %v", releases, err)
	}
	plugins, err := filepath.Glob(filepath.Join(run, "plugin-dir*", "plugin*"))
	if err != nil || len(plugins) != len(allStages) {
		t.Fatalf("sockets of plugins: %q, %v", plugins, err)
	}
	for _, dir := range append(releases, run, s.path(".tqserver")) {
		wantMode(t, dir, os.ModeDir|0o700)
	}
	wantMode(t, s.controlSocket(), os.ModeSocket|0o600)
	for _, p := range plugins {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s: %v, %v, want it to be writable for its user only", p, info.Mode(), err)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root can try it as another user")
	}
	open := filepath.Join(tmp, "open") // shows that another user could connect where it may
	lis, err := net.Listen("unix", open)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if err := errors.Join(os.Chmod(open, 0o777), connectAsNobody(open)); err != nil {
		t.Fatalf("a socket that is open to all: %v", err)
	}
	for _, socket := range append(plugins, s.controlSocket()) {
		if err := connectAsNobody(socket); !errors.Is(err, unix.EACCES) {
			t.Errorf("%s, as another user: %v, want %v", socket, err, unix.EACCES)
		}
	}
	for dir := run; dir != tmp; dir = filepath.Dir(dir) { // the socket's own mode holds, too
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := connectAsNobody(s.controlSocket()); !errors.Is(err, unix.EACCES) {
		t.Errorf("the control socket in an open directory, as another user: %v, want %v", err, unix.EACCES)
	}
}

// publicDir is one that every user can enter, with a path that is short enough for sockets.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s has the mode %v, want %v", path, info.Mode(), want)
	}
}

// connectAsNobody connects to a unix socket on a thread that has the file permissions of the user nobody, and ends with
// it.
func connectAsNobody(path string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- func() error {
			const nobody = 65534
			if _, err := unix.SetfsgidRetGid(nobody); err != nil {
				return fmt.Errorf("become nobody: %w", err)
			}
			if _, err := unix.SetfsuidRetUid(nobody); err != nil {
				return fmt.Errorf("become nobody: %w", err)
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("make a socket: %w", err)
			}
			defer unix.Close(fd)
			return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}()
	}()
	return <-result
}

// TestPluginsSeeOnlyWhatIsAllowed gives the server secrets in its environment: no plugin and no worker sees them, and
// what one sees beyond the list is what the configuration names.
func TestPluginsSeeOnlyWhatIsAllowed(t *testing.T) {
	use := standin(t)
	s := newSite(t, map[string]string{"pages/index/main.go": textPage("ok")})
	s.environ = []string{"AWS_SECRET_ACCESS_KEY=hunter2", "DATABASE_URL=postgres://hunter2", "PLUGIN_CLIENT_CERT=hunter2",
		"PASSED=on", "LC_ALL=C", "GOFLAGS=-mod=mod"}
	yaml := "plugins:\n"
	for _, stage := range allStages {
		yaml += fmt.Sprintf("  %s: {use: %s, env: {PASSED: ~, OWN: %q, ABSENT: ~}, config: {environ: %s}}\n", stage, use, "for the "+stage, s.path(stage+".env"))
	}
	s.configure("", "", yaml)
	s.start()
	s.awaitBody("/", "ok")
	for _, stage := range allStages {
		environ := readEnviron(t, s.path(stage+".env"))
		for _, want := range []string{"PASSED=on", "OWN=for the " + stage, "LC_ALL=C"} {
			if !slices.Contains(environ, want) {
				t.Errorf("the %s misses %s", stage, want)
			}
		}
		if got := slices.Contains(environ, "GOFLAGS=-mod=mod"); got != (stage == "builder") {
			t.Errorf("the %s has GOFLAGS: %v", stage, got)
		}
		onlyAllowed(t, stage, environ, pluginAllowed(stage, "OWN", "PASSED"))
	}
	s.configure("", "", "")
	if _, stderr, err := s.run("reload"); err != nil {
		t.Fatalf("reload: %v\n%s", err, stderr)
	}
	for _, stage := range allStages {
		s.await("the default "+stage+" to run", func() error {
			if st := s.stage(stage); st.State != "running" || !strings.HasPrefix(st.Plugin, "builtin:") {
				return fmt.Errorf("it is %s, %s", st.Plugin, st.State)
			}
			return nil
		})
		onlyAllowed(t, stage, environOf(t, s.stage(stage).PID), pluginAllowed(stage))
	}
	onlyAllowed(t, "worker", environOf(t, s.page("index").Workers[0].PID), []string{"TQ_", "GOMAXPROCS", "GOMEMLIMIT", "GOGC"})
}

// pluginAllowed is what the handshake adds; a builder has what the go command uses.
func pluginAllowed(stage string, more ...string) []string {
	allowed := append(more, sdk.Handshake.MagicCookieKey, "PLUGIN_")
	switch stage {
	case "rotator":
		return append(allowed, "TQSERVER_STDOUT_FD") // one may write to the server's own standard output
	case "builder":
		return append(allowed, "GO", "CGO_", "XDG_CACHE_HOME", "CC", "CXX", "PKG_CONFIG",
			"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
	}
	return allowed
}

// onlyAllowed fails the test for a variable that nobody is to see, or whose name does not begin like one that is allowed.
func onlyAllowed(t *testing.T, who string, environ, allowed []string) {
	t.Helper()
	allowed = append([]string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_", "TZ", "TMPDIR", "SSL_CERT_"}, allowed...)
	if len(environ) < 3 {
		t.Errorf("the environment of the %s is not known: %q", who, environ)
	}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if strings.Contains(value, "hunter2") || !slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(name, a) }) {
			t.Errorf("the %s sees %s", who, entry)
		}
	}
}

// environOf is what a process was started with.
func environOf(t *testing.T, pid int) []string {
	t.Helper()
	return readEnviron(t, fmt.Sprintf("/proc/%d/environ", pid))
}

func readEnviron(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// spyPage tells of each unix socket below a directory whether it speaks HTTP/2, without and with TLS.
const spyPage = `package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// preface is how a client of HTTP/2 begins: with empty settings.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

func main() {
	cert, err := selfMade()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) })
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		all, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		seen := map[string]bool{}
		for line := range strings.Lines(string(all)) {
			fields := strings.Fields(line)
			path := fields[len(fields)-1]
			if seen[path] || !strings.HasPrefix(path, r.FormValue("sockets")) {
				continue
			}
			seen[path] = true
			fmt.Fprintf(w, "%s plain: %s, TLS: %s\n", path, try(path, nil), try(path, &cert))
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("TQ_PORT"), nil))
}

func try(path string, cert *tls.Certificate) string {
	conn, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return "unreachable (" + err.Error() + ")"
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if cert != nil {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2"}})
	}
	if _, err := io.WriteString(conn, preface); err != nil {
		return "refused (" + err.Error() + ")"
	}
	settings := make([]byte, 9)
	_, err = io.ReadFull(conn, settings)
	if err == nil && settings[3] == 4 { // type of the frame: SETTINGS
		return "spoken to"
	}
	if err, ok := err.(net.Error); ok && err.Timeout() {
		return "silence"
	}
	return fmt.Sprintf("refused (%v)", err)
}

func selfMade() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
`
